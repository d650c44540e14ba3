// Products with weights, norms, rotation.
#include <cmath>

#include "backend/cpu_backend_impl.h"
#include "base/error.h"

namespace pith {
namespace {

constexpr int64_t kWeightRows = 32;    // a whole panel of the kernels
constexpr int64_t kTurnedRows = 1024;  // cosines and sines kept at a time: 0.5 MiB at 64 pairs

}  // namespace

void CpuBackend::embed(const WeightMatrix& table, std::span<const int32_t> tokens, float scale,
                       Mat out) {
  PITH_CHECK(out.dim[0] == static_cast<int64_t>(tokens.size()) && out.dim[1] == table.cols,
             "an embedding has a row per token");
  const size_t bytes = row_bytes(table.dtype, table.cols);
  split(out.dim[0], table.cols, [&](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r) {
      const int32_t token = tokens[static_cast<size_t>(r)];
      PITH_CHECK(token >= 0 && token < table.rows, "a token is in the vocabulary");
      const std::span<float> x = out.row(r);
      table_.dequantise(table.dtype, table.data + static_cast<size_t>(token) * bytes, table.cols,
                        x.data());
      if (scale != 1)
        for (float& y : x) y *= scale;
    }
  });
}

void CpuBackend::matmul(ConstMat x, const WeightMatrix& w, Mat out) {
  const int64_t m = x.dim[0];
  PITH_CHECK(x.dim[1] == w.cols && out.dim[0] == m && out.dim[1] == w.rows,
             "a product's shapes fit together");
  if (m == 0 || w.rows == 0) return;
  reserve(table_.matmul_scratch(w.cols));

  // Tasks take whole panels of weight rows. Where there are too few panels for the threads, as in
  // the small projections of keys, activation rows are shared out too.
  const int64_t products = m * w.rows * w.cols;
  const int64_t wanted =
      std::clamp<int64_t>(products / (16 * kLeastTask), 1, int64_t{8} * threads_.count());
  const int64_t panels = (w.rows + kWeightRows - 1) / kWeightRows;
  const int64_t across = std::min(panels, wanted);
  const int64_t down = std::clamp<int64_t>(wanted / across, 1, std::max<int64_t>(1, m / 64));
  threads_.for_each(across * down, [&](int64_t task, int worker) {
    const int64_t column = task / down, part = task % down;
    MatmulJob job{};
    job.dtype = w.dtype;
    job.w = w.data;
    job.cols = w.cols;
    job.row0 = panels * column / across * kWeightRows;
    job.rows = std::min(w.rows, panels * (column + 1) / across * kWeightRows) - job.row0;
    const int64_t first = m * part / down;
    job.m = m * (part + 1) / down - first;
    job.x = x.data + first * x.stride[0];
    job.x_stride = x.stride[0];
    job.out = out.data + first * out.stride[0];
    job.out_stride = out.stride[0];
    job.scratch = scratch(worker);
    table_.matmul(job);
  });
}

void CpuBackend::rms_norm(ConstMat x, std::span<const float> gain, float eps, Mat out) {
  PITH_CHECK(x.dim == out.dim && static_cast<int64_t>(gain.size()) == x.dim[1],
             "a norm has a gain per feature");
  split(x.dim[0], x.dim[1] / 2, [&](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r)
      table_.rms_norm(x.row(r).data(), gain.data(), eps, x.dim[1], out.row(r).data());
  });
}

void CpuBackend::layer_norm(ConstMat x, std::span<const float> gain, std::span<const float> bias,
                            float eps, Mat out) {
  PITH_CHECK(x.dim == out.dim && static_cast<int64_t>(gain.size()) == x.dim[1] &&
                 (bias.empty() || bias.size() == gain.size()),
             "a norm has a gain per feature");
  split(x.dim[0], x.dim[1], [&](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r)
      table_.layer_norm(x.row(r).data(), gain.data(), bias.empty() ? nullptr : bias.data(), eps,
                        x.dim[1], out.row(r).data());
  });
}

void CpuBackend::fill_turns(std::span<const int32_t> positions, const Rope& rope, int turn) {
  Turns& t = turns_;
  if (t.turn == turn && t.magnitude == rope.magnitude &&
      std::ranges::equal(t.inv_freq, rope.inv_freq) && std::ranges::equal(t.positions, positions))
    return;
  t.positions.assign(positions.begin(), positions.end());
  t.inv_freq.assign(rope.inv_freq.begin(), rope.inv_freq.end());
  t.magnitude = rope.magnitude;
  t.turn = turn;
  const size_t pairs = rope.inv_freq.size();
  t.cos.resize(positions.size() * pairs);
  t.sin.resize(positions.size() * pairs);
  // Angles reach millions of turns, so they are products of doubles: a float would be off by whole
  // radians. The way back divides by the magnitude, which makes it the inverse.
  const double size = turn > 0 ? rope.magnitude : 1.0 / rope.magnitude;
  split(
      static_cast<int64_t>(positions.size()), static_cast<int64_t>(40 * pairs),
      [&](int64_t first, int64_t last, int) {
        for (int64_t r = first; r < last; ++r)
          for (size_t i = 0; i < pairs; ++i) {
            const double angle =
                turn * static_cast<double>(positions[static_cast<size_t>(r)]) * rope.inv_freq[i];
            t.cos[static_cast<size_t>(r) * pairs + i] = static_cast<float>(size * std::cos(angle));
            t.sin[static_cast<size_t>(r) * pairs + i] = static_cast<float>(size * std::sin(angle));
          }
      });
}

void CpuBackend::rope(Cube heads, std::span<const int32_t> positions, const Rope& rope, int turn) {
  const size_t pairs = rope.inv_freq.size();
  PITH_CHECK(heads.dim[0] == static_cast<int64_t>(positions.size()), "every row has a position");
  PITH_CHECK(turn == 1 || turn == -1, "a rotation goes forwards or back");
  PITH_CHECK(static_cast<int64_t>(2 * pairs) <= heads.dim[2], "a rotation fits into a head");
  if (pairs == 0) return;
  for (int64_t row0 = 0; row0 < heads.dim[0]; row0 += kTurnedRows) {
    const int64_t rows = std::min(kTurnedRows, heads.dim[0] - row0);
    fill_turns(positions.subspan(static_cast<size_t>(row0), static_cast<size_t>(rows)), rope, turn);
    split(rows, heads.dim[1] * static_cast<int64_t>(pairs) / 2,
          [&](int64_t first, int64_t last, int) {
            for (int64_t r = first; r < last; ++r)
              for (int64_t h = 0; h < heads.dim[1]; ++h)
                table_.rotate(heads[row0 + r].row(h).data(),
                              turns_.cos.data() + static_cast<size_t>(r) * pairs,
                              turns_.sin.data() + static_cast<size_t>(r) * pairs,
                              static_cast<int>(pairs), rope.half_split);
          });
  }
}

}  // namespace pith

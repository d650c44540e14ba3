// Products with weights, norms, rotation.
#include <cmath>

#include "backend/cpu_backend_impl.h"
#include "base/error.h"

namespace pith {
namespace {

constexpr int64_t kWeightRows = 32;      // a whole panel of the kernels
constexpr int64_t kCodedPanel = 32;      // whole panels of the kernels for coded activations
constexpr size_t kMostCoded = 16 << 20;  // bytes of coded activations
constexpr size_t kLine = 64;
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
  multiply(x, w, out, traits(w.dtype).block_elements > 1);
}

void CpuBackend::matmul_prompt(ConstMat x, const WeightMatrix& w, Mat out) {
  const bool halves = table_.codes_halves && (w.dtype == DType::f16 || w.dtype == DType::bf16) &&
                      w.cols > 0 && w.cols % 32 == 0;
  multiply(x, w, out, halves || traits(w.dtype).block_elements > 1);
}

void CpuBackend::multiply(ConstMat x, const WeightMatrix& w, Mat out, bool coded) {
  PITH_CHECK(x.dim[1] == w.cols && out.dim[0] == x.dim[0] && out.dim[1] == w.rows,
             "a product's shapes fit together");
  if (x.dim[0] == 0 || w.rows == 0) return;
  if (coded && matmul_ == MatmulForm::int8)
    coded_matmul(x, w, out);
  else
    plain_matmul(x, w, out);
}

namespace {

// Tasks take whole panels of weight rows. Where there are too few panels for the threads, as in the
// small projections of keys, activation rows are shared out too, `multiple` of them at a time.
struct Cut {
  int64_t panel_rows, panels, across, down, multiple, groups;

  Cut(const WeightMatrix& w, int64_t m, int64_t panel_rows, int64_t multiple, int64_t tasks)
      : panel_rows(panel_rows),
        panels((w.rows + panel_rows - 1) / panel_rows),
        across(std::min(panels, tasks)),
        down(std::clamp<int64_t>(tasks / across, 1, std::max<int64_t>(1, m / 64))),
        multiple(multiple),
        groups((m + multiple - 1) / multiple) {}
  int64_t tasks() const { return across * down; }
  int64_t row(int64_t column) const { return panels * column / across * panel_rows; }
  int64_t group(int64_t part) const { return groups * part / down; }
};

}  // namespace

void CpuBackend::plain_matmul(ConstMat x, const WeightMatrix& w, Mat out) {
  const int64_t m = x.dim[0];
  reserve(table_.matmul_scratch(w.cols));
  const int64_t products = m * w.rows * w.cols;
  const Cut cut(
      w, m, kWeightRows, 1,
      std::clamp<int64_t>(products / (16 * kLeastTask), 1, int64_t{8} * threads_.count()));
  threads_.for_each(cut.tasks(), [&](int64_t task, int worker) {
    const int64_t column = task / cut.down, first = cut.group(task % cut.down);
    MatmulJob job{};
    job.dtype = w.dtype;
    job.w = w.data;
    job.cols = w.cols;
    job.row0 = cut.row(column);
    job.rows = std::min(w.rows, cut.row(column + 1)) - job.row0;
    job.m = cut.group(task % cut.down + 1) - first;
    job.x = x.data + first * x.stride[0];
    job.x_stride = x.stride[0];
    job.out = out.data + first * out.stride[0];
    job.out_stride = out.stride[0];
    job.scratch = scratch(worker);
    table_.matmul(job);
  });
}

std::byte* CpuBackend::reserve_coded(size_t bytes) {
  bytes += kLine;
  if (bytes > coded_bytes_) {
    coded_.reset();
    coded_ = std::make_unique_for_overwrite<std::byte[]>(bytes);
    coded_bytes_ = bytes;
  }
  return coded_.get() + (kLine - reinterpret_cast<uintptr_t>(coded_.get()) % kLine);
}

// Activations are coded once for all threads, as many rows at a time as kMostCoded holds.
void CpuBackend::coded_matmul(ConstMat x, const WeightMatrix& w, Mat out) {
  const size_t group_bytes = table_.coded_bytes(w.dtype, kCodedRows, w.cols);
  const int64_t most =
      std::max<int64_t>(1, static_cast<int64_t>(kMostCoded / group_bytes)) * kCodedRows;
  reserve(table_.coded_scratch());
  std::byte* const coded =
      reserve_coded(table_.coded_bytes(w.dtype, std::min(x.dim[0], most), w.cols));
  for (int64_t row0 = 0; row0 < x.dim[0]; row0 += most) {
    const int64_t m = std::min(most, x.dim[0] - row0);
    split(
        m, w.cols / 2,
        [&](int64_t first, int64_t last, int) {
          table_.code_activations(w.dtype, x.data + (row0 + first) * x.stride[0], x.stride[0],
                                  last - first, w.cols,
                                  coded + static_cast<size_t>(first / kCodedRows) * group_bytes);
        },
        kCodedRows);
    // Few rows wait for memory (16 weights or so in a nanosecond), many for arithmetic.
    const int64_t nanoseconds = w.rows * w.cols / 16 + m * w.rows * w.cols / 64;
    const Cut cut(w, m, kCodedPanel, kCodedRows,
                  std::clamp<int64_t>(nanoseconds / kLeastTask, 1, int64_t{8} * threads_.count()));
    threads_.for_each(cut.tasks(), [&](int64_t task, int worker) {
      const int64_t column = task / cut.down, group = cut.group(task % cut.down);
      CodedJob job{};
      job.dtype = w.dtype;
      job.w = w.data;
      job.cols = w.cols;
      job.row0 = cut.row(column);
      job.rows = std::min(w.rows, cut.row(column + 1)) - job.row0;
      const int64_t first = group * kCodedRows;
      job.m = std::min(m, cut.group(task % cut.down + 1) * kCodedRows) - first;
      job.x = coded + static_cast<size_t>(group) * group_bytes;
      job.out = out.data + (row0 + first) * out.stride[0];
      job.out_stride = out.stride[0];
      job.scratch = scratch(worker);
      table_.matmul_coded(job);
    });
  }
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

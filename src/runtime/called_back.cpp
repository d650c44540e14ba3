#include "runtime/called_back.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "base/parallel.h"
#include "runtime/forward.h"

namespace pith {

RowsByPosition::RowsByPosition(const HeadCache& head, int dim) {
  const auto rows = static_cast<size_t>(head.rows()), width = static_cast<size_t>(dim);
  const std::span<const int32_t> positions = head.positions();
  std::vector<int> order(rows);
  std::iota(order.begin(), order.end(), 0);
  std::ranges::sort(order, {}, [&](int row) { return positions[static_cast<size_t>(row)]; });
  k_.resize(rows * width);
  v_.resize(rows * width);
  for (size_t at = 0; at < rows;) {
    size_t run = 1;
    while (at + run < rows && order[at + run] == order[at] + static_cast<int>(run)) ++run;
    head.copy_keys(order[at], static_cast<int>(run), k_.data() + at * width);
    head.copy_values(order[at], static_cast<int>(run), v_.data() + at * width);
    at += run;
  }
  for (const int row : order) positions_.push_back(positions[static_cast<size_t>(row)]);
  for (size_t first = 0; first < rows; first += kPageRows) {
    k_pages_.push_back(reinterpret_cast<const std::byte*>(k_.data() + first * width));
    v_pages_.push_back(reinterpret_cast<const std::byte*>(v_.data() + first * width));
  }
}

PagedHead RowsByPosition::up_to(int32_t position) const {
  PagedHead head;
  head.open_k = k_pages_;
  head.open_v = v_pages_;
  head.open_quant = Quant::f32;
  head.open_rows =
      static_cast<int>(std::ranges::upper_bound(positions_, position) - positions_.begin());
  head.page_rows = kPageRows;
  head.positions = positions_;
  return head;
}

// The layer's keys and values of tokens that were called back join its heads; then the tokens pass
// through the layer, each reading what lies at its own or smaller positions.
void Forward::run_called_back(Session& session, int layer, CalledBack& back) {
  const ModelConfig& config = model_.config();
  const KvShape& s = config.shape;
  const LayerWeights& w = model_.weights().layers[layer];
  if (back.tokens() == 0) return;
  const Mat all = back.states(s.width);
  const auto each_part = [&](auto run) {
    for (int first = 0; first < back.tokens(); first += tile_rows_) {
      const int rows = std::min(tile_rows_, back.tokens() - first);
      const Mat x{all.data + first * all.stride[0], {rows, s.width}, all.stride};
      Mat normed = a_.normed;
      normed.dim[0] = rows;
      norm(x, w.attn_norm, w.attn_norm_bias, normed);
      run(first, x, normed);
    }
  };
  size_t plain = 0;
  for (int h = 0; h < s.heads; ++h) {
    session.store->at(layer, h).hold(back.tokens() + 1);  // and the generated token
    plain += 2 * (static_cast<size_t>(session.store->at(layer, h).rows()) + back.positions.size()) *
             static_cast<size_t>(s.dim);
  }
  const StepMemory memory(session.pool, (plain + back.hidden.size()) * sizeof(float));
  each_part([&](int first, Mat x, Mat normed) {
    const auto positions = std::span(back.positions).subspan(first, x.dim[0]);
    const Cube k = heads(a_.k, x.dim[0], s.heads), v = heads(a_.v, x.dim[0], s.heads);
    project_kv(layer, normed, positions, k, v, {});
    for (int64_t r = 0; r < x.dim[0]; ++r)
      for (int h = 0; h < s.heads; ++h)
        session.store->at(layer, h).append(k[r].row(h), v[r].row(h), positions[r]);
  });
  if (layer + 1 == s.layers) return;  // nobody reads what comes out

  std::vector<RowsByPosition> rows;
  rows.reserve(static_cast<size_t>(s.heads));
  for (int h = 0; h < s.heads; ++h)
    rows.emplace_back(std::as_const(*session.store).at(layer, h), s.dim);
  each_part([&](int first, Mat x, Mat normed) {
    const auto positions = std::span(back.positions).subspan(first, x.dim[0]);
    const Cube q = heads(a_.q, x.dim[0], s.query_heads),
               attended = heads(a_.attended, x.dim[0], s.query_heads);
    project_q(layer, normed, positions, q, {});
    std::vector<HeadAttention> jobs;
    for (int64_t r = 0; r < x.dim[0]; ++r)
      for (int h = 0; h < s.heads; ++h) {
        const auto group = [&](const Cube& c) {
          return Mat{c.data + r * c.stride[0] + h * s.group() * c.stride[1],
                     {s.group(), s.dim},
                     {c.stride[1], 1}};
        };
        jobs.push_back({.q = group(q),
                        .head = rows[static_cast<size_t>(h)].up_to(positions[r]),
                        .position = positions[r],
                        .first_query_head = h * s.group(),
                        .rule = config.rules[layer],
                        .out = group(attended),
                        .probs = {}});
      }
    ops_.attend(std::span<const HeadAttention>(jobs));
    attention_out(layer, attended, x, {});
    feed_forward(layer, x);
  });
}

// Tokens that have come this far wait with those that dropped out here; then those that the
// generated token calls back set out. heads: what it paid in the layer.
void Forward::call_back(Session& session, std::span<const StepTap> heads, CalledBack& back) {
  const int width = model_.config().shape.width;
  DroppedTokens& dropped = session.store->dropped(heads[0].layer);
  dropped.add(back.states(width), {}, back.positions);
  back.positions = session.compressor.call_back(heads);
  back.hidden.resize(back.positions.size() * static_cast<size_t>(width));
  dropped.take(back.positions, back.states(width));
}

}  // namespace pith

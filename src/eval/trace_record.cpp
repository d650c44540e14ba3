#include "eval/trace_record.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"

namespace pith {
namespace {

template <class Rows>
void copy_rows(const Rows& from, std::vector<float>& to, int64_t first) {
  const int64_t row = from.dim[1] * from.dim[2];
  for (int64_t r = 0; r < from.dim[0]; ++r)
    for (int64_t h = 0; h < from.dim[1]; ++h)
      std::ranges::copy(from[r].row(h), to.begin() + (first + r) * row + h * from.dim[2]);
}

}  // namespace

TraceRecorder::TraceRecorder(int tokens, int window, std::vector<int> tensors)
    : window_(std::min(window, tokens)),
      wanted_(std::move(tensors)),
      tokens_(static_cast<size_t>(tokens)) {
  std::iota(tokens_.begin(), tokens_.end(), 0);
}

bool TraceRecorder::wants_tensors(int layer) const {
  return std::ranges::find(wanted_, layer) != wanted_.end();
}

LayerTensors* TraceRecorder::tensors_of(int layer) {
  if (!wants_tensors(layer)) return nullptr;
  const auto it = std::ranges::find(tensors_, layer, &LayerTensors::layer);
  if (it != tensors_.end()) return &*it;
  tensors_.emplace_back().layer = layer;
  return &tensors_.back();
}

void TraceRecorder::attended(int layer, const DenseAttention& job) {
  LayerTensors* t = tensors_of(layer);
  if (!t) return;
  const int64_t rows = job.k.dim[1];
  if (job.first_row == 0) {
    *t = {};
    t->layer = layer;
    t->rows = rows;
    t->heads = job.k.dim[0];
    t->query_heads = job.q.dim[1];
    t->dim = job.q.dim[2];
    const auto floats = static_cast<size_t>(rows * t->query_heads * t->dim);
    t->q.resize(floats);
    t->attended.resize(floats);
    t->lse.resize(static_cast<size_t>(rows * t->query_heads));
  }
  copy_rows(job.q, t->q, job.first_row);
  copy_rows(ConstCube(job.out), t->attended, job.first_row);
  for (int64_t r = 0; r < job.q.dim[0]; ++r)
    std::ranges::copy(job.lse.row(r), t->lse.begin() + (job.first_row + r) * t->query_heads);
}

void TraceRecorder::layer_ended(const LayerTap& tap, ConstMat scores, const BudgetTable& table) {
  (void)table;  // prompt_ended has the last word
  const auto layer = static_cast<size_t>(tap.layer);
  if (layers_.size() <= layer) {
    layers_.resize(layer + 1);
    layer_positions_.resize(layer + 1);
  }
  const int64_t rows = tap.rows.k.dim[1];
  LayerTrace& trace = layers_[layer];
  trace.tokens = tokens_;
  trace.heads.assign(static_cast<size_t>(tap.shape.heads), {});
  layer_positions_[layer].assign(tap.rows.positions.begin(), tap.rows.positions.end());

  // What the last queries pay to each row, as shares of one.
  const int64_t window = std::min<int64_t>({window_, tap.window_q.dim[0], rows});
  ConstCube q = tap.window_q;
  q.data += (q.dim[0] - window) * q.stride[0];
  q.dim[0] = window;
  std::vector<float> mass(static_cast<size_t>(tap.shape.query_heads * rows));
  const Mat paid = Mat::packed(mass.data(), {tap.shape.query_heads, rows});
  tap.ops.window_mass({q, tap.rows.k, tap.rows.positions, tap.rule, paid});
  const int group = tap.shape.query_heads / tap.shape.heads;
  for (int h = 0; h < tap.shape.heads; ++h) {
    HeadTrace& head = trace.heads[static_cast<size_t>(h)];
    head.scores.assign(scores.row(h).begin(), scores.row(h).end());
    head.mass.assign(static_cast<size_t>(rows), 0);
    for (int g = 0; g < group; ++g)
      for (size_t r = 0; r < head.mass.size(); ++r)
        head.mass[r] += paid.row(int64_t{h} * group + g)[r] / static_cast<float>(window * group);
  }

  LayerTensors* t = tensors_of(tap.layer);
  if (!t) return;
  t->width = tap.shape.width;
  t->k.resize(static_cast<size_t>(tap.shape.heads * rows * tap.shape.dim));
  t->v.resize(t->k.size());
  copy_rows(tap.rows.k, t->k, 0);
  copy_rows(tap.rows.v, t->v, 0);
  t->hidden.resize(static_cast<size_t>(rows * t->width));
  for (int64_t r = 0; r < rows; ++r)
    std::ranges::copy(tap.hidden.row(r), t->hidden.begin() + r * t->width);
  t->q_before_rope = t->q;
  t->k_before_rope = t->k;
  if (tap.rope.inv_freq.empty()) return;
  tap.ops.rope(Cube::packed(t->q_before_rope.data(), {rows, t->query_heads, t->dim}),
               tap.rows.positions, tap.rope, -1);
  for (int64_t h = 0; h < t->heads; ++h)
    tap.ops.rope(Cube::packed(t->k_before_rope.data() + h * rows * t->dim, {rows, 1, t->dim}),
                 tap.rows.positions, tap.rope, -1);
}

void TraceRecorder::routed(int /*layer*/, const StreamPlan& plan) {
  if (plan.rows.empty()) return;
  std::vector<int32_t> tokens;
  for (const int32_t row : plan.rows) tokens.push_back(tokens_[static_cast<size_t>(row)]);
  tokens_ = std::move(tokens);
}

void TraceRecorder::prompt_ended(const KvStore& store, const BudgetTable& table) {
  for (size_t l = 0; l < layers_.size(); ++l) {
    LayerTrace& layer = layers_[l];
    for (size_t h = 0; h < layer.heads.size(); ++h) {
      HeadTrace& head = layer.heads[h];
      const HeadCache& cache = store.at(static_cast<int>(l), static_cast<int>(h));
      head.budget = table.at(static_cast<int>(l), static_cast<int>(h));
      head.kept_scores.assign(cache.scores().begin(), cache.scores().end());
      head.pseudo_rows = static_cast<int>(cache.pseudo().size());
      double kept = 0, all = 0;
      for (const float mass : head.mass) all += mass;
      const std::vector<int32_t>& positions = layer_positions_[l];
      for (const int32_t position : cache.positions()) {
        const auto row =
            static_cast<size_t>(std::ranges::lower_bound(positions, position) - positions.begin());
        PITH_CHECK(row < positions.size() && positions[row] == position, "kept rows were rows");
        head.kept.push_back(layer.tokens[row]);
        kept += head.mass[row];
      }
      head.mass_kept = all > 0 ? kept / all : 1;
    }
  }
}

void TraceRecorder::weigh(const KvStore& store) {
  for (size_t l = 0; l < layers_.size(); ++l)
    for (size_t h = 0; h < layers_[l].heads.size(); ++h)
      layers_[l].heads[h].bytes =
          store.at(static_cast<int>(l), static_cast<int>(h)).bytes().total();
}

}  // namespace pith

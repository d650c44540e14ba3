// The small steps of a transformer layer that prefill and decode share. Architectures differ in
// which weights are present and in the numbers of ModelConfig, never in the order written here.
#include <algorithm>

#include "base/error.h"
#include "policy/adapter.h"
#include "runtime/forward.h"

namespace pith {
namespace {

Mat top(Mat x, int64_t rows) {
  x.dim[0] = rows;
  return x;
}

// [rows, heads, dim] as [rows, heads * dim]; the heads of a row lie side by side.
Mat flat(Cube x) {
  return {x.data, {x.dim[0], x.dim[1] * x.dim[2]}, {x.stride[0], 1}};
}
ConstMat flat(ConstCube x) {
  return {x.data, {x.dim[0], x.dim[1] * x.dim[2]}, {x.stride[0], 1}};
}

}  // namespace

Forward::Forward(const Model& model, Backend& ops, int tile_rows, const Tokenizer* tokenizer)
    : model_(model), ops_(ops), tile_rows_(tile_rows), tokenizer_(tokenizer) {
  PITH_CHECK(tile_rows > 0, "a tile has rows");
  const ModelConfig& c = model.config();
  const int64_t rows = tile_rows, width = c.shape.width,
                q = int64_t{c.shape.query_heads} * c.shape.dim,
                kv = int64_t{c.shape.heads} * c.shape.dim,
                ffn_rows = std::min<int64_t>(rows, kFeedForwardRows);
  struct Part {
    Mat* view;
    int64_t rows, cols;
  };
  const Part parts[] = {{&a_.normed, rows, width},
                        {&a_.branch, rows, width},
                        {&a_.q, rows, q},
                        {&a_.k, rows, kv},
                        {&a_.v, rows, kv},
                        {&a_.attended, rows, q},
                        {&a_.gate, ffn_rows, c.ffn_width},
                        {&a_.up, ffn_rows, c.ffn_width},
                        {&a_.logits, kLogitRows, c.vocab}};
  constexpr int64_t kAlign = 16;  // floats: rows of different parts share no cache line
  int64_t floats = 0;
  for (const Part& p : parts) floats += (p.rows * p.cols + kAlign - 1) / kAlign * kAlign;
  memory_ = ops.allocate(static_cast<size_t>(floats) * sizeof(float));
  float* at = static_cast<float*>(memory_->data());
  for (const Part& p : parts) {
    *p.view = Mat::packed(at, {p.rows, p.cols});
    at += (p.rows * p.cols + kAlign - 1) / kAlign * kAlign;
  }
}

Cube Forward::heads(Mat x, int64_t rows, int heads) const {
  const int64_t dim = model_.config().shape.dim;
  return {x.data, {rows, heads, dim}, {x.stride[0], dim, 1}};
}

void Forward::norm(ConstMat x, std::span<const float> gain, std::span<const float> bias, Mat out) {
  const ModelConfig& c = model_.config();
  if (c.norm == NormKind::layer)
    ops_.layer_norm(x, gain, bias, c.norm_eps, out);
  else
    ops_.rms_norm(x, gain, c.norm_eps, out);
}

Forward::AdaptedRows Forward::AdaptedRows::part(int64_t first, int64_t count) const {
  AdaptedRows rest = *this;
  if (adapter) rest.on = on.subspan(static_cast<size_t>(first), static_cast<size_t>(count));
  return rest;
}

void Forward::multiply(ConstMat x, const WeightMatrix& w, Mat out) {
  if (reading_)
    ops_.matmul_prompt(x, w, out);
  else
    ops_.matmul(x, w, out);
}

// Adds b (a x) to the rows for which the adapter is on, or to all.
void Forward::add_low_rank(const LowRank& low_rank, const AdaptedRows& adapted, bool all,
                           ConstMat x, Mat into) {
  PITH_CHECK(x.dim[0] <= adapted.low.dim[0], "a step's rows fit into the adapter's scratch");
  std::vector<int32_t> rows;
  for (size_t r = 0; r < adapted.on.size(); ++r)
    if (all || adapted.on[r]) rows.push_back(static_cast<int32_t>(r));
  if (rows.empty()) return;
  const auto count = static_cast<int64_t>(rows.size());
  ConstMat input = x;
  if (count < x.dim[0]) {
    const Mat gathered = Mat::packed(adapted.rows.data, {count, x.dim[1]});
    ops_.gather(x, rows, gathered);
    input = gathered;
  }
  const Mat low = top(adapted.low, count);
  const Mat sum = Mat::packed(adapted.sum.data, {count, into.dim[1]});
  ops_.matmul(input, low_rank.a, low);
  ops_.matmul(low, low_rank.b, sum);
  for (int64_t first = 0, last = 0; first < count; first = last) {
    const int64_t row = rows[static_cast<size_t>(first)];
    for (last = first + 1; last < count; ++last)  // as long as rows are neighbours
      if (rows[static_cast<size_t>(last)] != row + last - first) break;
    ops_.add(Mat{sum.data + first * sum.stride[0], {last - first, sum.dim[1]}, sum.stride},
             Mat{into.data + row * into.stride[0], {last - first, into.dim[1]}, into.stride});
  }
}

// What happens to projected queries and keys before they meet: bias, clamp, norm per head,
// rotation.
void Forward::bias_norm_rotate(int layer, Cube x, std::span<const float> bias,
                               std::span<const float> gain, std::span<const int32_t> positions) {
  const ModelConfig& c = model_.config();
  const Mat rows = flat(x);
  if (!bias.empty()) ops_.add_row(bias, rows);
  if (c.clamp_qkv > 0) ops_.clamp(c.clamp_qkv, rows);
  if (!gain.empty()) {
    PITH_CHECK(x.stride[0] == x.dim[1] * x.dim[2], "rows of heads are packed");
    const Mat each = Mat::packed(x.data, {x.dim[0] * x.dim[1], x.dim[2]});
    ops_.rms_norm(each, gain, c.norm_eps, each);
  }
  if (!c.shape.ropes[layer].inv_freq.empty()) ops_.rope(x, positions, c.shape.ropes[layer], 1);
}

void Forward::project_q(int layer, ConstMat normed, std::span<const int32_t> positions, Cube q,
                        const AdaptedRows& adapted) {
  const LayerWeights& w = model_.weights().layers[layer];
  multiply(normed, w.wq, flat(q));
  if (adapted.adapter) add_low_rank(adapted.adapter->q, adapted, false, normed, flat(q));
  bias_norm_rotate(layer, q, w.q_bias, w.q_norm, positions);
}

void Forward::project_kv(int layer, ConstMat normed, std::span<const int32_t> positions, Cube k,
                         Cube v, const AdaptedRows& adapted) {
  const ModelConfig& c = model_.config();
  const LayerWeights& w = model_.weights().layers[layer];
  multiply(normed, w.wk, flat(k));
  multiply(normed, w.wv, flat(v));
  if (adapted.adapter) {
    add_low_rank(adapted.adapter->k, adapted, true, normed, flat(k));
    add_low_rank(adapted.adapter->v, adapted, true, normed, flat(v));
  }
  bias_norm_rotate(layer, k, w.k_bias, w.k_norm, positions);
  if (!w.v_bias.empty()) ops_.add_row(w.v_bias, flat(v));
  if (c.clamp_qkv > 0) ops_.clamp(c.clamp_qkv, flat(v));
}

void Forward::attention_out(int layer, ConstCube attended, Mat x, const AdaptedRows& adapted) {
  const LayerWeights& w = model_.weights().layers[layer];
  const Mat branch = top(a_.branch, x.dim[0]);
  multiply(flat(attended), w.wo, branch);
  if (adapted.adapter) add_low_rank(adapted.adapter->o, adapted, false, flat(attended), branch);
  if (!w.o_bias.empty()) ops_.add_row(w.o_bias, branch);
  if (!w.attn_post_norm.empty()) norm(branch, w.attn_post_norm, {}, branch);
  ops_.add(branch, x);
}

void Forward::feed_forward(int layer, Mat x, const Monitor& monitor) {
  const ModelConfig& c = model_.config();
  const LayerWeights& w = model_.weights().layers[layer];
  for (int64_t first = 0; first < x.dim[0]; first += kFeedForwardRows) {
    const int64_t rows = std::min<int64_t>(kFeedForwardRows, x.dim[0] - first);
    const Mat part = top({x.data + first * x.stride[0], x.dim, x.stride}, rows);
    const Mat normed = top(a_.normed, rows), branch = top(a_.branch, rows),
              gate = top(a_.gate, rows), up = top(a_.up, rows);
    norm(part, w.ffn_norm, w.ffn_norm_bias, normed);
    monitor.check();
    multiply(normed, w.up, up);
    if (c.feed_forward == FeedForwardKind::gelu) {
      ops_.gelu(up, up);
    } else {
      monitor.check();
      multiply(normed, w.gate, gate);
      ops_.gate(c.feed_forward == FeedForwardKind::silu_gated ? Gate::silu : Gate::gelu_tanh, gate,
                up, up);
    }
    monitor.check();
    multiply(up, w.down, branch);
    if (!w.ffn_post_norm.empty()) norm(branch, w.ffn_post_norm, {}, branch);
    ops_.add(branch, part);
  }
}

// x is [rows <= kLogitRows, width].
void Forward::unembed(ConstMat x, Mat logits) {
  const ModelConfig& c = model_.config();
  const Weights& w = model_.weights();
  const Mat normed = top(a_.normed, x.dim[0]);
  norm(x, w.final_norm, w.final_norm_bias, normed);
  ops_.matmul(normed, w.unembedding, logits);
  if (c.logit_softcap > 0) ops_.softcap(c.logit_softcap, logits);
}

}  // namespace pith

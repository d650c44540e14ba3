#include "train/student.h"

#include <algorithm>
#include <cmath>
#include <torch/autograd.h>

#include "base/error.h"
#include "policy/adapter.h"

namespace pith {
namespace {

using torch::Tensor;

Tensor ids(std::span<const int32_t> tokens) {
  return torch::from_blob(const_cast<int32_t*>(tokens.data()),
                          {1, static_cast<int64_t>(tokens.size())}, torch::kInt32)
      .to(torch::kInt64);
}

Tensor indices(const std::vector<int64_t>& rows) {
  return torch::from_blob(const_cast<int64_t*>(rows.data()), {static_cast<int64_t>(rows.size())},
                          torch::kInt64)
      .clone();
}

std::span<const int32_t> part(const DistillSample& sample, int64_t first, int64_t last) {
  return std::span(sample.tokens)
      .subspan(static_cast<size_t>(first), static_cast<size_t>(last - first));
}

}  // namespace

Student::Student(const Network& model, const NetworkShape& shape, const AdapterShape& adapter,
                 const Tensor& parameters, const Tensor& gradients)
    : model_(model), shape_(shape), adapter_(adapter) {
  const AdapterLayout layout(shape, adapter);
  const auto leaf = [&](const std::string& name) {
    const Parameter* p = layout.find(name);
    PITH_CHECK(p != nullptr, "an adapter has the parameters of its layout");
    const auto view = [&](const Tensor& flat) {
      const Tensor part = flat.narrow(0, p->offset, p->size());
      return p->vector ? part : part.view({p->rows, p->cols});
    };
    Tensor weight = view(parameters).detach();
    if (gradients.defined()) {
      weight.requires_grad_(true);
      weight.mutable_grad() = view(gradients);
    }
    return weight;
  };
  if (adapter.hidden > 0) {
    up_ = leaf("scorer.up.weight");
    up_bias_ = leaf("scorer.up.bias");
  }
  down_ = leaf("scorer.down.weight");
  down_bias_ = leaf("scorer.down.bias");
  for (int l = 0; l < shape.layers; ++l) {
    const std::string at = "blk." + std::to_string(l) + ".attn_";
    const auto matrix = [&](const char* side, const char* which) {
      return leaf(at + side + ".weight.lora_" + which);
    };
    Additions add;
    add.q_a = matrix("q", "a"), add.q_b = matrix("q", "b");
    add.k_a = matrix("k", "a"), add.k_b = matrix("k", "b");
    add.v_a = matrix("v", "a"), add.v_b = matrix("v", "b");
    add.o_a = matrix("output", "a"), add.o_b = matrix("output", "b");
    add.scale = adapter.scale();
    layers_.push_back(std::move(add));
  }
}

// Stretches of the context that know nothing of each other.
std::vector<std::pair<int64_t, int64_t>> Student::folds(int64_t tokens) const {
  const int64_t size = adapter_.fold > 0 ? adapter_.fold : tokens;
  std::vector<std::pair<int64_t, int64_t>> folds;
  for (int64_t first = 0; first < tokens; first += size)
    folds.emplace_back(first, std::min(first + size, tokens));
  return folds;
}

// What the scorer reads, [context, width].
Tensor Student::read(const DistillSample& sample) const {
  const torch::NoGradGuard guard;  // the model is as it is
  std::vector<Tensor> parts;
  for (const auto& [first, last] : folds(sample.context)) {
    Tensor hidden = model_.embed(ids(part(sample, first, last)));
    for (int l = 0; l <= adapter_.layer; ++l) hidden = model_.layer(l, hidden);
    parts.push_back(hidden[0]);
  }
  return torch::cat(parts, 0);
}

Tensor Student::scores(const Tensor& hidden) const {
  constexpr double kEps = 1e-6;  // as in policy/adapter.cpp
  Tensor x = hidden * torch::rsqrt(hidden.square().mean({-1}, /*keepdim=*/true) + kEps);
  if (adapter_.hidden > 0) x = torch::silu(torch::matmul(x, up_.t()) + up_bias_);
  return (torch::matmul(x, down_.t()) + down_bias_).view({-1});
}

std::vector<int32_t> Student::choose(const Tensor& scores, const DistillSample& sample) const {
  const Tensor here = scores.detach().to(torch::kFloat32).contiguous();
  const Protect protect{.sink = adapter_.sinks, .recent = 1};
  const int keep = static_cast<int>(std::lround(sample.retention * sample.context));
  return choose_tokens({here.data_ptr<float>(), static_cast<size_t>(here.numel())},
                       std::max(keep, protect.rows()), protect, adapter_.fold);
}

std::vector<int32_t> Student::chosen(const DistillSample& sample) const {
  const torch::NoGradGuard guard;
  return choose(scores(read(sample)), sample);
}

// The context once more, with the adapter: what the chosen tokens leave in every layer.
Student::Compressed Student::compress(const DistillSample& sample, const Tensor& seen) const {
  const Tensor all = scores(seen);
  const std::vector<int32_t> kept = choose(all, sample);
  const std::vector<int64_t> wide(kept.begin(), kept.end());
  Compressed out;
  out.scores = all.index_select(0, indices(wide));
  std::vector<std::vector<Tensor>> keys(layers_.size()), values(layers_.size());
  for (const auto& [first, last] : folds(sample.context)) {
    std::vector<int64_t> rows;
    for (const int64_t row : wide)
      if (row >= first && row < last) rows.push_back(row - first);
    if (rows.empty()) continue;  // nobody reads this fold
    const Tensor places = indices(rows);
    Tensor hidden = model_.embed(ids(part(sample, first, last)));
    const Tensor chosen =
        torch::zeros({last - first, 1}, hidden.options()).index_fill(0, places, 1);
    for (size_t l = 0; l < layers_.size(); ++l) {
      Additions add = layers_[l];
      add.chosen = chosen;
      const int layer = static_cast<int>(l);
      const Network::Heads heads = model_.project(layer, hidden, first, &add);
      keys[l].push_back(heads.k.index_select(2, places));
      values[l].push_back(heads.v.index_select(2, places));
      if (l + 1 < layers_.size())
        hidden = model_.finish(layer, hidden, causal_attention(heads.q, heads.k, heads.v), &add);
    }
  }
  for (size_t l = 0; l < layers_.size(); ++l) {
    out.k.push_back(torch::cat(keys[l], 2));
    out.v.push_back(torch::cat(values[l], 2));
  }
  return out;
}

// Tokens behind the context over the rows that were kept and themselves. [1, length, width of q]
Tensor Student::attend(const Network::Heads& heads, const Tensor& k, const Tensor& v,
                       const Tensor& scores, Damping damping) const {
  const int64_t length = heads.q.size(2), dim = shape_.dim,
                group = shape_.query_heads / shape_.heads;
  const Tensor q = heads.q.reshape({shape_.heads, group * length, dim});
  const double scale = 1 / std::sqrt(static_cast<double>(dim));
  Tensor to_kept = torch::bmm(q, k[0].transpose(1, 2)) * scale;
  if (damping == Damping::multiply) to_kept = to_kept * torch::sigmoid(scores);
  if (damping == Damping::add || damping == Damping::gradient) {
    const Tensor damped = torch::log_sigmoid(scores);
    to_kept = to_kept + (damping == Damping::add ? damped : damped - damped.detach());
  }
  const Tensor later = torch::ones({length, length}, torch::kBool).triu(1);
  const Tensor own = (torch::bmm(q, heads.k[0].transpose(1, 2)) * scale)
                         .view({shape_.heads, group, length, length})
                         .masked_fill(later, -INFINITY)
                         .view({shape_.heads, group * length, length});
  const Tensor shares = torch::softmax(torch::cat({to_kept, own}, -1), -1);
  return torch::bmm(shares, torch::cat({v[0], heads.v[0]}, 1))
      .view({shape_.query_heads, length, dim})
      .transpose(0, 1)
      .reshape({1, length, int64_t{shape_.query_heads} * dim});
}

Student::Logits Student::logits(const DistillSample& sample, Damping damping) const {
  const auto tokens = static_cast<int64_t>(sample.tokens.size());
  PITH_CHECK(sample.context > 0 && sample.context < tokens && !sample.rows.empty(),
             "a sample has a context and something behind it");
  Logits out;
  Tensor seen;  // by the scorer: the teacher's own states, but for folds
  {
    const torch::NoGradGuard guard;
    Tensor hidden = model_.embed(ids(sample.tokens));
    for (int l = 0; l < model_.layers(); ++l) {
      hidden = model_.layer(l, hidden);
      if (l == adapter_.layer) seen = hidden[0].narrow(0, 0, sample.context);
    }
    out.teacher = model_.logits(hidden[0].index_select(0, indices(sample.rows)));
  }
  if (folds(sample.context).size() > 1) seen = read(sample);
  const Compressed compressed = compress(sample, seen);
  std::vector<int64_t> rows;
  for (const int64_t row : sample.rows) rows.push_back(row - sample.context);
  Tensor hidden = model_.embed(ids(part(sample, sample.context, tokens)));
  for (int l = 0; l < model_.layers(); ++l) {
    const auto at = static_cast<size_t>(l);
    const Network::Heads heads = model_.project(l, hidden, sample.context);
    hidden = model_.finish(
        l, hidden, attend(heads, compressed.k[at], compressed.v[at], compressed.scores, damping));
  }
  out.student = model_.logits(hidden[0].index_select(0, indices(rows)));
  return out;
}

Divergence divergence(const Student::Logits& logits) {
  const Tensor p = torch::log_softmax(logits.teacher, -1),
               q = torch::log_softmax(logits.student, -1);
  return {(p.exp() * (p - q)).sum(-1), (q.exp() * (q - p)).sum(-1),
          logits.teacher.argmax(-1).eq(logits.student.detach().argmax(-1))};
}

}  // namespace pith

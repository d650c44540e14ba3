#include "train/network.h"

#include <cmath>
#include <torch/autograd.h>

namespace pith {
namespace {

torch::Tensor angles(const NetworkShape& shape, const torch::Device& device) {
  const int pairs = shape.dim / 2;
  std::vector<double> turns(static_cast<size_t>(shape.context) * static_cast<size_t>(pairs));
  for (int position = 0; position < shape.context; ++position)
    for (int pair = 0; pair < pairs; ++pair)
      turns[static_cast<size_t>(position) * static_cast<size_t>(pairs) +
            static_cast<size_t>(pair)] =
          position * std::pow(shape.rope_base, -static_cast<double>(pair) / pairs);
  const torch::Tensor angle =
      torch::from_blob(turns.data(), {shape.context, pairs}, torch::kFloat64).clone();
  return torch::polar(torch::ones_like(angle), angle).to(torch::kComplexFloat).to(device);
}

}  // namespace

Network::Network(const NetworkShape& shape, const torch::Tensor& parameters,
                 const torch::Tensor& gradients, torch::ScalarType precision)
    : shape_(shape), precision_(precision), turns_(angles(shape, parameters.device())) {
  const ParameterLayout layout(shape);
  // A matrix of `parts` neighbouring parameters, or a vector.
  const auto leaf = [&](const Parameter& first, int parts) {
    int64_t rows = 0;
    const Parameter* p = &first;
    for (int i = 0; i < parts; ++i, ++p) rows += p->rows;
    const auto view = [&](const torch::Tensor& flat) {
      const torch::Tensor part = flat.narrow(0, first.offset, rows * first.cols);
      return first.vector ? part : part.view({rows, first.cols});
    };
    torch::Tensor weight = view(parameters).detach();
    if (gradients.defined()) {
      weight.requires_grad_(true);
      weight.mutable_grad() = view(gradients);
    }
    return weight;
  };
  embedding_ = leaf(layout.find("token_embd.weight"), 1);
  for (int l = 0; l < shape.layers; ++l)
    layers_.push_back(
        {leaf(layout.of_layer(l, "attn_norm"), 1), leaf(layout.of_layer(l, "attn_q"), 3),
         leaf(layout.of_layer(l, "attn_output"), 1), leaf(layout.of_layer(l, "ffn_norm"), 1),
         leaf(layout.of_layer(l, "ffn_gate"), 2), leaf(layout.of_layer(l, "ffn_down"), 1)});
  output_norm_ = leaf(layout.find("output_norm.weight"), 1);
  output_ = leaf(layout.find("output.weight"), 1);
}

// Products in the chosen precision, everything between them in F32.
torch::Tensor Network::linear(const torch::Tensor& x, const torch::Tensor& weight) const {
  if (precision_ == torch::kFloat32) return torch::matmul(x, weight.t());
  return torch::matmul(x.to(precision_), weight.to(precision_).t()).to(torch::kFloat32);
}

torch::Tensor Network::norm(const torch::Tensor& x, const torch::Tensor& gain) const {
  const torch::Tensor squares = x.square().mean({-1}, /*keepdim=*/true);
  return x * torch::rsqrt(squares + shape_.norm_eps) * gain;
}

// heads: [rows, length, heads, dim]
torch::Tensor Network::rotate(const torch::Tensor& heads, int64_t first) const {
  const int64_t rows = heads.size(0), length = heads.size(1), count = heads.size(2);
  const torch::Tensor pairs =
      torch::view_as_complex(heads.reshape({rows, length, count, shape_.dim / 2, 2}));
  const torch::Tensor turned = pairs * turns_.narrow(0, first, length).unsqueeze(1);
  return torch::view_as_real(turned).reshape({rows, length, count, shape_.dim});
}

torch::Tensor Network::embed(const torch::Tensor& tokens) const {
  return torch::embedding(embedding_, tokens);
}

Network::Heads Network::project(int l, const torch::Tensor& hidden, int64_t first,
                                const Additions* add) const {
  const Layer& w = layers_[static_cast<size_t>(l)];
  const int64_t rows = hidden.size(0), length = hidden.size(1), dim = shape_.dim;
  const int64_t queries = shape_.query_heads, heads = shape_.heads;
  const torch::Tensor normed = norm(hidden, w.attn_norm);
  torch::Tensor flat = linear(normed, w.qkv);
  if (add)
    flat = flat +
           torch::cat({add->chosen * add->of(normed, add->q_a, add->q_b),
                       add->of(normed, add->k_a, add->k_b), add->of(normed, add->v_a, add->v_b)},
                      -1);
  const torch::Tensor qkv = flat.view({rows, length, queries + 2 * heads, dim});
  // Queries and keys turn together.
  const torch::Tensor turned = rotate(qkv.narrow(2, 0, queries + heads), first).transpose(1, 2);
  return {turned.narrow(1, 0, queries), turned.narrow(1, queries, heads),
          qkv.narrow(2, queries + heads, heads).transpose(1, 2)};
}

torch::Tensor Network::finish(int l, const torch::Tensor& hidden, const torch::Tensor& attended,
                              const Additions* add) const {
  const Layer& w = layers_[static_cast<size_t>(l)];
  torch::Tensor x = hidden + linear(attended, w.attn_output);
  if (add) x = x + add->chosen * add->of(attended, add->o_a, add->o_b);
  const std::vector<torch::Tensor> parts =
      linear(norm(x, w.ffn_norm), w.gate_up).split(shape_.ffn_width, -1);
  return x + linear(torch::silu(parts[0]) * parts[1], w.down);
}

torch::Tensor Network::layer(int l, const torch::Tensor& hidden) const {
  const Heads heads = project(l, hidden);
  return finish(l, hidden, causal_attention(heads.q, heads.k, heads.v));
}

torch::Tensor Network::gated_layer(int l, const torch::Tensor& hidden, const torch::Tensor& gates,
                                   const Looking& less) const {
  const Heads heads = project(l, hidden);
  const torch::Tensor full = causal_attention(heads.q, heads.k, heads.v);
  const torch::Tensor near = causal_attention(heads.q, heads.k, heads.v, less);
  const int64_t group = shape_.query_heads / shape_.heads;
  const torch::Tensor share = gates.repeat_interleave(group * shape_.dim);
  return finish(l, hidden, near + share * (full - near));
}

torch::Tensor Network::last_norm(const torch::Tensor& hidden) const {
  return norm(hidden, output_norm_);
}

torch::Tensor Network::logits(const torch::Tensor& hidden) const {
  return linear(norm(hidden, output_norm_), output_);
}

}  // namespace pith

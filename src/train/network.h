// The llama architecture on libtorch, as the engine computes it: RMSNorm, attention with grouped
// heads and rotated neighbouring pairs, a SiLU-gated feed-forward, no biases. One Network is a set
// of leaves over somebody's flat parameters, so several threads may each have their own over the
// same. Included by the few sources that know libtorch.
#pragma once

#include <cstdint>
#include <torch/types.h>
#include <vector>

#include "train/network_shape.h"

namespace pith {

// Which rows a query sees: all before it, or with `recent`, the first `sink` and so many newest,
// its own included. Attention works on `block` queries at a time.
struct Looking {
  int64_t sink = 0, recent = 0;
  int64_t block = 128;
};

// Causal attention. q is [rows, query_heads, length, dim], k and v [rows, heads, length, dim],
// after rotation; the result is [rows, length, query_heads * dim]. Works on `block` queries at a
// time and keeps no probabilities for the backward pass.
torch::Tensor causal_attention(const torch::Tensor& q, const torch::Tensor& k,
                               const torch::Tensor& v, const Looking& looking = {});

// What an adapter adds to the projections of a layer: scale * x a^T b^T.
struct Additions {
  torch::Tensor q_a, q_b, k_a, k_b, v_a, v_b, o_a, o_b;  // [rank, inputs], [outputs, rank]
  double scale = 1;
  torch::Tensor chosen;  // [length, 1] 1 where queries and outputs are added to, else 0
  torch::Tensor of(const torch::Tensor& x, const torch::Tensor& a, const torch::Tensor& b) const {
    return torch::matmul(torch::matmul(x, a.t()), b.t()) * scale;
  }
};

class Network {
 public:
  // `parameters` and `gradients` are flat, in the layout's order, and outlive the network; backward
  // passes add to `gradients`. Undefined gradients: for inference.
  Network(const NetworkShape& shape, const torch::Tensor& parameters,
          const torch::Tensor& gradients, torch::ScalarType precision);

  torch::Tensor embed(const torch::Tensor& tokens) const;             // [rows, length] to hidden
  torch::Tensor layer(int layer, const torch::Tensor& hidden) const;  // [rows, length, width]
  // DuoAttention's mixture (methods.md 8.2b): of head h, `gates`[h] of full attention and the rest
  // of attention that looks less far.
  torch::Tensor gated_layer(int layer, const torch::Tensor& hidden, const torch::Tensor& gates,
                            const Looking& less) const;
  // The two halves of a layer, around attention. `add`: for positions where `chosen` is not 0 to
  // queries and output, for all to keys and values.
  struct Heads {
    torch::Tensor q, k, v;  // [rows, heads, length, dim], queries and keys rotated
  };
  Heads project(int layer, const torch::Tensor& hidden, int64_t first_position = 0,
                const Additions* add = nullptr) const;
  torch::Tensor finish(int layer, const torch::Tensor& hidden, const torch::Tensor& attended,
                       const Additions* add = nullptr) const;
  torch::Tensor last_norm(const torch::Tensor& hidden) const;
  torch::Tensor logits(const torch::Tensor& hidden) const;  // [any, width] to [any, vocab]
  int layers() const { return static_cast<int>(layers_.size()); }

 private:
  struct Layer {
    torch::Tensor attn_norm, qkv, attn_output, ffn_norm, gate_up, down;
  };
  torch::Tensor linear(const torch::Tensor& x, const torch::Tensor& weight) const;
  torch::Tensor norm(const torch::Tensor& x, const torch::Tensor& gain) const;
  torch::Tensor rotate(const torch::Tensor& heads, int64_t first_position) const;

  NetworkShape shape_;
  torch::ScalarType precision_;
  torch::Tensor embedding_, output_norm_, output_;
  std::vector<Layer> layers_;
  torch::Tensor turns_;  // [context, dim / 2], complex: e^(i * position * frequency)
};

}  // namespace pith

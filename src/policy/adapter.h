// What training adds to a model so that a few rows can stand for a whole text (KV-Distill,
// arXiv:2503.10337): a scorer of tokens, and low-rank additions to the projections around
// attention. A GGUF file, the same container as weights and calibration; docs/training.md says how
// one is made.
//
//   general.type = "adapter"             pith.adapter.method = "kvdistill"
//   pith.adapter.model                   digest of the model it was trained on
//   kvdistill.layer                      its output is what the scorer reads, counted from 0
//   kvdistill.rank, kvdistill.alpha      of the additions; lora_b holds alpha / sqrt(rank) already
//   kvdistill.fold                       tokens that are read together; 0: all
//   scorer.up.weight [hidden, width], scorer.up.bias [hidden]   absent in a linear scorer
//   scorer.down.weight [1, hidden or width], scorer.down.bias [1]
//   blk.N.attn_{q,k,v,output}.weight.lora_a [rank, inputs], .lora_b [outputs, rank]
//
// Matrices are F32, F16 or BF16, biases F32. Shapes are [rows, columns]; GGUF writes the columns
// first.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backend/backend.h"
#include "policy/roles.h"
#include "tensor/kv_shape.h"

namespace pith {

struct LowRank {  // x becomes x + b (a x)
  WeightMatrix a, b;
};

struct LayerAdapter {
  LowRank q, k, v, o;
};

struct TokenScorer {
  WeightMatrix up, down;  // without `up` the scorer is linear
  std::vector<float> up_bias;
  float down_bias = 0;
};

struct Adapter {
  int layer = 0;  // whose output the scorer reads
  int rank = 0;
  int fold = 0;  // tokens that are read together, a multiple of 128; 0: all
  TokenScorer scorer;
  std::vector<LayerAdapter> layers;
  std::shared_ptr<const void> memory;  // what the matrices point into
  std::string content_digest;          // of the file

  // Throws io or bad_file; bad_file too if the file was made for a model of another shape or, where
  // the digest is not empty, for another model.
  static std::shared_ptr<const Adapter> load(const std::string& path, const KvShape& shape,
                                             std::string_view model_digest = {});
};

// The score of every token: down (silu(up x + up_bias)) + down_bias, or down x + down_bias, of
// hidden states x [rows, width] that were divided by their root mean square.
std::vector<float> score_tokens(Backend& ops, const TokenScorer& scorer, ConstMat hidden);

// The tokens that stay, ascending: protected ones, and the best of the others. With a fold, each
// fold has its share of the others, in proportion to how many it has. As many as `keep`, or as are
// protected.
std::vector<int32_t> choose_tokens(std::span<const float> scores, int keep, Protect protect,
                                   int fold);

}  // namespace pith

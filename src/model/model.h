// A model as it lies in a GGUF file: configuration and weights, no behaviour. Architectures differ
// in this data and in a few named steps of the forward pass (runtime/blocks.cpp); nothing here
// depends on how a prompt is compressed.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "gguf/gguf.h"
#include "tensor/kv_shape.h"
#include "tensor/view.h"

namespace pith {

enum class NormKind { rms, layer };
enum class FeedForwardKind { silu_gated, gelu_gated, gelu };  // gelu: up, then down, no gate (MPT)

struct ModelConfig {
  std::string arch;  // "llama", "qwen2", "qwen3", "gemma2", "gemma3", "mpt"
  std::string name;
  KvShape shape;  // ropes has every layer, if need be one that turns nothing
  int ffn_width = 0;
  int vocab = 0;
  int max_position = 0;
  float norm_eps = 1e-5f;
  NormKind norm = NormKind::rms;
  FeedForwardKind feed_forward = FeedForwardKind::silu_gated;
  float embedding_scale = 1;         // gemma: sqrt(width)
  float logit_softcap = 0;           // of the final logits; 0: none
  float clamp_qkv = 0;               // MPT; 0: none
  std::vector<AttentionRule> rules;  // [layers]; alibi spans, and inv_freq spans of
                                     // shape.ropes, point into this object's model
  std::string digest;                // names the model in calibration and session files
};

// Spans are empty and matrices false where a model has no such weight.
struct LayerWeights {
  std::span<const float> attn_norm, attn_norm_bias;      // [width]
  std::span<const float> ffn_norm, ffn_norm_bias;        // [width]
  std::span<const float> attn_post_norm, ffn_post_norm;  // [width], gemma: on the branch's output
  std::span<const float> q_norm, k_norm;                 // [dim], before rotation
  std::span<const float> q_bias, k_bias, v_bias, o_bias;
  WeightMatrix wq, wk, wv, wo;  // [heads * dim, width], wo is [width, query_heads * dim]
  WeightMatrix gate, up, down;  // [ffn_width, width], down is [width, ffn_width]
};

struct Weights {
  WeightMatrix embedding;  // [vocab, width]
  std::vector<LayerWeights> layers;
  std::span<const float> final_norm, final_norm_bias;
  WeightMatrix unembedding;  // [vocab, width]; the embedding if the file ties them
};

class Model {
 public:
  // Throws bad_file or unsupported with a sentence that names the file and the field.
  static std::shared_ptr<const Model> load(std::shared_ptr<const GgufFile> file);
  static std::shared_ptr<const Model> load(const std::string& gguf_path);
  virtual ~Model() = default;
  virtual const ModelConfig& config() const = 0;
  virtual const Weights& weights() const = 0;
  virtual const GgufFile& file() const = 0;
  virtual size_t weight_bytes() const = 0;  // of all tensors
};

}  // namespace pith

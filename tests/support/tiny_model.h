// Tiny random models of every architecture, as GGUF files with a small SentencePiece vocabulary.
// They know nothing; they exist so that every step of the forward pass changes the logits by
// enough for a mistake in it to be seen. tests/support/reference_forward.h computes what they
// should answer.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/dtype.h"

namespace pith::test {

enum class TinyScaling { none, linear, llama3, yarn };

struct TinyModel {
  std::string name = "llama";  // of the variant: letters, digits and underscores
  std::string arch = "llama";  // as in general.architecture
  int layers = 2, width = 32, query_heads = 4, heads = 2, dim = 8, ffn_width = 48;
  int vocab = 291;  // up to 3 + 256: control and byte tokens only
  int context = 512;
  bool tied = false;  // the embedding is also the output matrix

  double rope_base = 10000;
  TinyScaling scaling = TinyScaling::none;
  double scaling_factor = 4;
  int original_context = 64;     // what llama3 and yarn stretch
  double yarn_attention = 0;     // rope.scaling.attn_factor; 0: not written
  double local_rope_base = 0;    // gemma3's sliding layers; 0: not written, 10000
  int window = 0;                // sliding layers; 0: none
  int window_pattern = 0;        // 0: not written, the architecture's own
  double attention_scale = 0;    // 0: not written, the architecture's own
  double attention_softcap = 0;  // gemma2
  double logit_softcap = 0;
  double clamp_qkv = 0, alibi_bias = 8;  // mpt

  DType dtype = DType::f32;  // of matrices; widths must divide by its block
  uint64_t seed = 1;
};

// One of every architecture and of every variant of it that the engine knows.
const std::vector<TinyModel>& tiny_models();
const TinyModel& tiny_model(std::string_view name);

void write_tiny_model(const TinyModel& model, const std::string& path);
// Writes it into a new folder under TempDir and returns the path.
std::string write_tiny_model(const TinyModel& model);

// Ids to feed a tiny model with, the same for the same seed; none of them a control token.
std::vector<int32_t> tiny_tokens(const TinyModel& model, int count, uint64_t seed = 1);

// A fresh empty folder under ::testing::TempDir(), ending in '/'.
std::string fresh_folder();

}  // namespace pith::test

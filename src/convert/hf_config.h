// config.json of a Hugging Face folder, reduced to what a GGUF file says of a model. Settings that
// the engine does not compute are refused here, by name, instead of converting to a wrong model.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "gguf/gguf.h"

namespace pith {

enum class RopeScaling { none, linear, llama3, yarn };

struct HfConfig {
  std::string arch;  // as GGUF names it
  std::string file;  // config.json's path, for messages
  std::string name;  // of the model
  int64_t layers = 0, width = 0, query_heads = 0, heads = 0, dim = 0, ffn_width = 0, vocab = 0;
  int64_t context = 0;
  double norm_eps = 0;
  bool tied = false;  // the embedding is also the output matrix

  double rope_base = 10000, local_rope_base = 10000;  // local: gemma3's sliding layers
  RopeScaling scaling = RopeScaling::none;
  double scaling_factor = 1;
  int64_t original_context = 0;            // llama3, yarn
  double low_factor = 1, high_factor = 4;  // llama3
  double beta_fast = 32, beta_slow = 1;    // yarn
  double attention_factor = 1;             // yarn: of what YaRN's own formula gives

  int64_t window = 0;          // sliding layers look this far back; 0: none
  int64_t window_pattern = 0;  // every such layer is global; 0: the architecture's own
  double attention_scale = 0;  // 0: 1 / sqrt(dim)
  double attention_softcap = 0, logit_softcap = 0;
  double clamp_qkv = 0, alibi_bias = 0;  // mpt

  bool gemma() const { return arch == "gemma2" || arch == "gemma3"; }
  // Of the rotation's pairs: what llama3's scaling divides each frequency by. Empty otherwise.
  std::vector<float> rope_divisors() const;
};

// Throws bad_file for what is missing or senseless, unsupported for what cannot be computed.
HfConfig read_hf_config(const std::string& folder);
// general.architecture, general.name and everything under the architecture's own prefix.
void write_hf_config(GgufWriter& out, const HfConfig& config);

}  // namespace pith

// Logits to a token. Steps run in this order, each skipped at its neutral value: logit bias,
// penalties, then mirostat 2 alone, or temperature 0 (the most likely token, ties to the lower
// id), or top-k, typical, top-p, min-p, temperature and a draw. Deterministic by seed.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "base/random.h"

namespace pith {

struct SamplingOptions {
  float temperature = 0.8f;
  int top_k = 40;  // 0: all
  float top_p = 0.95f;
  float min_p = 0.05f;
  float typical_p = 1;
  int min_keep = 1;
  int penalty_last = 64;        // tokens the penalties look back; 0: none, -1: all
  float repeat_penalty = 1;     // divides positive logits, multiplies negative ones
  float frequency_penalty = 0;  // per occurrence
  float presence_penalty = 0;   // once
  int mirostat = 0;             // 0 or 2
  float mirostat_tau = 5, mirostat_eta = 0.1f;
  std::vector<std::pair<int32_t, float>> logit_bias = {};  // -infinity forbids
  uint64_t seed = 0;
};

class Sampler {
 public:
  explicit Sampler(const SamplingOptions& options);
  // `history` is everything fed and generated. Changes the logits in place.
  int32_t sample(std::span<float> logits, std::span<const int32_t> history);
  const SamplingOptions& options() const { return options_; }

 private:
  void collect(std::span<const float> logits);
  void cut(size_t count);
  void keep_typical();
  int32_t mirostat();
  int32_t draw(const std::vector<std::pair<float, int32_t>>& probabilities);

  SamplingOptions options_;
  Random random_;
  float mu_;
  std::vector<std::pair<float, int32_t>> candidates_;
};

}  // namespace pith

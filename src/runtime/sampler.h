// Logits to a token. Steps run in this order, each skipped at its neutral value: logit bias,
// penalties; then at temperature 0 the most likely token (ties to the lower id), or mirostat 2
// after the temperature, or top-k, typical, top-p, min-p, temperature and a draw. Each step sees
// the candidates its predecessors left, with probabilities that add up to one.
//
// Deterministic: the same options, logits and history give the same tokens on every machine whose
// exp and log round alike, whatever order the sorting takes. Logits that are NaN count as
// forbidden.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "base/random.h"

namespace pith {

struct SamplingOptions {
  float temperature = 0.8f;
  int top_k = 40;               // 0: all
  float top_p = 0.95f;          // the likeliest that reach this share; 1: all
  float min_p = 0.05f;          // of the likeliest's probability; 0: all
  float typical_p = 1;          // arXiv:2202.00666; 1: all
  int min_keep = 1;             // what top-k, typical, top-p and min-p leave at least
  int penalty_last = 64;        // tokens the penalties look back; 0: none, -1: all
  float repeat_penalty = 1;     // divides positive logits, multiplies negative ones
  float frequency_penalty = 0;  // subtracted per occurrence
  float presence_penalty = 0;   // subtracted once
  int mirostat = 0;             // 0 or 2 (arXiv:2007.14966, without its estimate of Zipf's law)
  float mirostat_tau = 5;       // the surprise aimed at, in bits
  float mirostat_eta = 0.1f;    // how fast its limit follows
  std::vector<std::pair<int32_t, float>> logit_bias = {};  // added; -infinity forbids
  uint64_t seed = 0;
};

class Sampler {
 public:
  // Throws bad_option, with the option's name, for a value outside its range.
  explicit Sampler(const SamplingOptions& options);
  // `logits`: one per token of the vocabulary; biased and penalised in place. `history` is
  // everything fed and generated. Throws bad_option for a bias on a token there is not, and
  // bad_request if no token is left to choose.
  int32_t sample(std::span<float> logits, std::span<const int32_t> history);
  const SamplingOptions& options() const { return options_; }

 private:
  struct Candidate {
    float logit;
    int32_t token;
  };
  static bool likelier(const Candidate& a, const Candidate& b);

  void penalise(std::span<float> logits, std::span<const int32_t> history);
  void collect(std::span<const float> logits);
  void keep_top_k();
  void keep_typical();
  void keep_top_p();
  void keep_min_p();
  int32_t draw();
  int32_t draw_mirostat();

  size_t at_least() const { return static_cast<size_t>(options_.min_keep); }
  void sort_first(size_t count);

  SamplingOptions options_;
  Random random_;
  double mu_;  // mirostat: no token more surprising than this, in bits
  // Those still in question. The first `sorted_` of them are the likeliest, in order.
  std::vector<Candidate> candidates_;
  size_t sorted_ = 0;
  std::vector<double> weights_;  // of the candidates; scratch
  std::vector<int32_t> counts_;  // of tokens in the window of the penalties; scratch, all zero
};

}  // namespace pith

// What the logits of a session say about a text, and about those of the full cache.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace pith {

// Scores of one session over many tokens.
struct Fidelity {
  int64_t tokens = 0;
  double nll = 0, nll_squares = 0;  // sums
  int64_t agreements = 0;           // most likely token the same as the full cache's
  std::vector<float> divergences;   // per token, from the full cache; empty for itself

  void add(std::span<const float> logits, int32_t token);
  void compare(std::span<const float> full_logits, std::span<const float> logits);

  double mean_nll() const;
  double perplexity() const;
  double perplexity_error() const;  // one standard error of the mean, carried to perplexity
  double mean_divergence() const;
  double divergence_quantile(double share) const;
  double agreement() const;  // share of the tokens
};

}  // namespace pith

#include "eval/fidelity.h"

#include <algorithm>
#include <cmath>

#include "runtime/likelihood.h"

namespace pith {

void Fidelity::add(std::span<const float> logits, int32_t token) {
  const double loss = negative_log_likelihood(logits, token);
  ++tokens;
  nll += loss;
  nll_squares += loss * loss;
}

void Fidelity::compare(std::span<const float> full_logits, std::span<const float> logits) {
  divergences.push_back(static_cast<float>(kl_divergence(full_logits, logits)));
  if (most_likely(full_logits) == most_likely(logits)) ++agreements;
}

double Fidelity::mean_nll() const {
  return tokens > 0 ? nll / static_cast<double>(tokens) : 0;
}

double Fidelity::perplexity() const {
  return std::exp(mean_nll());
}

double Fidelity::perplexity_error() const {
  if (tokens < 2) return 0;
  const double n = static_cast<double>(tokens);
  const double variance = std::max(nll_squares / n - mean_nll() * mean_nll(), 0.0);
  return perplexity() * std::sqrt(variance / (n - 1));
}

double Fidelity::mean_divergence() const {
  double sum = 0;
  for (const float divergence : divergences) sum += divergence;
  return divergences.empty() ? 0 : sum / static_cast<double>(divergences.size());
}

double Fidelity::divergence_quantile(double share) const {
  if (divergences.empty()) return 0;
  std::vector<float> sorted = divergences;
  const auto at = static_cast<size_t>(std::lround(share * static_cast<double>(sorted.size() - 1)));
  std::ranges::nth_element(sorted, sorted.begin() + static_cast<std::ptrdiff_t>(at));
  return sorted[at];
}

double Fidelity::agreement() const {
  return divergences.empty()
             ? 0
             : static_cast<double>(agreements) / static_cast<double>(divergences.size());
}

}  // namespace pith

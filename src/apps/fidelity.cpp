#include "apps/fidelity.h"

#include <algorithm>
#include <cmath>

namespace pith {
namespace {

double log_sum_exp(std::span<const float> logits) {
  const double most = *std::ranges::max_element(logits);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - most);
  return most + std::log(sum);
}

}  // namespace

double negative_log_likelihood(std::span<const float> logits, int32_t token) {
  return log_sum_exp(logits) - static_cast<double>(logits[static_cast<size_t>(token)]);
}

double kl_divergence(std::span<const float> p_logits, std::span<const float> q_logits) {
  const double p_total = log_sum_exp(p_logits), q_total = log_sum_exp(q_logits);
  double sum = 0;
  for (size_t i = 0; i < p_logits.size(); ++i) {
    const double log_p = static_cast<double>(p_logits[i]) - p_total;
    const double p = std::exp(log_p);
    if (p > 0) sum += p * (log_p - (static_cast<double>(q_logits[i]) - q_total));
  }
  return std::max(sum, 0.0);  // rounding may leave -1e-17
}

int32_t most_likely(std::span<const float> logits) {
  return static_cast<int32_t>(std::ranges::max_element(logits) - logits.begin());
}

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

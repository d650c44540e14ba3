#include "runtime/likelihood.h"

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

}  // namespace pith

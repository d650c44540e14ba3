#include "support/attention_oracle.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/random.h"
#include "kernels/kernels.h"

namespace pith::test {
namespace {

constexpr double kNothing = -std::numeric_limits<double>::infinity();

}  // namespace

double oracle_logit(std::span<const float> q, std::span<const float> k, const AttentionRule& rule,
                    int query_head, int64_t q_pos, int64_t k_pos) {
  double logit = 0;
  for (size_t d = 0; d < q.size(); ++d) logit += static_cast<double>(q[d]) * k[d];
  logit *= rule.scale;
  if (rule.softcap > 0) logit = rule.softcap * std::tanh(logit / rule.softcap);
  if (!rule.alibi.empty())
    logit -= rule.alibi[static_cast<size_t>(query_head)] * static_cast<double>(q_pos - k_pos);
  return logit;
}

void AttentionOracle::add(double logit, std::span<const float> value) {
  logits_.push_back(logit);
  values_.push_back(value);
}

void AttentionOracle::skip() {
  logits_.push_back(kNothing);
  values_.emplace_back();
}

double AttentionOracle::max() const {
  double most = kNothing;
  for (double z : logits_) most = std::max(most, z);
  return most;
}

double AttentionOracle::sum() const {
  const double most = max();
  double total = 0;
  for (double z : logits_)
    if (z != kNothing) total += std::exp(z - most);
  return total;
}

std::vector<double> AttentionOracle::probs() const {
  std::vector<double> p(rows());
  const double most = max(), total = sum();
  for (size_t r = 0; r < rows(); ++r)
    if (logits_[r] != kNothing) p[r] = std::exp(logits_[r] - most) / total;
  return p;
}

std::vector<double> AttentionOracle::out(int dim) const {
  std::vector<double> mean(static_cast<size_t>(dim));
  const std::vector<double> p = probs();
  for (size_t r = 0; r < rows(); ++r)
    for (size_t d = 0; d < values_[r].size(); ++d) mean[d] += p[r] * values_[r][d];
  return mean;
}

std::vector<float> normal_numbers(size_t count, uint64_t seed, float spread) {
  Random random(seed);
  std::vector<float> x(count);
  for (float& y : x) y = spread * random.normal();
  return x;
}

double worst(std::span<const float> a, std::span<const double> b) {
  double most = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    const double error = std::abs(a[i] - b[i]) / (1 + std::abs(b[i]));
    if (!(error <= most)) most = error;  // NaN counts as worst
  }
  return most;
}

}  // namespace pith::test

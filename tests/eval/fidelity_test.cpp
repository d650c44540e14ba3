#include "eval/fidelity.h"

#include <cmath>
#include <gtest/gtest.h>
#include <vector>

#include "runtime/likelihood.h"

namespace pith {
namespace {

using Logits = std::vector<float>;

Logits logits_of(const std::vector<double>& probabilities, double shift) {
  Logits logits;
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p) + shift));
  return logits;
}

TEST(Fidelity, OfUniformLogitsIsTheLogarithmOfTheirNumber) {
  EXPECT_NEAR(negative_log_likelihood(Logits(16, 3.0f), 5), std::log(16.0), 1e-12);
}

TEST(Fidelity, TakesLogitsOfAnySize) {
  EXPECT_NEAR(negative_log_likelihood(Logits{1e4f, 1e4f}, 0), std::log(2.0), 1e-12);
  EXPECT_NEAR(negative_log_likelihood(Logits{-1e4f, 1e4f}, 0), 2e4, 1e-9);
}

TEST(Fidelity, DivergesAsTheDistributionsDo) {
  const std::vector<double> p = {0.5, 0.25, 0.25}, q = {0.25, 0.5, 0.25};
  const double expected = 0.5 * std::log(2.0) - 0.25 * std::log(2.0);
  EXPECT_NEAR(kl_divergence(logits_of(p, 0), logits_of(q, 5)), expected, 1e-6);
  EXPECT_EQ(kl_divergence(logits_of(p, 0), logits_of(p, 0)), 0);
}

TEST(Fidelity, GivesTiesToTheLowerToken) {
  EXPECT_EQ(most_likely(Logits{1, 3, 3, 2}), 1);
}

TEST(Fidelity, SumsOverTokens) {
  Fidelity f;
  f.add(logits_of({0.5, 0.5}, 0), 0);
  f.add(logits_of({0.125, 0.875}, 0), 0);
  EXPECT_EQ(f.tokens, 2);
  EXPECT_NEAR(f.nll, std::log(2.0) + std::log(8.0), 1e-6);
  EXPECT_NEAR(f.perplexity(), 4, 1e-5);
  // Two losses ln 2 and ln 8: the standard error of their mean is half their distance.
  EXPECT_NEAR(f.perplexity_error(), 4 * std::log(2.0), 1e-4);
}

TEST(Fidelity, RanksDivergencesAndCountsAgreement) {
  Fidelity f;
  const Logits full = logits_of({0.6, 0.4}, 0);
  for (int i = 0; i < 99; ++i) f.compare(full, full);
  f.compare(full, logits_of({0.4, 0.6}, 0));
  EXPECT_NEAR(f.agreement(), 0.99, 1e-12);
  EXPECT_EQ(f.divergence_quantile(0.5), 0);
  EXPECT_NEAR(f.divergence_quantile(1), 0.2 * std::log(1.5), 1e-6);
  EXPECT_NEAR(f.mean_divergence(), 0.002 * std::log(1.5), 1e-8);
}

TEST(Fidelity, OfNothingIsNothing) {
  const Fidelity f;
  EXPECT_EQ(f.mean_nll(), 0);
  EXPECT_EQ(f.perplexity_error(), 0);
  EXPECT_EQ(f.agreement(), 0);
  EXPECT_EQ(f.divergence_quantile(0.99), 0);
}

}  // namespace
}  // namespace pith

#include "runtime/sampler.h"

#include <algorithm>
#include <cmath>
#include <gtest/gtest.h>
#include <limits>
#include <map>
#include <numeric>
#include <rapidcheck/gtest.h>
#include <set>

#include "base/error.h"

namespace pith {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

using Logits = std::vector<float>;

// Everything off: the plain distribution.
SamplingOptions plain() {
  SamplingOptions options;
  options.temperature = 1;
  options.top_k = 0;
  options.top_p = 1;
  options.min_p = 0;
  options.seed = 7;
  return options;
}

SamplingOptions greedy() {
  SamplingOptions options = plain();
  options.temperature = 0;
  return options;
}

int32_t sample(const SamplingOptions& options, Logits logits,
               const std::vector<int32_t>& history = {}) {
  return Sampler(options).sample(logits, history);
}

Logits logs(const std::vector<double>& shares) {
  Logits logits;
  for (const double share : shares) logits.push_back(static_cast<float>(std::log(share)));
  return logits;
}

// Pearson's statistic of 20,000 draws stays under what it exceeds once in 10,000 seeds, and tokens
// of no share are never drawn.
void expect_shares(const SamplingOptions& options, const Logits& logits,
                   std::vector<double> shares) {
  constexpr int kDraws = 20000;
  constexpr double kOnceIn10000[] = {0, 15.14, 18.42, 21.11, 23.51, 25.74, 27.86, 29.88};
  const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
  Sampler sampler(options);
  std::vector<int> drawn(shares.size());
  for (int i = 0; i < kDraws; ++i) {
    Logits copy = logits;
    ++drawn.at(sampler.sample(copy, {}));
  }
  double statistic = 0;
  int freedom = -1;
  for (size_t t = 0; t < shares.size(); ++t) {
    const double expected = kDraws * shares[t] / sum;
    if (shares[t] == 0) {
      EXPECT_EQ(drawn[t], 0) << "token " << t;
      continue;
    }
    ++freedom;
    statistic += (drawn[t] - expected) * (drawn[t] - expected) / expected;
  }
  EXPECT_LE(statistic, kOnceIn10000[freedom])
      << "drawn: " << ::testing::PrintToString(drawn) << " of " << kDraws;
}

void expect_refused(const SamplingOptions& options, const std::string& part) {
  try {
    Sampler sampler(options);
    ADD_FAILURE() << "no error about " << part;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Errc::bad_option);
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

TEST(Sampler, AtTemperatureZeroTakesTheLikeliestAndOfEqualsTheFirst) {
  EXPECT_EQ(sample(greedy(), {1, 3, 2}), 1);
  EXPECT_EQ(sample(greedy(), {1, 3, 2, 3}), 1);
  EXPECT_EQ(sample(greedy(), {-5}), 0);
}

TEST(Sampler, NeverTakesALogitThatIsNoNumber) {
  EXPECT_EQ(sample(greedy(), {kNaN, 1, kNaN, 2}), 3);
  EXPECT_EQ(sample(greedy(), {kNaN, -kInfinity, -1e30f}), 2);
  expect_shares(plain(), {kNaN, 0, -kInfinity, 0}, {0, 1, 0, 1});
  SamplingOptions all = plain();
  all.top_k = 3;
  all.top_p = 0.99f;
  all.typical_p = 0.99f;
  all.min_p = 0.001f;
  expect_shares(all, {kNaN, 0, -kInfinity, 0}, {0, 1, 0, 1});
  all.mirostat = 2;
  expect_shares(all, {kNaN, 0, -kInfinity, 0}, {0, 1, 0, 1});
}

TEST(Sampler, TakesAnInfiniteLogitForCertain) {
  EXPECT_EQ(sample(greedy(), {0, kInfinity, 1e30f}), 1);
  expect_shares(plain(), {0, kInfinity, 1e30f, kInfinity}, {0, 1, 0, 1});
  SamplingOptions all = plain();
  all.top_p = 0.9f;
  all.typical_p = 0.9f;
  all.min_p = 0.1f;
  EXPECT_EQ(sample(all, {0, kInfinity, 1e30f}), 1);
}

TEST(Sampler, SaysSoWhenNothingIsLeftToChoose) {
  for (SamplingOptions options : {greedy(), plain(), SamplingOptions{}}) {
    EXPECT_THROW(sample(options, {kNaN, -kInfinity}), Error);
    EXPECT_THROW(sample(options, {}), Error);
    options.logit_bias = {{0, -kInfinity}, {1, -kInfinity}};
    try {
      sample(options, {1, 2});
      FAIL() << "no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Errc::bad_request);
      EXPECT_NE(std::string(error.what()).find("no token is left"), std::string::npos);
    }
  }
}

TEST(Sampler, DrawsInProportionToTheProbabilities) {
  expect_shares(plain(), logs({0.5, 0.3, 0.15, 0.05}), {0.5, 0.3, 0.15, 0.05});
}

// Shares are the probabilities to the power 1 / temperature.
TEST(Sampler, TemperatureSharpensAndFlattens) {
  SamplingOptions options = plain();
  options.temperature = 0.5f;
  expect_shares(options, logs({0.6, 0.3, 0.1}), {0.36, 0.09, 0.01});
  options.temperature = 2;
  expect_shares(options, logs({0.64, 0.32, 0.04}), {0.8, std::sqrt(0.32), 0.2});
}

TEST(Sampler, TopKKeepsTheKLikeliestAndOfEqualsTheFirst) {
  SamplingOptions options = plain();
  options.top_k = 2;
  expect_shares(options, logs({0.1, 0.4, 0.2, 0.3}), {0, 0.4, 0, 0.3});
  expect_shares(options, logs({0.25, 0.25, 0.25, 0.25}), {1, 1, 0, 0});
  options.top_k = 9;
  expect_shares(options, logs({0.1, 0.4, 0.2, 0.3}), {0.1, 0.4, 0.2, 0.3});
}

TEST(Sampler, TopPKeepsTheLikeliestUpToTheOneThatReachesIt) {
  SamplingOptions options = plain();
  const Logits logits = logs({0.05, 0.5, 0.15, 0.3});
  options.top_p = 0.79f;
  expect_shares(options, logits, {0, 0.5, 0, 0.3});
  options.top_p = 0.81f;
  expect_shares(options, logits, {0, 0.5, 0.15, 0.3});
  options.top_p = 0;
  expect_shares(options, logits, {0, 1, 0, 0});
}

TEST(Sampler, MinPKeepsWhatIsNotFarBelowTheLikeliest) {
  SamplingOptions options = plain();
  const Logits logits = logs({0.05, 0.5, 0.15, 0.3});
  options.min_p = 0.29f;
  expect_shares(options, logits, {0, 0.5, 0.15, 0.3});
  options.min_p = 0.31f;
  expect_shares(options, logits, {0, 0.5, 0, 0.3});
  options.min_p = 1;
  expect_shares(options, logits, {0, 1, 0, 0});
}

// Surprises of 1, 2, 3 and 3 bits, 1.75 expected: the second is nearest, then the first.
TEST(Sampler, TypicalKeepsWhatIsAsSurprisingAsExpected) {
  SamplingOptions options = plain();
  const Logits logits = logs({0.5, 0.25, 0.125, 0.125});
  options.typical_p = 0.2f;
  expect_shares(options, logits, {0, 1, 0, 0});
  options.typical_p = 0.5f;
  expect_shares(options, logits, {0.5, 0.25, 0, 0});
  options.typical_p = 0.8f;
  expect_shares(options, logits, {0.5, 0.25, 0.125, 0});
}

TEST(Sampler, LeavesAtLeastMinKeep) {
  SamplingOptions options = plain();
  options.min_keep = 3;
  const Logits logits = logs({0.05, 0.5, 0.15, 0.3});
  for (int which = 0; which < 3; ++which) {
    SamplingOptions each = options;
    (which == 0 ? each.top_p : which == 1 ? each.min_p : each.min_p) = which == 0 ? 0.1f : 0.9f;
    if (which == 2) each.top_k = 1;
    expect_shares(each, logits, {0, 0.5, 0.15, 0.3});
  }
}

// Of 0.4, 0.3, 0.2 and 0.1 the best two are 4/7 and 3/7, so the first alone reaches a half.
TEST(Sampler, StepsSeeWhatTheirPredecessorsLeft) {
  SamplingOptions options = plain();
  options.top_p = 0.5f;
  expect_shares(options, logs({0.4, 0.3, 0.2, 0.1}), {0.4, 0.3, 0, 0});
  options.top_k = 2;
  expect_shares(options, logs({0.4, 0.3, 0.2, 0.1}), {1, 0, 0, 0});
}

TEST(Sampler, FiltersBeforeItAppliesTheTemperature) {
  SamplingOptions options = plain();
  options.min_p = 0.31f;
  options.temperature = 2;
  expect_shares(options, logs({0.05, 0.5, 0.15, 0.3}), {0, std::sqrt(0.5), 0, std::sqrt(0.3)});
}

TEST(Sampler, AddsBiasesAndForbids) {
  SamplingOptions options = greedy();
  options.logit_bias = {{0, 2}, {2, -kInfinity}};
  Logits logits = {1, 2, 9};
  EXPECT_EQ(Sampler(options).sample(logits, {}), 0);
  EXPECT_EQ(logits, (Logits{3, 2, -kInfinity}));
  options.logit_bias = {{1, -kInfinity}};
  EXPECT_EQ(sample(options, {0, kInfinity}), 0);
  options.logit_bias = {{3, 1}};
  EXPECT_THROW(sample(options, {0, 0, 0}), Error);
  options.logit_bias = {{-1, 1}};
  EXPECT_THROW(sample(options, {0, 0, 0}), Error);
}

TEST(Sampler, PenalisesWhatWasSaidAsOftenAsItWas) {
  SamplingOptions options = greedy();
  options.repeat_penalty = 2;
  options.frequency_penalty = 0.25f;
  options.presence_penalty = 0.5f;
  Logits logits = {4, -4, 4, 0, 1};
  Sampler(options).sample(logits, std::vector<int32_t>{0, 1, 0, 0, 3});
  EXPECT_EQ(logits, (Logits{2 - 0.75f - 0.5f, -8 - 0.25f - 0.5f, 4, -0.75f, 1}));
}

TEST(Sampler, LooksBackOnlyAsFarAsTold) {
  SamplingOptions options = greedy();
  options.presence_penalty = 1;
  const std::vector<int32_t> history = {0, 1, 2, 1};
  const auto penalised = [&](int last) {
    options.penalty_last = last;
    Logits logits = {0, 0, 0, 0};
    Sampler(options).sample(logits, history);
    return logits;
  };
  EXPECT_EQ(penalised(0), (Logits{0, 0, 0, 0}));
  EXPECT_EQ(penalised(1), (Logits{0, -1, 0, 0}));
  EXPECT_EQ(penalised(2), (Logits{0, -1, -1, 0}));
  EXPECT_EQ(penalised(99), (Logits{-1, -1, -1, 0}));
  EXPECT_EQ(penalised(-1), (Logits{-1, -1, -1, 0}));
}

TEST(Sampler, PenaltiesDoNotAddUpFromCallToCall) {
  SamplingOptions options = greedy();
  options.frequency_penalty = 1;
  Sampler sampler(options);
  for (int call = 0; call < 3; ++call) {
    Logits logits = {0, 0};
    sampler.sample(logits, std::vector<int32_t>{1, 1, -5, 77});  // two are no tokens
    EXPECT_EQ(logits, (Logits{0, -2}));
  }
}

// At the start the limit is 2 tau. Shares 1/2, 1/4, 1/8, 1/8 are surprises of 1, 2, 3, 3 bits.
TEST(Sampler, MirostatCutsWhatIsMoreSurprisingThanItsLimit) {
  SamplingOptions options = plain();
  options.mirostat = 2;
  options.mirostat_eta = 0;  // the limit stays
  const Logits logits = logs({0.5, 0.25, 0.125, 0.125});
  options.mirostat_tau = 0.25f;
  expect_shares(options, logits, {1, 0, 0, 0});
  options.mirostat_tau = 1.01f;
  expect_shares(options, logits, {0.5, 0.25, 0, 0});
  options.mirostat_tau = 1.51f;
  expect_shares(options, logits, {0.5, 0.25, 0.125, 0.125});
}

// The limit by hand: after each draw it moves by eta times how far the surprise was off.
TEST(Sampler, MirostatMovesItsLimitByTheSurpriseOfWhatItDrew) {
  const std::vector<double> shares = {0.5, 0.25, 0.125, 0.0625, 0.0625};
  SamplingOptions options = plain();
  options.mirostat = 2;
  options.mirostat_tau = 1.2f;
  options.mirostat_eta = 0.9f;
  Sampler sampler(options);
  double limit = 2 * 1.2;
  std::set<size_t> sizes;
  for (int draw = 0; draw < 500; ++draw) {
    Logits logits = logs(shares);
    const int32_t token = sampler.sample(logits, {});
    double kept = 0.5;
    size_t size = 1;
    while (size < shares.size() && -std::log2(shares[size]) <= limit) kept += shares[size++];
    ASSERT_LT(static_cast<size_t>(token), size) << "draw " << draw;
    sizes.insert(size);
    limit -= 0.9 * (std::log2(kept / shares[token]) - 1.2);
  }
  EXPECT_GE(sizes.size(), 3u);  // the limit did move
}

TEST(Sampler, MirostatHoldsTheAverageSurpriseAtItsAim) {
  std::vector<double> shares(2000);
  for (size_t i = 0; i < shares.size(); ++i) shares[i] = 1.0 / (static_cast<double>(i) + 1);
  const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
  SamplingOptions options = plain();
  options.mirostat = 2;
  options.mirostat_tau = 3;
  Sampler sampler(options);
  double kept_surprise = 0;
  double limit = 6;
  constexpr int kDraws = 3000;
  for (int draw = 0; draw < kDraws; ++draw) {
    Logits logits = logs(shares);
    const int32_t token = sampler.sample(logits, {});
    double kept = shares[0];
    for (size_t i = 1; i < shares.size() && -std::log2(shares[i] / sum) <= limit; ++i)
      kept += shares[i];
    const double surprise = std::log2(kept / shares[token]);
    limit -= 0.1 * (surprise - 3);
    kept_surprise += surprise;
  }
  EXPECT_NEAR(kept_surprise / kDraws, 3, 0.05);
}

TEST(Sampler, RepeatsItselfBySeed) {
  const auto draws = [](uint64_t seed) {
    SamplingOptions options = plain();
    options.seed = seed;
    Sampler sampler(options);
    std::vector<int32_t> tokens;
    for (int i = 0; i < 50; ++i) {
      Logits logits(100, 0.0f);
      tokens.push_back(sampler.sample(logits, {}));
    }
    return tokens;
  };
  EXPECT_EQ(draws(1), draws(1));
  EXPECT_NE(draws(1), draws(2));
}

TEST(Sampler, ACopyGoesOnWhereTheOriginalWas) {
  SamplingOptions options = plain();
  options.mirostat = 2;
  Sampler sampler(options);
  Logits logits(100, 0.0f);
  for (int i = 0; i < 10; ++i) sampler.sample(logits, {});
  Sampler copy = sampler;
  for (int i = 0; i < 20; ++i) {
    Logits again = logits;
    EXPECT_EQ(copy.sample(again, {}), sampler.sample(logits, {}));
  }
}

TEST(Sampler, RefusesOptionsOutOfTheirRange) {
  const auto with = [](auto member, auto value) {
    SamplingOptions options;
    options.*member = value;
    return options;
  };
  using O = SamplingOptions;
  for (const float bad : {-0.1f, kNaN, kInfinity}) {
    expect_refused(with(&O::temperature, bad), "temperature");
    expect_refused(with(&O::top_p, bad), "top_p");
    expect_refused(with(&O::min_p, bad), "min_p");
    expect_refused(with(&O::typical_p, bad), "typical_p");
    expect_refused(with(&O::repeat_penalty, bad), "repeat_penalty");
    expect_refused(with(&O::mirostat_tau, bad), "mirostat_tau");
    expect_refused(with(&O::mirostat_eta, bad), "mirostat_eta");
  }
  expect_refused(with(&O::frequency_penalty, kNaN), "frequency_penalty");
  expect_refused(with(&O::presence_penalty, kInfinity), "presence_penalty");
  expect_refused(with(&O::top_k, -1), "top_k is -1; it must be 0 or more");
  expect_refused(with(&O::min_keep, 0), "min_keep");
  expect_refused(with(&O::penalty_last, -2), "penalty_last");
  expect_refused(with(&O::mirostat, 1), "mirostat is 1; it must be 0 or 2");
  SamplingOptions options;
  options.logit_bias = {{1, kNaN}};
  expect_refused(options, "bias");
}

// What each step keeps, by sorting everything. A step whose cut falls within rounding of a
// candidate's share may keep one more or fewer; such cases are not judged.
struct Kept {
  std::vector<int32_t> tokens;
  bool close = false;
};

Kept kept_slowly(const SamplingOptions& o, const Logits& logits) {
  Kept kept;
  std::vector<std::pair<double, int32_t>> left;
  for (size_t t = 0; t < logits.size(); ++t)
    if (logits[t] > -kInfinity) left.emplace_back(logits[t], static_cast<int32_t>(t));
  const auto by_logit = [](const auto& a, const auto& b) {
    return a.first != b.first ? a.first > b.first : a.second < b.second;
  };
  std::ranges::sort(left, by_logit);
  const auto shares = [&] {
    std::vector<double> p;
    double sum = 0;
    for (const auto& each : left) sum += std::exp(each.first - left[0].first);
    for (const auto& each : left) p.push_back(std::exp(each.first - left[0].first) / sum);
    return p;
  };
  const auto cut_at = [&](const std::vector<double>& p, double share) {
    double reached = 0;
    size_t count = 0;
    while (count < p.size() && (reached < share || count < static_cast<size_t>(o.min_keep))) {
      kept.close |= std::abs(reached - share) < 1e-6;
      reached += p[count++];
    }
    kept.close |= std::abs(reached - share) < 1e-6 && count < p.size();
    left.resize(count);
  };
  if (o.top_k > 0 && static_cast<size_t>(std::max(o.top_k, o.min_keep)) < left.size())
    left.resize(static_cast<size_t>(std::max(o.top_k, o.min_keep)));
  if (o.typical_p < 1) {
    const std::vector<double> p = shares();
    double entropy = 0;
    for (const double each : p)
      if (each > 0) entropy -= each * std::log(each);
    std::vector<std::pair<double, size_t>> order;
    for (size_t i = 0; i < p.size(); ++i) order.emplace_back(std::abs(std::log(p[i]) + entropy), i);
    std::ranges::sort(order);
    for (size_t i = 1; i < order.size(); ++i)
      kept.close |= std::abs(order[i].first - order[i - 1].first) < 1e-6;
    std::vector<std::pair<double, int32_t>> sorted;
    std::vector<double> sorted_p;
    for (const auto& [distance, i] : order) sorted.push_back(left[i]), sorted_p.push_back(p[i]);
    left = sorted;
    cut_at(sorted_p, o.typical_p);
    std::ranges::sort(left, by_logit);
  }
  if (o.top_p < 1) cut_at(shares(), o.top_p);
  if (o.min_p > 0) {
    size_t count = 0;
    while (count < left.size() && (count < static_cast<size_t>(o.min_keep) ||
                                   left[count].first - left[0].first >= std::log(double{o.min_p})))
      ++count;
    for (const auto& each : left)
      kept.close |= std::abs(each.first - left[0].first - std::log(double{o.min_p})) < 1e-5;
    left.resize(count);
  }
  for (const auto& each : left) kept.tokens.push_back(each.second);
  std::ranges::sort(kept.tokens);
  return kept;
}

// At a very high temperature what is kept is drawn evenly, so the draws show it.
RC_GTEST_PROP(Sampler, KeepsWhatSortingEverythingKeeps, ()) {
  SamplingOptions options = plain();
  options.temperature = 1e6f;
  options.seed = *rc::gen::arbitrary<uint64_t>();
  options.top_k = *rc::gen::element(0, 1, 3, 20, 1000, 3000);
  options.top_p = *rc::gen::element(0.1f, 0.6f, 0.97f, 0.9999f, 1.0f);
  options.typical_p = *rc::gen::element(0.2f, 0.9f, 1.0f, 1.0f);
  options.min_p = *rc::gen::element(0.0f, 0.02f, 0.3f);
  options.min_keep = *rc::gen::element(1, 1, 2, 7);
  Random random(*rc::gen::arbitrary<uint64_t>());
  const int size = *rc::gen::element(1, 2, 17, 300, 5000);
  const float spread = *rc::gen::element(0.1f, 2.0f, 10.0f);
  Logits logits;
  for (int t = 0; t < size; ++t)
    logits.push_back(t % 97 == 13 ? -kInfinity : spread * random.normal());
  const Kept kept = kept_slowly(options, logits);
  RC_PRE(!kept.close);
  Sampler sampler(options);
  std::set<int32_t> drawn;
  const int draws = kept.tokens.size() < 12 ? 400 : 60;
  for (int i = 0; i < draws; ++i) {
    Logits copy = logits;
    drawn.insert(sampler.sample(copy, {}));
  }
  RC_ASSERT(std::ranges::includes(kept.tokens, drawn));
  if (kept.tokens.size() < 12) RC_ASSERT(drawn.size() == kept.tokens.size());
}

}  // namespace
}  // namespace pith

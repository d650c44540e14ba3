#include "policy/select.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <iterator>
#include <limits>
#include <numeric>

#include "base/random.h"
#include "gtest/gtest.h"

namespace pith::test {
namespace {

using Rows = std::vector<int32_t>;

Rows selected(const std::vector<float>& scores, int budget, Protect protect) {
  Rows rows;
  top_rows(scores, budget, protect, rows);
  return rows;
}

// Sorts everything, as slowly as can be.
Rows by_sorting(const std::vector<float>& scores, int budget, Protect protect) {
  const int n = static_cast<int>(scores.size());
  std::vector<std::pair<double, int32_t>> order;  // (-worth, row)
  for (int r = 0; r < n; ++r) {
    double worth = scores[r];
    if (r < protect.sink || r >= n - protect.recent) worth = 1e30;
    order.emplace_back(-worth, r);
  }
  std::ranges::sort(order);
  const int count = std::min(n, std::max(budget, std::min(n, protect.sink + protect.recent)));
  Rows rows;
  for (int i = 0; i < count; ++i) rows.push_back(order[static_cast<size_t>(i)].second);
  std::ranges::sort(rows);
  return rows;
}

TEST(TopRows, AgreesWithSortingForAnyBudgetProtectionAndTies) {
  Random random(7);
  for (int round = 0; round < 2000; ++round) {
    const int n = 1 + static_cast<int>(random.below(60));
    std::vector<float> scores(static_cast<size_t>(n));
    for (float& s : scores) s = static_cast<float>(random.below(8));  // many ties
    const Protect protect{.sink = static_cast<int>(random.below(6)),
                          .recent = static_cast<int>(random.below(10))};
    const int budget = static_cast<int>(random.below(70));
    EXPECT_EQ(selected(scores, budget, protect), by_sorting(scores, budget, protect))
        << "n " << n << " budget " << budget << " sink " << protect.sink << " recent "
        << protect.recent;
  }
}

TEST(TopRows, GivesTiesToTheOlderRow) {
  EXPECT_EQ(selected({1, 1, 1, 1, 1}, 2, {.sink = 0, .recent = 0}), (Rows{0, 1}));
  EXPECT_EQ(selected({1, 2, 1, 2, 1}, 3, {.sink = 0, .recent = 0}), (Rows{0, 1, 3}));
}

// Scores of the same thing, as two instruction sets might round them.
TEST(TopRows, KeepsTheSameRowsOfScoresThatDifferByRoundingOnly) {
  Random random(11);
  const float values[] = {0.7f, -3.0f, 1.0f / 3, 1e-6f, -2e5f, 0.0f};
  for (int round = 0; round < 500; ++round) {
    std::vector<float> a, b;
    for (int r = 0; r < 40; ++r) {
      const float value = values[random.below(std::size(values))];
      const auto rounded = [&] {
        return value * (1 + 0x1p-21f * (static_cast<float>(random.below(9)) - 4));
      };
      a.push_back(rounded());
      b.push_back(rounded());
    }
    const int budget = static_cast<int>(random.below(41));
    EXPECT_EQ(selected(a, budget, {.sink = 2, .recent = 3}),
              selected(b, budget, {.sink = 2, .recent = 3}));
  }
}

TEST(Comparable, IsTheNearestNumberOfThirteenBits) {
  Random random(3);
  for (int i = 0; i < 20000; ++i) {
    const float x = std::bit_cast<float>(static_cast<uint32_t>(random.next()));
    const float y = comparable(x);
    if (std::isnan(x)) {
      EXPECT_TRUE(std::isnan(y));
      continue;
    }
    if (std::isinf(x)) {
      EXPECT_EQ(y, x);
      continue;
    }
    ASSERT_TRUE(std::isfinite(y));
    int exponent = 0;
    const double fraction = std::frexp(static_cast<double>(y), &exponent);
    if (std::abs(x) > 0x1p-125f && y != x) {
      EXPECT_EQ(std::ldexp(fraction, 13), std::nearbyint(std::ldexp(fraction, 13))) << x;
      EXPECT_LE(std::abs(static_cast<double>(x) - y), std::abs(static_cast<double>(x)) * 0x1p-13);
    }
  }
  EXPECT_EQ(comparable(std::numeric_limits<float>::max()), std::numeric_limits<float>::max());
  EXPECT_EQ(comparable(4096.0f), 4096.0f);
  EXPECT_EQ(comparable(8191.0f), 8191.0f);
}

TEST(TopRows, TakesMinusZeroForZero) {
  EXPECT_EQ(selected({-0.0f, 0.0f, -0.0f, 0.0f}, 2, {.sink = 0, .recent = 0}), (Rows{0, 1}));
}

TEST(TopRows, RaisesABudgetBelowTheProtectedRows) {
  EXPECT_EQ(selected({9, 9, 0, 9, 0, 0}, 1, {.sink = 1, .recent = 2}), (Rows{0, 4, 5}));
}

TEST(TopRows, TakesNanForTheLowestScore) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(selected({nan, -5, nan, -9, nan}, 2, {.sink = 0, .recent = 0}), (Rows{1, 3}));
  EXPECT_EQ(selected({nan, nan, nan}, 2, {.sink = 0, .recent = 0}), (Rows{0, 1}));
}

TEST(ShareOut, AddsUpToTheTotalUnderCaps) {
  Random random(11);
  for (int round = 0; round < 3000; ++round) {
    const size_t n = 1 + random.below(12);
    std::vector<double> weights(n);
    std::vector<int> caps(n);
    for (double& w : weights) w = random.below(4) == 0 ? 0 : random.uniform();
    for (int& c : caps) c = static_cast<int>(random.below(50));
    const int total = static_cast<int>(random.below(400));
    const std::vector<int> parts = share_out(weights, caps, total);
    const int room = std::accumulate(caps.begin(), caps.end(), 0);
    EXPECT_EQ(std::accumulate(parts.begin(), parts.end(), 0), std::min(total, room));
    for (size_t i = 0; i < n; ++i) {
      EXPECT_GE(parts[i], 0);
      EXPECT_LE(parts[i], caps[i]);
    }
  }
}

TEST(ShareOut, GivesTheRestToTheLargestRemainders) {
  const std::vector<int> caps(3, 1000);
  // 5.2, 2.4, 2.4: the remainder of the second is larger than that of the first.
  EXPECT_EQ(share_out(std::vector<double>{0.52, 0.24, 0.24}, caps, 10),
            (std::vector<int>{5, 3, 2}));
  EXPECT_EQ(share_out(std::vector<double>{1, 1, 1}, caps, 11), (std::vector<int>{4, 4, 3}));
}

TEST(ShareOut, SharesWhatAFullPartLeavesAmongTheOthers) {
  EXPECT_EQ(share_out(std::vector<double>{8, 1, 1}, std::vector<int>{10, 100, 100}, 50),
            (std::vector<int>{10, 20, 20}));
  EXPECT_EQ(share_out(std::vector<double>{1, 0, 0}, std::vector<int>{10, 100, 100}, 31),
            (std::vector<int>{10, 11, 10}));
}

TEST(ShareOut, TreatsWeightsThatAreNoSharesAsZero) {
  const double nan = std::nan(""), infinity = std::numeric_limits<double>::infinity();
  EXPECT_EQ(share_out(std::vector<double>{nan, infinity, -3, 2}, std::vector<int>(4, 9), 9),
            (std::vector<int>{0, 0, 0, 9}));
  EXPECT_EQ(share_out(std::vector<double>{0, 0}, std::vector<int>{5, 5}, -4),
            (std::vector<int>{0, 0}));
}

std::vector<float> pooled(std::vector<float> scores, int width, Pool pool) {
  pool_scores(scores, width, pool);
  return scores;
}

TEST(PoolScores, LetsTheLargestNeighbourWin) {
  EXPECT_EQ(pooled({-3, -1, -2, -5, -9, -4}, 3, Pool::max),
            (std::vector<float>{-1, -1, -1, -2, -4, -4}));
}

TEST(PoolScores, PadsTheMeanWithZerosAndDividesByTheWidth) {
  EXPECT_EQ(pooled({3, 6, 9}, 3, Pool::mean), (std::vector<float>{3, 6, 5}));
  EXPECT_EQ(pooled({10}, 5, Pool::mean), (std::vector<float>{2}));
}

TEST(PoolScores, LeavesScoresAloneWithoutNeighbours) {
  EXPECT_EQ(pooled({3, 1, 2}, 1, Pool::max), (std::vector<float>{3, 1, 2}));
  EXPECT_EQ(pooled({3, 1, 2}, 7, Pool::none), (std::vector<float>{3, 1, 2}));
  EXPECT_TRUE(pooled({}, 7, Pool::max).empty());
}

TEST(ValuePerKey, IsTheRatioOfLengthsAndFiniteForAKeyOfZeros) {
  const float v[] = {3, 4}, k[] = {0, -2}, zero[] = {0, 0};
  EXPECT_DOUBLE_EQ(value_per_key(v, k), 2.5);
  EXPECT_DOUBLE_EQ(value_per_key(zero, k), 0);
  EXPECT_DOUBLE_EQ(value_per_key(v, zero), 5 / double{1e-12f});
}

}  // namespace
}  // namespace pith::test

// Which rows of a head go to which tier, and that the store holds them so.
#include "policy/tiers.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "gtest/gtest.h"

namespace pith::test {
namespace {

constexpr PageFormats kFour = {Quant::q4_channels, Quant::q4_groups32};
constexpr PageFormats kTwo = {Quant::q2_channels, Quant::q2_groups32};

StoreSpec spec_of(double four, double two, int page) {
  StoreSpec spec;
  spec.page_rows = page;
  spec.tiers = {{.share = four, .formats = kFour}, {.share = two, .formats = kTwo}};
  return spec;
}

TEST(TierOrder, GivesTheLowestScoresTheFewestBitsInWholePages) {
  // Forty rows, of which the higher score higher; pages of 4.
  std::vector<float> scores;
  for (int r = 0; r < 40; ++r) scores.push_back(static_cast<float>(r));
  const TierOrder plan =
      tier_order(100, 0, scores, {.sink = 2, .recent = 3}, spec_of(0.25, 0.5, 4));
  // 20 rows in two bits: 2 to 21, the sinks stay; 10 in four, which is 2 pages: 22 to 29.
  std::vector<int32_t> expected = {100, 101, 130, 131, 132, 133, 134, 135};
  for (int r = 22; r < 30; ++r) expected.push_back(100 + r);
  for (int r = 2; r < 22; ++r) expected.push_back(100 + r);
  for (int r = 36; r < 40; ++r) expected.push_back(100 + r);
  EXPECT_EQ(plan.order, expected);
  EXPECT_EQ(plan.tiers, (std::vector<uint8_t>{0, 0, 1, 1, 2, 2, 2, 2, 2}));
}

TEST(TierOrder, LeavesRowsOfEarlierTurnsPlainAndInFront) {
  const std::vector<float> scores = {1, 1, 1, 1, 1, 1, 1, 9};
  const TierOrder plan = tier_order(8, 3, scores, {.sink = 0, .recent = 1}, spec_of(0, 0.5, 4));
  // Equal scores: the higher row has fewer bits. Seven plain rows: one page, and three behind.
  EXPECT_EQ(plan.order, (std::vector<int32_t>{8, 9, 10, 11, 14, 15, 16, 17, 12, 13, 18}));
  EXPECT_EQ(plan.tiers, (std::vector<uint8_t>{0, 2}));
}

TEST(TierOrder, KeepsProtectedRowsAndANewestPlainHoweverSmallThePrompt) {
  for (const int rows : {0, 1, 2, 5, 9}) {
    const std::vector<float> scores(static_cast<size_t>(rows), std::nanf(""));
    const TierOrder plan = tier_order(0, 0, scores, {.sink = 4, .recent = 4}, spec_of(0, 1, 4));
    std::vector<int32_t> expected;
    for (int r = 0; r < rows; ++r) expected.push_back(r);
    EXPECT_EQ(plan.order, expected);
  }
}

}  // namespace
}  // namespace pith::test

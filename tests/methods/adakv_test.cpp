#include <algorithm>
#include <cmath>

#include "gtest/gtest.h"
#include "support/recorded_rows.h"
#include "support/score_oracles.h"
#include "support/toy_prompt.h"
#include "support/vote_oracle.h"

namespace pith::test {
namespace {

TEST(Adakv, SharesALayersRowsByTheWinnersAmongAllItsScores) {
  constexpr int kRows = 260, kBudget = 40, kWindow = 8;
  ToyPrompt prompt("adakv:budget=40+snapkv:window=8");
  std::vector<RecordedLayer> seen;
  record_layers(prompt, seen);
  const auto record = prompt.plant;
  prompt.plant = [&](int layer, Cube q, Cube k, Cube v) {
    for (int64_t r = 0; r < k.dim[1]; ++r)  // head 1 looks at few rows
      for (float& x : k[1].row(r)) x *= 2.0f;
    record(layer, q, k, v);
  };
  prompt.prefill(kRows);
  for (int l = 0; l < 4; ++l) {
    const auto votes =
        oracle_votes(seen[static_cast<size_t>(l)].queries(), seen[static_cast<size_t>(l)].keys(),
                     {.window = kWindow, .width = 7, .pool = OraclePool::max});
    std::vector<std::pair<double, int>> all;
    for (int h = 0; h < 2; ++h)
      for (const double s : votes[static_cast<size_t>(h)]) all.emplace_back(s, h);
    std::ranges::sort(all, std::greater());
    const int base = kBudget - kWindow;
    double won[2] = {0, 0};
    for (int i = 0; i < 2 * base; ++i) won[all[static_cast<size_t>(i)].second] += 1;
    EXPECT_NE(won[0], won[1]);
    int total = 0;
    for (int h = 0; h < 2; ++h) {
      const double expected = 0.8 * won[h] + 0.2 * base;
      const int rows = static_cast<int>(prompt.kept(l, h).size());
      EXPECT_NEAR(rows, expected + kWindow, 0.51) << l << " " << h;
      EXPECT_EQ(prompt.kept(l, h),
                oracle_best(votes[static_cast<size_t>(h)], rows - kWindow, kWindow));
      total += rows;
    }
    EXPECT_EQ(total, 2 * kBudget);
  }
}

TEST(Adakv, LeavesEveryHeadItsFloor) {
  ToyPrompt prompt("adakv:budget=52,floor=0.5+knorm:recent=2");
  prompt.plant = [](int, Cube, Cube k, Cube) {  // all of head 1 is better than any of head 0
    for (int64_t r = 0; r < k.dim[1]; ++r)
      for (float& x : k[1].row(r)) x *= 0.01f;
  };
  prompt.prefill(300);
  const int floor = 2 + 25;  // half of the 50 above the protected rows
  EXPECT_EQ(prompt.kept(1, 0).size(), static_cast<size_t>(floor));
  EXPECT_EQ(prompt.kept(1, 0).size() + prompt.kept(1, 1).size(), 104u);
}

TEST(Adakv, TakesTheLayersOfAPyramid) {
  ToyPrompt prompt("adakv:budget=60,pyramid=20+snapkv:window=8"),
      pyramid("pyramidkv:budget=60+snapkv:window=8");
  prompt.prefill(400);
  pyramid.prefill(400);
  for (int l = 0; l < 4; ++l)
    EXPECT_EQ(prompt.kept(l, 0).size() + prompt.kept(l, 1).size(), 2 * pyramid.kept(l, 0).size());
}

}  // namespace
}  // namespace pith::test

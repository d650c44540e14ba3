#include <algorithm>
#include <numeric>

#include "gtest/gtest.h"
#include "support/recorded_rows.h"
#include "support/score_oracles.h"
#include "support/toy_prompt.h"
#include "support/vote_oracle.h"

namespace pith::test {
namespace {

KvShape eight_layers() {
  KvShape shape = toy_shape();
  shape.layers = 8;
  return shape;
}

// Layers of odd number look at few rows with all their weight.
void sharpen(int layer, Cube k) {
  for (int h = 0; h < 2; ++h)
    for (int64_t r = 0; r < k.dim[1]; ++r)
      for (float& x : k[h].row(r)) x *= layer % 2 ? 2.5f : 0.3f;
}

TEST(Dynamickv, TakesRowsBackFromEarlierLayers) {
  ToyPrompt prompt("dynamickv:budget=40", eight_layers());
  prompt.begin(300);
  for (int l = 0; l < 3; ++l) prompt.run_layer();
  EXPECT_EQ(prompt.kept(0, 0).size(), 300u) << "10 budgets of rows at first";
  prompt.run_layer();
  const size_t after_four = prompt.kept(0, 0).size();
  EXPECT_LT(after_four, 300u);
  while (prompt.run_layer()) {
  }
  EXPECT_LT(prompt.kept(0, 0).size(), after_four);
  EXPECT_GT(prompt.compressor().stats().layers_revised, 0);
}

TEST(Dynamickv, EndsWithExactlyTheBudgetOfAllLayers) {
  for (const char* spec : {"dynamickv:budget=40", "dynamickv:budget=0.1,most=2,period=3",
                           "dynamickv:budget=100,period=5", "dynamickv:budget=40,most=1"})
    for (const int tokens : {150, 300, 777}) {
      ToyPrompt prompt(spec, eight_layers());
      prompt.plant = [](int layer, Cube, Cube k, Cube) { sharpen(layer, k); };
      prompt.prefill(tokens);
      const int budget = prompt.policy().amount.of(tokens);
      size_t total = 0;
      for (int l = 0; l < 8; ++l) {
        EXPECT_EQ(prompt.kept(l, 0).size(), prompt.kept(l, 1).size());
        total += prompt.kept(l, 0).size();
      }
      EXPECT_EQ(total, 8u * static_cast<size_t>(std::max(8, budget))) << spec << " " << tokens;
    }
}

// With one redistribution, at the end, and room for everything until then, the shares are those of
// the paper: winners of the global selection, per layer.
TEST(Dynamickv, SharesByTheWinnersOfAllLayers) {
  constexpr int kRows = 200, kBudget = 28, kWindow = 8;
  ToyPrompt prompt("dynamickv:budget=28,period=100,most=100");
  std::vector<RecordedLayer> seen;
  record_layers(prompt, seen);
  const auto record = prompt.plant;
  prompt.plant = [&](int layer, Cube q, Cube k, Cube v) {
    sharpen(layer, k);
    record(layer, q, k, v);
  };
  prompt.prefill(kRows);
  std::vector<std::pair<double, int>> all;
  std::vector<std::vector<std::vector<double>>> votes;
  for (int l = 0; l < 4; ++l) {
    votes.push_back(oracle_votes(seen[static_cast<size_t>(l)].queries(),
                                 seen[static_cast<size_t>(l)].keys(),
                                 {.window = kWindow, .width = 7, .pool = OraclePool::mean}));
    for (int h = 0; h < 2; ++h)
      for (const double s : votes.back()[static_cast<size_t>(h)]) all.emplace_back(s, l);
  }
  std::ranges::sort(all, std::greater());
  constexpr int kBase = kBudget - kWindow;
  std::vector<double> won(4);
  for (int i = 0; i < kBase * 8; ++i)
    won[static_cast<size_t>(all[static_cast<size_t>(i)].second)] += 1;
  for (int l = 0; l < 4; ++l)
    for (int h = 0; h < 2; ++h) {
      const auto kept = prompt.kept(l, h);
      EXPECT_NEAR(static_cast<double>(kept.size()),
                  kWindow + won[static_cast<size_t>(l)] / (kBase * 8) * kBase * 4, 1);
      EXPECT_EQ(kept, oracle_best(votes[static_cast<size_t>(l)][static_cast<size_t>(h)],
                                  static_cast<int>(kept.size()) - kWindow, kWindow));
    }
}

TEST(Dynamickv, NeverHoldsARowTwice) {
  ToyPrompt prompt("dynamickv:budget=60,most=3", eight_layers());
  prompt.plant = [](int layer, Cube, Cube k, Cube) { sharpen(layer, k); };
  prompt.prefill(250);
  for (int l = 0; l < 8; ++l) {
    const auto kept = prompt.kept(l, 1);
    EXPECT_EQ(std::ranges::adjacent_find(kept, std::greater_equal()), kept.end());
  }
}

}  // namespace
}  // namespace pith::test

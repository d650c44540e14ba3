#include <algorithm>

#include "gtest/gtest.h"
#include "support/recorded_rows.h"
#include "support/score_oracles.h"
#include "support/toy_prompt.h"

namespace pith::test {
namespace {

TEST(H2o, KeepsTheRowsThatAllQueriesOfThePromptAttendedToMost) {
  ToyPrompt prompt("h2o:budget=40");
  std::vector<RecordedLayer> seen;
  record_layers(prompt, seen);
  prompt.prefill(200);
  for (int l = 0; l < 4; ++l)
    for (int h = 0; h < 2; ++h)
      EXPECT_EQ(prompt.kept(l, h),
                oracle_rows(oracle_received(seen[static_cast<size_t>(l)], h, 0, 200), 40, 0, 20));
}

TEST(H2o, SplitsTheBudgetBetweenHeavyAndNewestRows) {
  for (const auto& [spec, newest] :
       {std::pair("h2o:budget=40", 20), std::pair("h2o:budget=40,newest=0.25", 10),
        std::pair("h2o:budget=40,newest=0,recent=7", 7)}) {
    ToyPrompt prompt(spec);
    prompt.plant = [](int, Cube, Cube k, Cube) {  // the newest keys attract nobody
      for (int64_t row = k.dim[1] / 2; row < k.dim[1]; ++row)
        for (int h = 0; h < 2; ++h)
          for (float& x : k[h].row(row)) x = 0;
      for (int64_t row = 0; row < k.dim[1] / 2; ++row)
        for (int h = 0; h < 2; ++h)
          for (float& x : k[h].row(row)) x *= 3;
    };
    prompt.prefill(300);
    const auto kept = prompt.kept(1, 0);
    const int late = static_cast<int>(std::ranges::count_if(kept, [](int r) { return r >= 150; }));
    EXPECT_EQ(late, newest) << spec;
    EXPECT_EQ(kept.size(), 40u);
  }
}

TEST(H2o, MayGoBySquaresOfAttention) {
  ToyPrompt prompt("h2o:budget=40,mass=squares,form=prompt"),
      running("h2o:mass=squares,budget=1.0,cache=f32");
  std::vector<RecordedLayer> seen;
  record_layers(prompt, seen);
  prompt.prefill(200);
  running.prefill(200);
  for (int l = 0; l < 4; ++l)
    for (int h = 0; h < 2; ++h) {
      const RecordedLayer& layer = seen[static_cast<size_t>(l)];
      Doubles squares(200);
      for (int64_t head = 2 * h; head < 2 * h + 2; ++head)
        for (int64_t i = 0; i < 200; ++i) {
          const Doubles p = oracle_attention(layer, head, i, 0);
          for (size_t j = 0; j < p.size(); ++j) squares[j] += p[j] * p[j];
        }
      EXPECT_EQ(prompt.kept(l, h), oracle_rows(squares, 40, 0, 32));
    }

  // With a budget of everything nothing leaves, and scores go on.
  const std::vector<float> before = running.scores(1, 0);
  running.decode(1);
  const std::vector<float> after = running.scores(1, 0);
  ASSERT_EQ(after.size(), 201u);
  const ToyHead head = running.head(1, 0);
  const std::vector<float> queries = running.last_queries(1);
  Doubles received(201);
  for (size_t g = 0; g < 2; ++g) {
    Doubles p;
    double total = 0;
    for (size_t r = 0; r < 201; ++r) {
      double z = 0;
      for (size_t d = 0; d < 16; ++d) z += double{queries[g * 16 + d]} * double{head.k[r * 16 + d]};
      total += p.emplace_back(std::exp(z / 4));
    }
    for (size_t r = 0; r < 201; ++r) received[r] += p[r] / total;
  }
  for (size_t r = 0; r < 201; ++r)
    EXPECT_NEAR(after[r] - (r < 200 ? before[r] : 0), received[r] * received[r], 1e-5) << r;
}

// The running sums, computed again in float64 beside the real thing: every generated query adds its
// attention over the rows that are still there, then the worst row before the newest leaves.
TEST(H2o, AddsTheAttentionOfGeneratedTokensAndDropsARowForEach) {
  constexpr int kPrompt = 60, kBudget = 16, kNewest = 8, kSteps = 50;
  ToyPrompt prompt("h2o:budget=16,cache=f32"), full("full:cache=f32");
  std::vector<RecordedLayer> seen;
  record_layers(prompt, seen);
  prompt.prefill(kPrompt);
  full.prefill(kPrompt);
  Doubles sums = oracle_received(seen[2], 1, 0, kPrompt);
  std::vector<int32_t> rows = oracle_rows(sums, kBudget, 0, kNewest);
  for (int step = 0; step < kSteps; ++step) {
    prompt.decode(1);
    full.decode(1);
    const ToyHead all = full.head(2, 1);
    rows.push_back(kPrompt + step);
    sums.push_back(0);
    const std::vector<float> queries = prompt.last_queries(2);
    for (int g = 0; g < 2; ++g) {
      Doubles p;
      double total = 0;
      for (const int32_t r : rows) {
        double z = 0;
        for (size_t d = 0; d < 16; ++d)
          z += double{queries[static_cast<size_t>(2 + g) * 16 + d]} *
               double{all.k[static_cast<size_t>(r) * 16 + d]};
        total += p.emplace_back(std::exp(z / 4));
      }
      for (size_t i = 0; i < rows.size(); ++i) sums[static_cast<size_t>(rows[i])] += p[i] / total;
    }
    size_t worst = 0;
    for (size_t i = 0; i + kNewest < rows.size(); ++i)
      if (sums[static_cast<size_t>(rows[i])] <= sums[static_cast<size_t>(rows[worst])]) worst = i;
    rows.erase(rows.begin() + static_cast<std::ptrdiff_t>(worst));
    ASSERT_EQ(prompt.kept(2, 1), rows) << "step " << step;
  }
}

TEST(H2o, InTheFormOfComparisonsScoresThePromptOnceAndKeepsItsWindow) {
  ToyPrompt prompt("h2o:form=prompt,budget=50,recent=8");
  std::vector<RecordedLayer> seen;
  record_layers(prompt, seen);
  prompt.prefill(150);
  EXPECT_EQ(prompt.kept(3, 1), oracle_rows(oracle_received(seen[3], 1, 0, 150), 50, 0, 8));
  prompt.decode(10);
  EXPECT_EQ(prompt.kept(3, 1).size(), 60u);
}

}  // namespace
}  // namespace pith::test

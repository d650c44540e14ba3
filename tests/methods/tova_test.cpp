#include <algorithm>

#include "gtest/gtest.h"
#include "support/recorded_rows.h"
#include "support/score_oracles.h"
#include "support/toy_prompt.h"

namespace pith::test {
namespace {

TEST(Tova, KeepsWhatTheLastQueryAttendsToTheSameInAllHeads) {
  ToyPrompt prompt("tova:budget=30");
  std::vector<RecordedLayer> seen;
  record_layers(prompt, seen);
  prompt.prefill(200);
  for (int l = 0; l < 4; ++l) {
    Doubles mean(200);
    for (int h = 0; h < 4; ++h) {
      const Doubles p = oracle_attention(seen[static_cast<size_t>(l)], h, 199);
      for (size_t r = 0; r < p.size(); ++r) mean[r] += p[r];
    }
    const auto rows = oracle_rows(mean, 30, 0, 1);
    for (int h = 0; h < 2; ++h) EXPECT_EQ(prompt.kept(l, h), rows);
  }
}

// Every step: attention of the newest query alone, over what is left, averaged over all heads.
TEST(Tova, DropsTheRowThatTheNewestQueryAttendsToLeast) {
  constexpr int kPrompt = 50, kBudget = 12;
  ToyPrompt prompt("tova:budget=12,cache=f32"), full("full:cache=f32");
  prompt.prefill(kPrompt);
  full.prefill(kPrompt);
  std::vector<int32_t> rows = prompt.kept(1, 0);
  ASSERT_EQ(rows.size(), static_cast<size_t>(kBudget));
  for (int step = 0; step < 40; ++step) {
    prompt.decode(1);
    full.decode(1);
    rows.push_back(kPrompt + step);
    Doubles mean(rows.size());
    const std::vector<float> queries = prompt.last_queries(1);
    for (int h = 0; h < 4; ++h) {
      const ToyHead all = full.head(1, h / 2);
      Doubles p;
      double total = 0;
      for (const int32_t r : rows) {
        double z = 0;
        for (size_t d = 0; d < 16; ++d)
          z += double{queries[static_cast<size_t>(h) * 16 + d]} *
               double{all.k[static_cast<size_t>(r) * 16 + d]};
        total += p.emplace_back(std::exp(z / 4));
      }
      for (size_t i = 0; i < p.size(); ++i) mean[i] += p[i] / total;
    }
    size_t worst = 0;
    for (size_t i = 0; i + 1 < rows.size(); ++i)  // the newest stays
      if (mean[i] <= mean[worst]) worst = i;
    rows.erase(rows.begin() + static_cast<std::ptrdiff_t>(worst));
    ASSERT_EQ(prompt.kept(1, 0), rows) << "step " << step;
    ASSERT_EQ(prompt.kept(1, 1), rows) << "step " << step;
  }
}

}  // namespace
}  // namespace pith::test

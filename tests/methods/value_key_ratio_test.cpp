#include <algorithm>
#include <cmath>

#include "gtest/gtest.h"
#include "support/recorded_rows.h"
#include "support/score_oracles.h"
#include "support/toy_prompt.h"

namespace pith::test {
namespace {

double length(const float* row) {
  double sum = 0;
  for (int d = 0; d < 16; ++d) sum += double{row[d]} * double{row[d]};
  return std::sqrt(sum);
}

TEST(ValueKeyRatio, KeepsRowsWithLargeValuesAndSmallKeys) {
  ToyPrompt prompt("value_key_ratio:budget=45,recent=5");
  std::vector<RecordedLayer> seen;
  record_layers(prompt, seen);
  prompt.prefill(210);
  for (int l = 0; l < 4; ++l)
    for (int h = 0; h < 2; ++h) {
      const RecordedLayer& layer = seen[static_cast<size_t>(l)];
      Doubles ratio;
      for (int r = 0; r < 210; ++r)
        ratio.push_back(length(layer.values()[h].row(r).data()) /
                        length(layer.keys()[h].row(r).data()));
      EXPECT_EQ(prompt.kept(l, h), oracle_rows(ratio, 45, 0, 5));
    }
}

TEST(ValueKeyRatio, ScoresGeneratedRowsLikeThoseOfThePrompt) {
  ToyPrompt prompt("value_key_ratio:budget=25,recent=4,reduce_every=1,cache=f32"),
      full("full:cache=f32");
  prompt.prefill(70);
  prompt.decode(60);
  full.prefill(70);
  full.decode(60);
  const ToyHead all = full.head(3, 0);
  Doubles ratio;
  for (size_t r = 0; r < 130; ++r) ratio.push_back(length(&all.v[r * 16]) / length(&all.k[r * 16]));
  // A row that leaves never returns, so the best of all that the newest did not save are there.
  const auto kept = prompt.kept(3, 0);
  double least = 1e9;
  for (size_t i = 0; i + 4 < kept.size(); ++i)
    least = std::min(least, ratio[static_cast<size_t>(kept[i])]);
  for (int32_t r = 0; r < 126; ++r)
    EXPECT_TRUE(std::ranges::binary_search(kept, r) || ratio[static_cast<size_t>(r)] <= least) << r;
}

}  // namespace
}  // namespace pith::test

#include <algorithm>
#include <cmath>

#include "gtest/gtest.h"
#include "support/recorded_rows.h"
#include "support/score_oracles.h"
#include "support/toy_prompt.h"

namespace pith::test {
namespace {

Doubles difference(const std::vector<float>& keys, size_t rows) {
  Doubles mean(16), scores;
  const auto norm = [&](size_t r) {
    double sum = 0;
    for (size_t d = 0; d < 16; ++d) sum += double{keys[r * 16 + d]} * double{keys[r * 16 + d]};
    return std::sqrt(sum);
  };
  for (size_t r = 0; r < rows; ++r)
    for (size_t d = 0; d < 16; ++d)
      mean[d] += keys[r * 16 + d] / norm(r) / static_cast<double>(rows);
  double length = 0;
  for (const double x : mean) length += x * x;
  for (size_t r = 0; r < rows; ++r) {
    double dot = 0;
    for (size_t d = 0; d < 16; ++d) dot += keys[r * 16 + d] * mean[d];
    scores.push_back(-dot / norm(r) / std::sqrt(length));
  }
  return scores;
}

TEST(Keydiff, KeepsTheKeysWithTheSmallestCosineToTheMean) {
  ToyPrompt prompt("keydiff:budget=50,recent=6");
  std::vector<RecordedLayer> seen;
  record_layers(prompt, seen);
  prompt.prefill(180);
  for (int l = 0; l < 4; ++l)
    for (int h = 0; h < 2; ++h) {
      const auto first = seen[static_cast<size_t>(l)].k.begin() + h * 180 * 16;
      EXPECT_EQ(prompt.kept(l, h),
                oracle_rows(difference({first, first + 180 * 16}, 180), 50, 0, 6));
    }
}

TEST(Keydiff, KeepsTheKeysThatAreUnlikeACrowd) {
  ToyPrompt prompt("keydiff:budget=40,recent=0");
  prompt.plant = [](int, Cube, Cube k, Cube) {
    for (int64_t row = 0; row < k.dim[1]; ++row)
      for (int h = 0; h < 2; ++h) k[h].row(row)[3] += row >= 100 && row < 120 ? -20 : 20;
  };
  prompt.prefill(400);
  const auto kept = prompt.kept(2, 1);
  for (int row = 100; row < 120; ++row) EXPECT_TRUE(std::ranges::binary_search(kept, row)) << row;
}

TEST(Keydiff, ComparesWithTheKeysThatAreLeftWhileGenerating) {
  ToyPrompt prompt("keydiff:budget=30,recent=3,reduce_every=1,cache=f32"), full("full:cache=f32");
  prompt.prefill(80);
  full.prefill(80);
  std::vector<int32_t> rows = prompt.kept(0, 1);
  for (int step = 0; step < 30; ++step) {
    prompt.decode(1);
    full.decode(1);
    rows.push_back(80 + step);
    const ToyHead all = full.head(0, 1);
    std::vector<float> keys;
    for (const int32_t r : rows)
      keys.insert(keys.end(), all.k.begin() + r * 16, all.k.begin() + (r + 1) * 16);
    std::vector<int32_t> kept;
    for (const int32_t i : oracle_rows(difference(keys, rows.size()), 30, 0, 3))
      kept.push_back(rows[static_cast<size_t>(i)]);
    rows = kept;
    ASSERT_EQ(prompt.kept(0, 1), rows) << "step " << step;
  }
}

}  // namespace
}  // namespace pith::test

#include <algorithm>
#include <cmath>

#include "gtest/gtest.h"
#include "support/toy_prompt.h"

namespace pith::test {
namespace {

TEST(Knorm, KeepsTheRowsWhoseKeysAreSmall) {
  ToyPrompt prompt("knorm:budget=40,sink=0,recent=0");
  prompt.plant = [](int, Cube, Cube k, Cube) {
    for (int row = 100; row < 120; ++row)
      for (float& x : k[0].row(row)) x *= 0.01f;
  };
  prompt.prefill(400);

  const auto kept = prompt.kept(/*layer=*/2, /*head=*/0);
  EXPECT_EQ(kept.size(), 40u);
  for (int row = 100; row < 120; ++row) EXPECT_TRUE(std::ranges::binary_search(kept, row)) << row;
}

TEST(Knorm, KeepsExactlyTheSmallestNormsOfEachHead) {
  ToyPrompt prompt("knorm:budget=50,recent=8,sink=2");
  std::vector<std::vector<double>> norms(8);
  prompt.plant = [&](int layer, Cube, Cube k, Cube) {
    for (int h = 0; h < 2; ++h)
      for (int r = 0; r < 300; ++r) {
        double sum = 0;
        for (const float x : k[h].row(r)) sum += double{x} * x;
        norms[static_cast<size_t>(layer * 2 + h)].push_back(std::sqrt(sum));
      }
  };
  prompt.prefill(300);
  for (int l = 0; l < 4; ++l)
    for (int h = 0; h < 2; ++h) {
      std::vector<double>& norm = norms[static_cast<size_t>(l * 2 + h)];
      std::vector<int32_t> expected = {0, 1};
      for (int r = 292; r < 300; ++r) expected.push_back(r);
      for (int i = 0; i < 40; ++i) {  // by repeated minimum
        const auto least = std::min_element(norm.begin() + 2, norm.begin() + 292);
        expected.push_back(static_cast<int32_t>(least - norm.begin()));
        *least = 1e9;
      }
      std::ranges::sort(expected);
      EXPECT_EQ(prompt.kept(l, h), expected) << "layer " << l << " head " << h;
    }
}

TEST(Knorm, LetsLargeKeysGoWhileGenerating) {
  ToyPrompt prompt("knorm:budget=20,sink=0,recent=1,reduce_every=1");
  prompt.plant = [](int, Cube, Cube k, Cube) {
    for (int h = 0; h < 2; ++h)  // of a prompt all alike, of the generated tokens two small ones
      for (int64_t r = 0; r < k.dim[1]; ++r)
        for (float& x : k[h].row(r)) x = 1;
  };
  prompt.prefill(20);
  prompt.decode(1);  // planting does not reach generated tokens: norm about 4
  for (int i = 0; i < 30; ++i) {
    prompt.decode(1);
    EXPECT_EQ(prompt.kept(1, 1).size(), 20u);
    EXPECT_EQ(prompt.kept(1, 1).back(), 21 + i);
  }
  // A generated token stays if its key is shorter than the 4 of the prompt's keys.
  std::vector<int32_t> expected;
  for (int token = 20; token < 50; ++token) {
    double sum = 0;
    for (const float x : prompt.raw_key(1, 1, token)) sum += double{x} * x;
    if (sum < 16) expected.push_back(token);
  }
  const auto kept = prompt.kept(1, 1);
  for (const int32_t token : expected)
    EXPECT_TRUE(expected.size() > 19 || std::ranges::binary_search(kept, token)) << token;
}

}  // namespace
}  // namespace pith::test

#include <algorithm>
#include <cmath>

#include "gtest/gtest.h"
#include "support/recorded_rows.h"
#include "support/score_oracles.h"
#include "support/toy_prompt.h"

namespace pith::test {
namespace {

// Norms of keys, all layers and heads in one list: what knorm with one threshold must keep.
TEST(Global, KeepsTheBestRowsOfTheWholeModel) {
  constexpr int kRows = 150, kBudget = 60;
  ToyPrompt prompt("global:budget=60+knorm");
  std::vector<RecordedLayer> seen;
  record_layers(prompt, seen);
  const auto record = prompt.plant;
  prompt.plant = [&](int layer, Cube q, Cube k, Cube v) {
    for (int h = 0; h < 2; ++h)
      for (int64_t r = 0; r < k.dim[1]; ++r)
        for (float& x : k[h].row(r)) x *= 1 + 0.1f * static_cast<float>(layer + h);
    record(layer, q, k, v);
  };
  prompt.prefill(kRows);
  struct Row {
    double norm;
    int layer, head, row;
  };
  std::vector<Row> all;
  for (int l = 0; l < 4; ++l)
    for (int h = 0; h < 2; ++h)
      for (int r = 0; r < kRows - 32; ++r) {  // the vote's default protects 32
        double norm = 0;
        for (const float x : seen[static_cast<size_t>(l)].keys()[h].row(r)) norm += double{x} * x;
        all.push_back({norm, l, h, r});
      }
  std::ranges::stable_sort(all, {}, &Row::norm);
  std::vector<std::vector<int32_t>> kept(8);
  for (int i = 0; i < 8 * (kBudget - 32); ++i)
    kept[static_cast<size_t>(all[static_cast<size_t>(i)].layer * 2 +
                             all[static_cast<size_t>(i)].head)]
        .push_back(all[static_cast<size_t>(i)].row);
  size_t total = 0;
  for (int l = 0; l < 4; ++l)
    for (int h = 0; h < 2; ++h) {
      auto& rows = kept[static_cast<size_t>(l * 2 + h)];
      for (int r = kRows - 32; r < kRows; ++r) rows.push_back(r);
      std::ranges::sort(rows);
      EXPECT_EQ(prompt.kept(l, h), rows);
      total += rows.size();
    }
  EXPECT_EQ(total, 8u * kBudget);
}

TEST(Global, LeavesEveryHeadItsFloor) {
  ToyPrompt prompt("global:budget=72,floor=0.25+knorm");
  prompt.plant = [](int layer, Cube, Cube k, Cube) {
    for (int h = 0; h < 2; ++h)
      for (int64_t r = 0; r < k.dim[1]; ++r)
        for (float& x : k[h].row(r)) x *= layer == 2 ? 0.01f : 1.0f;
  };
  prompt.prefill(500);
  size_t total = 0;
  for (int l = 0; l < 4; ++l)
    for (int h = 0; h < 2; ++h) {
      EXPECT_GE(prompt.kept(l, h).size(), 32u + 10) << l;
      total += prompt.kept(l, h).size();
    }
  EXPECT_EQ(total, 8u * 72);
  EXPECT_EQ(prompt.kept(0, 0).size(), 42u);
}

}  // namespace
}  // namespace pith::test

#include <algorithm>
#include <cmath>

#include "gtest/gtest.h"
#include "support/recorded_rows.h"
#include "support/toy_prompt.h"

namespace pith::test {
namespace {

double cosine(const float* a, const float* b) {
  double ab = 0, aa = 0, bb = 0;
  for (int d = 0; d < 16; ++d) {
    ab += double{a[d]} * double{b[d]};
    aa += double{a[d]} * double{a[d]};
    bb += double{b[d]} * double{b[d]};
  }
  return ab / std::sqrt(aa * bb);
}

// The values that the kept rows must have, in float64.
std::vector<std::vector<double>> merged(const ToyHead& all, const std::vector<int32_t>& kept,
                                        int rows) {
  std::vector<std::pair<int, double>> target(static_cast<size_t>(rows), {-1, -2});
  double mean = 0;
  for (int r = 0; r < rows; ++r) {
    if (std::ranges::binary_search(kept, r)) continue;
    for (size_t c = 0; c < kept.size(); ++c) {
      const double like =
          cosine(&all.k[static_cast<size_t>(r) * 16], &all.k[static_cast<size_t>(kept[c]) * 16]);
      if (like > target[static_cast<size_t>(r)].second)
        target[static_cast<size_t>(r)] = {static_cast<int>(c), like};
    }
    mean += target[static_cast<size_t>(r)].second /
            static_cast<double>(rows - static_cast<int>(kept.size()));
  }
  std::vector<std::vector<double>> values;
  for (size_t c = 0; c < kept.size(); ++c) {
    std::vector<double> v(16);
    double sum = std::exp(1.0);
    for (size_t d = 0; d < 16; ++d) v[d] = sum * all.v[static_cast<size_t>(kept[c]) * 16 + d];
    for (int r = 0; r < rows; ++r) {
      const auto& [to, like] = target[static_cast<size_t>(r)];
      if (to != static_cast<int>(c) || like < mean) continue;
      sum += std::exp(like);
      for (size_t d = 0; d < 16; ++d)
        v[d] += std::exp(like) * all.v[static_cast<size_t>(r) * 16 + d];
    }
    for (double& x : v) x /= sum;
    values.push_back(v);
  }
  return values;
}

TEST(Merge, AddsTheValuesThatLeaveToTheKeptRowsMostLikeThem) {
  ToyPrompt prompt("merge:budget=30,reach=0,cache=f32+snapkv:window=8"),
      dropped("snapkv:budget=30,window=8,cache=f32"), full("full:cache=f32");
  for (ToyPrompt* p : {&prompt, &dropped, &full}) p->prefill(150);
  int changed = 0;
  for (int l = 0; l < 4; ++l)
    for (int h = 0; h < 2; ++h) {
      EXPECT_EQ(prompt.kept(l, h), dropped.kept(l, h)) << "who stays is the scorer's business";
      const ToyHead head = prompt.head(l, h), plain = dropped.head(l, h);
      EXPECT_EQ(head.k, plain.k);
      changed += head.v != plain.v;
      const auto expected = merged(full.head(l, h), prompt.kept(l, h), 150);
      for (size_t c = 0; c < expected.size(); ++c)
        for (size_t d = 0; d < 16; ++d) ASSERT_NEAR(head.v[c * 16 + d], expected[c][d], 1e-5);
    }
  EXPECT_EQ(changed, 8);
}

TEST(Merge, MergesRowsThatLeaveWhileGenerating) {
  ToyPrompt prompt("merge:budget=20,cache=f32,reduce_every=1+knorm:recent=4");
  prompt.prefill(20);
  const ToyHead before = prompt.head(1, 0);
  prompt.decode(1);
  const ToyHead after = prompt.head(1, 0);
  ASSERT_EQ(after.positions.size(), 20u);
  int32_t gone = -1;
  for (const int32_t r : before.positions)
    if (!std::ranges::binary_search(after.positions, r)) gone = r;
  ASSERT_GE(gone, 0) << "an old row leaves, the newest is protected";
  int different = 0;
  for (size_t i = 0; i + 1 < after.positions.size(); ++i) {
    const size_t was = static_cast<size_t>(std::ranges::find(before.positions, after.positions[i]) -
                                           before.positions.begin());
    different += !std::equal(&after.v[i * 16], &after.v[i * 16] + 16, &before.v[was * 16]);
  }
  EXPECT_LE(different, 1) << "one target for one row";
}

TEST(Merge, MergesKeysAsWellIfAskedTo) {
  ToyPrompt values("merge:budget=30,cache=f32+snapkv:window=8"),
      both("merge:budget=30,keys=true,cache=f32+snapkv:window=8");
  values.prefill(100);
  both.prefill(100);
  EXPECT_EQ(values.head(0, 0).v, both.head(0, 0).v);
  EXPECT_NE(values.head(0, 0).k, both.head(0, 0).k);
}

TEST(Merge, OfAForkLeavesTheOriginalAlone) {
  ToyPrompt prompt("merge:budget=40,reduce_every=1+knorm:recent=4");
  prompt.prefill(100);
  const auto before = prompt.heads();
  const auto fork = prompt.fork();
  fork->decode(20);
  EXPECT_EQ(prompt.heads(), before);
}

}  // namespace
}  // namespace pith::test

#include <algorithm>
#include <functional>
#include <numeric>

#include "gtest/gtest.h"
#include "support/recorded_rows.h"
#include "support/score_oracles.h"
#include "support/spec_sentences.h"
#include "support/toy_prompt.h"

namespace pith::test {
namespace {

TEST(Coverage, KeepsTheFewestRowsThatHoldTheMass) {
  constexpr int kRows = 220, kRecent = 6;
  ToyPrompt prompt("coverage:mass=0.8,recent=6+snapkv:window=6,pool=none");
  std::vector<RecordedLayer> seen;
  record_layers(prompt, seen);
  prompt.prefill(kRows);
  for (int l = 0; l < 4; ++l)
    for (int h = 0; h < 2; ++h) {
      const Doubles mass = oracle_received(seen[static_cast<size_t>(l)], h, kRows - 6, kRows);
      const double all = std::accumulate(mass.begin(), mass.end(), 0.0);
      int needed = kRecent;
      const auto held = [&](int count) {
        double sum = 0;
        for (const int32_t r : oracle_rows(mass, count, 0, kRecent))
          sum += mass[static_cast<size_t>(r)];
        return sum;
      };
      while (held(needed) < 0.8 * all) ++needed;
      EXPECT_EQ(prompt.kept(l, h), oracle_rows(mass, needed, 0, kRecent));
    }
  const CompressionStats& stats = prompt.compressor().stats();
  EXPECT_GE(stats.score_kept / stats.score_seen, 0.8);
  EXPECT_LT(stats.score_kept / stats.score_seen, 0.82);
}

void focus(Cube q, Cube k, int first, int last) {
  for (int64_t i = 0; i < q.dim[0]; ++i)
    for (int64_t h = 0; h < q.dim[1]; ++h) q[i].row(h)[5] = 8;
  for (int64_t h = 0; h < k.dim[0]; ++h)
    for (int64_t r = first; r < last; ++r) {
      std::ranges::fill(k[h].row(r), 0.0f);
      k[h].row(r)[5] = 8;
    }
}

TEST(Coverage, AdaptsToHowManyRowsAPromptNeeds) {
  for (const int needles : {3, 30, 90}) {
    ToyPrompt prompt("coverage:mass=0.995,recent=1");
    prompt.plant = [&](int, Cube q, Cube k, Cube) { focus(q, k, 100, 100 + needles); };
    prompt.prefill(600);
    const auto kept = prompt.kept(1, 1);
    for (int r = 100; r < 100 + needles; ++r) EXPECT_TRUE(std::ranges::binary_search(kept, r)) << r;
    EXPECT_LE(kept.size(), static_cast<size_t>(needles) + 8) << needles;
  }
}

TEST(Coverage, StaysBelowItsBudgetAndGivesUpTheRowsWithTheLeastMass) {
  ToyPrompt free("coverage:mass=0.95,recent=2"), limited("coverage:mass=0.95,budget=100,recent=2");
  free.prefill(500);
  limited.prefill(500);
  EXPECT_GT(free.store().rows(), 8 * 100);
  EXPECT_EQ(limited.store().rows(), 8 * 100);
  for (int l = 0; l < 4; ++l)
    for (int h = 0; h < 2; ++h) {
      const auto more = free.kept(l, h), less = limited.kept(l, h);
      EXPECT_TRUE(std::ranges::includes(more, less));
    }
  const CompressionStats& stats = limited.compressor().stats();
  double held = 0;
  for (int l = 0; l < 4; ++l)
    for (int h = 0; h < 2; ++h)
      for (const float s : limited.scores(l, h)) held += s;
  EXPECT_NEAR(stats.score_kept, held, 1e-3 * held) << "reports what is left after revisions";
  EXPECT_LT(stats.score_kept / stats.score_seen, 0.95);
}

TEST(Coverage, HasAFloorAndACeilingForEachHead) {
  ToyPrompt floor("coverage:mass=0.5,floor=30,recent=2"), most("coverage:mass=1,most=50,recent=2");
  floor.plant = [](int, Cube q, Cube k, Cube) { focus(q, k, 10, 12); };
  floor.prefill(300);
  most.prefill(300);
  EXPECT_EQ(floor.kept(0, 0).size(), 32u);
  EXPECT_EQ(most.kept(0, 0).size(), 50u);
}

TEST(Coverage, RefusesScoresThatAreNoAttention) {
  EXPECT_EQ(answer("coverage+knorm"),
            "'coverage' counts attention, and the scores of 'knorm' are no shares of it; tova, h2o "
            "and snapkv:pool=none give some");
  EXPECT_EQ(answer("coverage+snapkv:pool=none"), "ok: coverage+snapkv:pool=none");
}

}  // namespace
}  // namespace pith::test

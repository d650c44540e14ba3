// Tiers: the better a row's score, the more bits it keeps; and what is stored is what was ranked.
#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <utility>

#include "gtest/gtest.h"
#include "kernels/kernels.h"
#include "support/spec_sentences.h"
#include "support/toy_prompt.h"

namespace pith::test {
namespace {

struct Row {
  std::vector<float> k, v;
};

std::map<int32_t, Row> by_position(const ToyHead& head) {
  std::map<int32_t, Row> rows;
  for (size_t r = 0; r < head.positions.size(); ++r) {
    const auto at = static_cast<std::ptrdiff_t>(r) * 16;
    rows[head.positions[r]] = {{head.k.begin() + at, head.k.begin() + at + 16},
                               {head.v.begin() + at, head.v.begin() + at + 16}};
  }
  return rows;
}

double distance(const Row& a, const Row& b) {
  double sum = 0;
  for (size_t d = 0; d < 16; ++d)
    sum += std::pow(a.k[d] - b.k[d], 2) + std::pow(a.v[d] - b.v[d], 2);
  return std::sqrt(sum);
}

constexpr const char* kSpec = "tiers:f16=0.1,q4=0.2,q2=0.3,page=8";

TEST(Tiers, StoreRowsInAsManyBitsAsTheirScoresSay) {
  ToyPrompt tiers(kSpec), plain("full"), kept("snapkv:budget=0.6");
  for (ToyPrompt* p : {&tiers, &plain, &kept}) p->prefill(400);
  for (int l = 0; l < 4; ++l)
    for (int h = 0; h < 2; ++h) {
      auto positions = std::as_const(tiers.store()).at(l, h).positions();
      std::vector<int32_t> sorted(positions.begin(), positions.end());
      std::ranges::sort(sorted);
      EXPECT_EQ(sorted, kept.kept(l, h)) << "what is dropped is what the scorer drops";
      const auto got = by_position(tiers.head(l, h)), was = by_position(plain.head(l, h));
      // 240 rows: 120 in two bits and 80 in four, 40 as they were.
      const std::vector<float> scores = tiers.scores(l, h);
      std::vector<std::pair<float, int32_t>> ranked;
      for (size_t r = 0; r < scores.size(); ++r)
        if (positions[r] < 400 - 32) ranked.emplace_back(scores[r], -positions[r]);
      std::ranges::sort(ranked);
      double two = 0, four = 0;
      for (size_t i = 0; i < ranked.size(); ++i) {
        const int32_t position = -ranked[i].second;
        const double off = distance(got.at(position), was.at(position));
        if (i < 120)
          two += off;
        else if (i < 200)
          four += off;
        else
          EXPECT_EQ(off, 0) << position;
      }
      EXPECT_GT(two / 120, 3 * four / 80);
      EXPECT_GT(four, 0);
      for (int position = 400 - 32; position < 400; ++position)
        EXPECT_EQ(distance(got.at(position), was.at(position)), 0) << "the window is protected";
    }
}

TEST(Tiers, AttentionReadsEveryTier) {
  ToyPrompt tiers(kSpec), same("snapkv:budget=0.6,page=8"), exact("full");
  for (ToyPrompt* p : {&tiers, &same, &exact}) {
    p->prefill(300);
    p->decode(1);
  }
  const auto error = [&](const ToyPrompt& p) {
    double sum = 0;
    for (size_t i = 0; i < exact.outputs().size(); ++i)
      sum += std::pow(p.outputs()[i] - exact.outputs()[i], 2);
    return std::sqrt(sum);
  };
  double off = 0, size = 0;
  for (size_t i = 0; i < tiers.outputs().size(); ++i) {
    off += std::pow(tiers.outputs()[i] - same.outputs()[i], 2);
    size += std::pow(same.outputs()[i], 2);
  }
  EXPECT_LT(off, 0.15 * size) << "rows of codes are near what they code";
  EXPECT_GT(off, 0);
  EXPECT_LT(error(tiers), 1.5 * error(same) + 0.1);
}

TEST(Tiers, OfManyTurnsStayAsTheyAre) {
  ToyPrompt prompt(kSpec);
  prompt.prefill(300);
  prompt.decode(11);
  const ToyHead before = prompt.head(2, 1);
  const auto fork = prompt.fork();
  prompt.begin(90);  // and one that is given up
  prompt.run_layer();
  prompt.run_layer();
  prompt.abandon();
  EXPECT_EQ(prompt.head(2, 1), before);
  prompt.prefill(120);
  fork->prefill(120);
  EXPECT_EQ(prompt.heads(), fork->heads());
  const auto rows = by_position(prompt.head(2, 1)), old = by_position(before);
  for (const auto& [position, row] : old) EXPECT_EQ(distance(rows.at(position), row), 0);
  EXPECT_EQ(rows.size(), old.size() + 72);  // 0.6 of 120
  prompt.decode(30);
  fork->decode(30);
  EXPECT_EQ(prompt.outputs(), fork->outputs());
}

TEST(Tiers, TakeTheRowsThatABudgetOfHeadsGives) {
  ToyPrompt prompt("tiers:f16=0.05,q4=0.1,q2=0.25,page=8+adakv");
  prompt.prefill(400);
  int64_t rows = 0;
  bool differ = false;
  for (int l = 0; l < 4; ++l) {
    for (int h = 0; h < 2; ++h) rows += static_cast<int64_t>(prompt.kept(l, h).size());
    differ |= prompt.kept(l, 0).size() != prompt.kept(l, 1).size();
  }
  EXPECT_EQ(rows, 8 * 160);
  EXPECT_TRUE(differ);
}

TEST(Tiers, RefuseWhatCannotBe) {
  EXPECT_EQ(
      answer("tiers:f16=0.5,q4=0.5,q2=0.5"),
      "tiers: the shares of 'f16', 'q8', 'q4' and 'q2' add up to 1.500000; what stays is more "
      "than nothing and at most 1");
  EXPECT_EQ(answer("tiers:cache=q8"), "tiers: 'cache' must be one of f16|bf16|f32, not 'q8'");
  EXPECT_EQ(answer("tiers+kivi"), "both 'tiers' and 'kivi' bring a store");
  EXPECT_EQ(answer("tiers+h2o"),
            "'tiers' sorts the rows of a prompt into tiers once; no method beside it may drop or "
            "turn rows while generating (reduce_every=0)");
  EXPECT_EQ(answer("tiers+h2o:form=prompt"), "ok: tiers+h2o:form=prompt");
}

}  // namespace
}  // namespace pith::test

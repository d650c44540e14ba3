#include <algorithm>
#include <map>

#include "gtest/gtest.h"
#include "support/recorded_rows.h"
#include "support/toy_prompt.h"
#include "support/vote_oracle.h"

namespace pith::test {
namespace {

// Chunks in order of their mean score summed over heads, whole while they fit.
std::vector<int32_t> best_chunks(const std::vector<double>& score, int length, int rows, int budget,
                                 int window) {
  std::vector<std::pair<double, int>> chunks;
  const int before = rows - window;
  for (int first = 0; first < before; first += length) {
    const int last = std::min(before, first + length);
    double mean = 0;
    for (int r = first; r < last; ++r) mean += score[static_cast<size_t>(r)] / (last - first);
    chunks.emplace_back(-mean, first);
  }
  std::ranges::sort(chunks);
  std::vector<int32_t> kept;
  for (int r = before; r < rows; ++r) kept.push_back(r);
  int left = budget - window;
  for (const auto& [minus, first] : chunks) {
    std::vector<int32_t> own;
    for (int r = first; r < std::min(before, first + length); ++r) own.push_back(r);
    if (static_cast<int>(own.size()) > left) {
      std::ranges::stable_sort(own, [&](int a, int b) {
        return score[static_cast<size_t>(a)] > score[static_cast<size_t>(b)];
      });
      own.resize(static_cast<size_t>(left));
    }
    kept.insert(kept.end(), own.begin(), own.end());
    left -= static_cast<int>(own.size());
    if (left == 0) break;
  }
  std::ranges::sort(kept);
  return kept;
}

TEST(Chunkkv, KeepsTheChunksWithTheBestMeanInAllHeads) {
  constexpr int kRows = 250, kWindow = 8;
  for (const int budget : {48, 55}) {
    ToyPrompt prompt("chunkkv:chunk=10,budget=" + std::to_string(budget) + "+snapkv:window=8");
    std::vector<RecordedLayer> seen;
    record_layers(prompt, seen);
    prompt.prefill(kRows);
    for (int l = 0; l < 4; ++l) {
      const auto votes =
          oracle_votes(seen[static_cast<size_t>(l)].queries(), seen[static_cast<size_t>(l)].keys(),
                       {.window = kWindow, .width = 7, .pool = OraclePool::max});
      std::vector<double> sum(votes[0].size());
      for (const auto& head : votes)
        for (size_t r = 0; r < sum.size(); ++r) sum[r] += head[r];
      const auto expected = best_chunks(sum, 10, kRows, budget, kWindow);
      for (int h = 0; h < 2; ++h) EXPECT_EQ(prompt.kept(l, h), expected);
    }
  }
}

TEST(Chunkkv, LetsEachHeadChooseItsOwnChunksIfAskedTo) {
  ToyPrompt prompt("chunkkv:chunk=10,together=false,budget=48+snapkv:window=8");
  std::vector<RecordedLayer> seen;
  record_layers(prompt, seen);
  prompt.prefill(250);
  const auto votes = oracle_votes(seen[2].queries(), seen[2].keys(),
                                  {.window = 8, .width = 7, .pool = OraclePool::max});
  for (int h = 0; h < 2; ++h)
    EXPECT_EQ(prompt.kept(2, h), best_chunks(votes[static_cast<size_t>(h)], 10, 250, 48, 8));
}

TEST(Chunkkv, DropsWholePagesWhileGenerating) {  // PagedEviction
  ToyPrompt prompt(
      "value_key_ratio:budget=128,recent=1,reduce_every=32+chunkkv:chunk=32,together=false");
  prompt.prefill(128);
  for (int i = 0; i < 6; ++i) {
    prompt.decode(32);
    std::map<int32_t, int> pages;
    for (const int32_t r : prompt.kept(1, 0)) ++pages[r / 32];
    const int whole = static_cast<int>(
        std::ranges::count_if(pages, [](const auto& page) { return page.second == 32; }));
    EXPECT_GE(whole, 2) << "step " << i;
    EXPECT_LE(pages.size(), 6u) << "of 128 rows, step " << i;
    EXPECT_EQ(prompt.kept(1, 0).size(), 128u);
  }
}

}  // namespace
}  // namespace pith::test

#include <algorithm>
#include <cmath>

#include "gtest/gtest.h"
#include "support/recorded_rows.h"
#include "support/score_oracles.h"
#include "support/spec_sentences.h"
#include "support/toy_prompt.h"
#include "support/vote_oracle.h"

namespace pith::test {
namespace {

// |W_O v| in the sum of absolute numbers, averaged over the query heads that read the value.
Doubles output_sizes(const ToyPrompt& prompt, const RecordedLayer& layer, int head) {
  const WeightMatrix wo = prompt.output_projection();
  const float* w = reinterpret_cast<const float*>(wo.data);
  Doubles sizes;
  for (int64_t r = 0; r < layer.k_dim[1]; ++r) {
    double size = 0;
    for (int64_t g = 2 * head; g < 2 * head + 2; ++g)
      for (int64_t out = 0; out < wo.rows; ++out) {
        double sum = 0;
        for (int64_t d = 0; d < 16; ++d)
          sum += double{w[out * wo.cols + g * 16 + d]} *
                 double{layer.values()[head].row(r)[static_cast<size_t>(d)]};
        size += std::abs(sum) / 2;
      }
    sizes.push_back(size);
  }
  return sizes;
}

TEST(Criticalkv, FillsOneHalfByVotesAndTheOtherByWhatValuesDo) {
  constexpr int kRows = 240, kBudget = 60, kWindow = 8;
  ToyPrompt prompt("criticalkv:budget=60,window=8");
  std::vector<RecordedLayer> seen;
  record_layers(prompt, seen);
  prompt.prefill(kRows);
  const RecordedLayer& layer = seen[2];
  const auto votes = oracle_votes(layer.queries(), layer.keys(),
                                  {.window = kWindow, .width = 7, .pool = OraclePool::max});
  for (int h = 0; h < 2; ++h) {
    const Doubles& vote = votes[static_cast<size_t>(h)];
    const Doubles sizes = output_sizes(prompt, layer, h);
    const auto first = oracle_best(vote, kBudget / 2 - kWindow, kWindow);
    Doubles scores(static_cast<size_t>(kRows));
    for (size_t r = 0; r < vote.size(); ++r)
      scores[r] = (vote[r] / (2 * kWindow) + 1e-4) * sizes[r] +
                  (std::ranges::binary_search(first, static_cast<int32_t>(r)) ? 1e6 : 0);
    EXPECT_EQ(prompt.kept(2, h), oracle_rows(scores, kBudget, 0, kWindow));
  }
}

TEST(Criticalkv, PrefersTheRowWhoseValueMattersAmongEqualVotes) {
  ToyPrompt prompt("criticalkv:budget=40,window=4,pool=none");
  prompt.plant = [](int, Cube q, Cube k, Cube v) {
    for (int64_t row = 0; row < k.dim[1]; ++row)  // all keys alike: attention is even
      for (int h = 0; h < 2; ++h) {
        std::ranges::fill(k[h].row(row), 0.0f);
        if (row < 150 || row >= 165)
          for (float& x : v[h].row(row)) x *= 0.01f;
      }
    (void)q;
  };
  prompt.prefill(300);
  const auto kept = prompt.kept(1, 1);
  for (int row = 150; row < 165; ++row) EXPECT_TRUE(std::ranges::binary_search(kept, row)) << row;
}

TEST(Criticalkv, ScoresThePromptOnly) {
  EXPECT_EQ(answer("criticalkv:budget=100,reduce_every=4"),
            "'criticalkv' scores the prompt only and knows nothing of generated rows; leave "
            "reduce_every at 0");
}

}  // namespace
}  // namespace pith::test

#include <algorithm>

#include "gtest/gtest.h"
#include "support/recorded_rows.h"
#include "support/score_oracles.h"
#include "support/toy_prompt.h"

namespace pith::test {
namespace {

Doubles per_query(const RecordedLayer& layer, int head, int rows, int window) {
  Doubles mean = oracle_received(layer, head, 0, rows, window);
  for (int r = 0; r < rows; ++r) {
    int queries = 0;
    for (int i = r; i < rows; ++i) queries += window == 0 || r > i - window;
    mean[static_cast<size_t>(r)] /= queries;
  }
  return mean;
}

TEST(Observed, DividesWhatARowReceivedByTheQueriesThatSawIt) {
  ToyPrompt prompt("observed:budget=60,recent=10");
  std::vector<RecordedLayer> seen;
  record_layers(prompt, seen);
  prompt.prefill(200);
  for (int l = 0; l < 4; ++l)
    for (int h = 0; h < 2; ++h)
      EXPECT_EQ(prompt.kept(l, h),
                oracle_rows(per_query(seen[static_cast<size_t>(l)], h, 200, 0), 60, 0, 10));
}

TEST(Observed, CountsOnlyTheQueriesThatASlidingWindowLetsSee) {
  KvShape shape = toy_shape();
  shape.windows = {0, 50, 0, 50};
  ToyPrompt prompt("observed:budget=30,recent=5", shape);
  std::vector<RecordedLayer> seen;
  record_layers(prompt, seen);
  prompt.prefill(200);
  Doubles scores = per_query(seen[1], 1, 200, 50);
  std::fill_n(scores.begin(), 151, -1.0);  // hidden from the next query
  EXPECT_EQ(prompt.kept(1, 1), oracle_rows(scores, 30, 0, 5));
}

TEST(Observed, KeepsLateRowsThatAllLaterQueriesAttendTo) {
  ToyPrompt observed("observed:budget=60,recent=1"), h2o("h2o:form=prompt,budget=60,recent=1");
  for (ToyPrompt* prompt : {&observed, &h2o}) {
    prompt->plant = [](int, Cube q, Cube k, Cube) {
      for (int64_t i = 0; i < q.dim[0]; ++i)
        for (int h = 0; h < 4; ++h) q[i].row(h)[3] = 2;
      for (int row = 560; row < 570; ++row)
        for (int h = 0; h < 2; ++h) k[h].row(row)[3] = 6;
    };
    prompt->prefill(600);
  }
  const auto late = [](const std::vector<int32_t>& rows) {
    return std::ranges::count_if(rows, [](int32_t r) { return r >= 560 && r < 570; });
  };
  EXPECT_EQ(late(observed.kept(0, 0)), 10);
  EXPECT_LT(late(h2o.kept(0, 0)), 5);  // old rows have larger sums
}

TEST(Observed, GoesOnWithTheMeanWhileGenerating) {
  ToyPrompt prompt("observed:budget=40,recent=4,reduce_every=1");
  prompt.prefill(100);
  const std::vector<float> before = prompt.scores(0, 0);
  prompt.decode(1);
  const std::vector<float> after = prompt.scores(0, 0);
  double total = 0;  // of the new attention: a probability for each of two query heads
  const std::vector<int32_t> rows = prompt.kept(0, 0);
  ASSERT_EQ(rows.size(), 40u);
  ASSERT_EQ(rows.back(), 100);
  EXPECT_GT(after.back(), 0);
  EXPECT_LE(after.back(), 2);
  for (const float x : after) total += x;
  EXPECT_GT(total, 0);
  EXPECT_NE(before, after);
}

}  // namespace
}  // namespace pith::test

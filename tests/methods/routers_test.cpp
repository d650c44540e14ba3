// gemfilter, lazyllm, route and the stages of uncomp: which tokens reach which layer.
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

std::vector<int> rows_into_layers(const ToyPrompt& prompt) {
  std::vector<int> rows;
  for (int l = 0; l < prompt.shape().layers; ++l) rows.push_back(prompt.rows_into(l));
  return rows;
}

Doubles last_query(const RecordedLayer& layer, int queries) {
  const int64_t rows = layer.k_dim[1];
  Doubles sum = oracle_received(layer, 0, rows - queries, rows);
  const Doubles other = oracle_received(layer, 1, rows - queries, rows);
  for (size_t r = 0; r < sum.size(); ++r) sum[r] += other[r];
  return sum;
}

TEST(Lazyllm, LetsTokensDropOutStepByStep) {
  KvShape shape = toy_shape();
  shape.layers = 8;
  ToyPrompt prompt("lazyllm", shape);
  prompt.prefill(200);
  EXPECT_EQ(rows_into_layers(prompt), (std::vector<int>{200, 200, 200, 200, 100, 100, 60, 60}));
}

TEST(Lazyllm, KeepsTheTokensThatTheLastQueryAttendsTo) {
  ToyPrompt prompt("lazyllm:steps=0:0.5/2:0.2,recent=1");
  std::vector<RecordedLayer> seen;
  record_layers(prompt, seen);
  prompt.prefill(160);
  const auto first = oracle_rows(last_query(seen[0], 1), 80, 0, 1);
  EXPECT_EQ(prompt.kept(1, 0), first);
  std::vector<int32_t> second;
  for (const int32_t row : oracle_rows(last_query(seen[2], 1), 32, 0, 1))
    second.push_back(first[static_cast<size_t>(row)]);
  EXPECT_EQ(prompt.kept(3, 1), second) << "at their old positions";
}

TEST(Route, SelectsByTheScoresOfTheSpecAtEachStep) {
  ToyPrompt one("route:steps=1:0.2,budget=0.2+snapkv:window=8"),
      fastkv("fastkv:tsp_layer=1,tsp_rate=0.2,budget=0.2+snapkv:window=8");
  one.prefill(300);
  fastkv.prefill(300);
  EXPECT_EQ(one.heads(), fastkv.heads()) << "one step is FastKV";
  ToyPrompt two("route:steps=0:100/2:50,recent=4+knorm:budget=1.0");
  two.prefill(300);
  EXPECT_EQ(rows_into_layers(two), (std::vector<int>{300, 100, 100, 50}));
}

TEST(Route, RefusesStepsThatMakeNoSense) {
  const std::string form =
      "route: 'steps' must be steps like 16:0.5/24:0.3, layer and tokens or share of the prompt, "
      "not '";
  EXPECT_EQ(answer("route:steps=x"), form + "x'");
  EXPECT_EQ(answer("route:steps=3:0.5/"), form + "'");
  EXPECT_EQ(answer("route:steps=3:1GiB"), form + "3:1GiB'");
  EXPECT_EQ(answer("route:steps=40:0.5"),
            "route: 'steps' must be of layers below 32, not '40:0.5'");
  EXPECT_EQ(answer("route:steps=5:0.5/5:0.4"),
            "route: 'steps' must be in the order of layers, each named once");
  EXPECT_EQ(answer("route:steps=5:0.5/6:0.6"),
            "route: 'steps' must be such that later ones keep no more: tokens do not come back");
  EXPECT_EQ(answer("route:steps=5:0.5/6:0.2"), "ok: route:steps=5:0.5/6:0.2");
  KvShape shape = toy_shape();
  shape.windows = {0, 40, 0, 40};
  EXPECT_EQ(answer("route:steps=1:0.5", shape),
            "route: 'steps' must be at layers without a sliding window, which 1 of this model has");
}

TEST(Gemfilter, ReadsThePromptAgainWithTheTokensThatOneQueryNames) {
  ToyPrompt prompt("gemfilter:layer=1,tokens=50");
  std::vector<RecordedLayer> seen, first_run;
  record_layers(prompt, seen);
  const auto record = prompt.plant;
  prompt.plant = [&](int layer, Cube q, Cube k, Cube v) {
    record(layer, q, k, v);
    if (layer == 1 && q.dim[0] == 200) first_run = seen;
  };
  prompt.prefill(200);
  EXPECT_EQ(prompt.layers_run(), 2 + 4);
  EXPECT_EQ(rows_into_layers(prompt), (std::vector<int>{50, 50, 50, 50}));

  const RecordedLayer& layer = first_run[1];
  Doubles logits;
  for (int64_t r = 0; r < 200; ++r) {
    double sum = 0;
    for (int64_t h = 0; h < 4; ++h)
      for (size_t d = 0; d < 16; ++d)
        sum += double{layer.queries()[199].row(h)[d]} * double{layer.keys()[h / 2].row(r)[d]};
    logits.push_back(sum);
  }
  const auto chosen = oracle_rows(oracle_pool(logits, 5, OraclePool::mean), 50, 0, 1);
  // The second run has positions 0, 1, 2, ...: its keys are those of the chosen tokens, turned
  // there.
  for (int l = 0; l < 4; ++l) {
    const ToyHead head = prompt.head(l, 1);
    for (size_t i = 0; i < chosen.size(); ++i) {
      EXPECT_EQ(head.positions[i], static_cast<int32_t>(i));
      const std::vector<float> raw = prompt.raw_key(l, 1, chosen[i]);
      double length = 0, kept = 0;
      for (size_t d = 0; d < 16; ++d) {
        length += double{raw[d]} * double{raw[d]};
        kept += double{head.k[i * 16 + d]} * double{head.k[i * 16 + d]};
      }
      EXPECT_NEAR(kept, length, 2e-2 * length) << "a rotation leaves a key its length";
    }
  }
  EXPECT_EQ(prompt.compressor().query_position(200), 50);
}

TEST(Gemfilter, LeavesShortPromptsAlone) {
  ToyPrompt prompt("gemfilter"), full("full");
  prompt.prefill(300);
  full.prefill(300);
  EXPECT_EQ(prompt.heads(), full.heads());
}

}  // namespace
}  // namespace pith::test

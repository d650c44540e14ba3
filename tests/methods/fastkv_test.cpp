#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "gtest/gtest.h"
#include "policy/calibration.h"
#include "policy/registry.h"
#include "support/recorded_rows.h"
#include "support/toy_prompt.h"
#include "support/vote_oracle.h"

namespace pith::test {
namespace {

std::vector<int> rows_into_layers(const ToyPrompt& prompt) {
  std::vector<int> rows;
  for (int l = 0; l < prompt.shape().layers; ++l) rows.push_back(prompt.rows_into(l));
  return rows;
}

TEST(Fastkv, SendsAShareOfThePromptThroughTheUpperLayers) {
  ToyPrompt prompt("fastkv:tsp_layer=1,tsp_rate=0.2,budget=0.1");
  prompt.prefill(400);
  EXPECT_EQ(rows_into_layers(prompt), (std::vector<int>{400, 400, 80, 80}));
  for (int l = 0; l < 4; ++l)
    for (int h = 0; h < 2; ++h) EXPECT_EQ(prompt.kept(l, h).size(), 40u);
}

TEST(Fastkv, SelectsAtTheMiddleLayerWithTheDefaultsOfThePaper) {
  KvShape shape = toy_shape();
  shape.layers = 6;
  ToyPrompt prompt("fastkv", shape);
  prompt.prefill(500);
  EXPECT_EQ(rows_into_layers(prompt), (std::vector<int>{500, 500, 500, 100, 100, 100}));
  EXPECT_EQ(prompt.kept(5, 0).size(), 50u);
  // 15 of 32 and 17 of 36 are the layers of the paper's models.
  for (const auto& [layers, expected] : {std::pair(32, 15), std::pair(36, 17)}) {
    shape.layers = layers;
    const std::string named = "fastkv:tsp_layer=" + std::to_string(expected);
    EXPECT_EQ(make_policy(named, shape)->spec, "fastkv");
  }
}

TEST(Fastkv, SelectsTheTokensWithTheLargestVotesOfAllHeads) {
  ToyPrompt prompt("fastkv:tsp_layer=1,tsp_rate=0.25,budget=0.1");
  std::vector<RecordedLayer> seen;
  record_layers(prompt, seen);
  prompt.prefill(320);
  const auto votes = oracle_votes(seen[1].queries(), seen[1].keys(),
                                  {.window = 8, .width = 7, .pool = OraclePool::max});
  std::vector<double> total(votes[0].size());
  for (const auto& head : votes)
    for (size_t r = 0; r < total.size(); ++r) total[r] += head[r];
  const std::vector<int32_t> travelling = oracle_best(total, 80 - 8, 8);

  // Layer 1 keeps by its heads' own votes; layer 2 sees what travelled, at its old positions.
  for (int h = 0; h < 2; ++h)
    EXPECT_EQ(prompt.kept(1, h), oracle_best(votes[static_cast<size_t>(h)], 32 - 8, 8));
  ToyPrompt all("fastkv:tsp_layer=1,tsp_rate=0.25,budget=0.25");
  all.prefill(320);
  EXPECT_EQ(all.kept(2, 0), travelling);
  EXPECT_EQ(all.kept(3, 1), travelling);

  const auto later = oracle_votes(seen[2].queries(), seen[2].keys(),
                                  {.window = 8, .width = 7, .pool = OraclePool::max});
  std::vector<int32_t> positions;
  for (const int32_t row : oracle_best(later[0], 32 - 8, 8))
    positions.push_back(travelling[static_cast<size_t>(row)]);
  EXPECT_EQ(prompt.kept(2, 0), positions);
}

TEST(Fastkv, CountsRowsAndTokensInConstantMode) {
  ToyPrompt prompt("fastkv:tsp_layer=1,tsp_len=100,budget=50");
  prompt.prefill(400);
  EXPECT_EQ(rows_into_layers(prompt), (std::vector<int>{400, 400, 100, 100}));
  for (int l = 0; l < 4; ++l) EXPECT_EQ(prompt.kept(l, 0).size(), 50u);

  ToyPrompt short_prompt("fastkv:tsp_layer=1,tsp_len=100,budget=50");
  short_prompt.prefill(100);
  EXPECT_EQ(rows_into_layers(short_prompt), (std::vector<int>{100, 100, 100, 100}));
}

TEST(Fastkv, AtRateOneIsAVoteWithoutRouting) {
  ToyPrompt routed("fastkv:tsp_rate=1,budget=0.1");
  ToyPrompt plain("snapkv:window=8,budget=0.1");
  routed.prefill(300);
  plain.prefill(300);
  EXPECT_EQ(rows_into_layers(routed), (std::vector<int>{300, 300, 300, 300}));
  EXPECT_EQ(routed.heads(), plain.heads());
}

TEST(Fastkv, AlwaysSendsTheWindowAndTheSinks) {
  ToyPrompt prompt("fastkv:tsp_layer=0,tsp_rate=0.1,budget=0.1,sink=3,recent=12");
  prompt.prefill(200);
  const auto kept = prompt.kept(2, 1);
  for (const int32_t row : {0, 1, 2, 188, 189, 190, 191, 192, 193, 194, 195, 196, 197, 198, 199})
    EXPECT_TRUE(std::ranges::binary_search(kept, row)) << row;
  // Nothing but the window, where nothing else may travel.
  ToyPrompt window("fastkv:tsp_layer=0,tsp_rate=0,budget=9");
  window.prefill(200);
  EXPECT_EQ(rows_into_layers(window), (std::vector<int>{200, 8, 8, 8}));
}

TEST(Fastkv, KeepsTheWindowOfAPromptWhoseShareIsSmaller) {
  ToyPrompt prompt("fastkv:tsp_layer=1");
  prompt.prefill(30);  // a tenth is 3 rows, a fifth is 6
  EXPECT_EQ(rows_into_layers(prompt), (std::vector<int>{30, 30, 8, 8}));
  for (int l = 0; l < 4; ++l)
    EXPECT_EQ(prompt.kept(l, 0), (std::vector<int32_t>{22, 23, 24, 25, 26, 27, 28, 29}));
}

TEST(Fastkv, RoutesByAnyScorerOfTheSpec) {
  ToyPrompt prompt("fastkv:tsp_layer=0,tsp_rate=0.2,budget=0.2+knorm");
  prompt.plant = [](int layer, Cube, Cube k, Cube) {
    if (layer != 0) return;
    for (int row = 50; row < 60; ++row)
      for (int h = 0; h < 2; ++h)
        for (float& x : k[h].row(row)) x *= 0.01f;
  };
  prompt.prefill(200);
  EXPECT_EQ(rows_into_layers(prompt), (std::vector<int>{200, 40, 40, 40}));
  const auto kept = prompt.kept(3, 0);
  for (int row = 50; row < 60; ++row) EXPECT_TRUE(std::ranges::binary_search(kept, row)) << row;
}

TEST(Fastkv, ReadsItsLayerFromACalibrationFile) {
  const auto folder = std::filesystem::path(::testing::TempDir()) / "pith_fastkv_test";
  std::filesystem::create_directories(folder);
  const std::string path = (folder / "tsp.gguf").string();
  save_calibration(path, "m", "a test", std::vector<CalibrationTensor>{{"tsp.layer", {1}, {2}}});
  ToyPrompt prompt("fastkv:tsp_layer=auto,calibration=" + path);
  prompt.prefill(200);
  EXPECT_EQ(rows_into_layers(prompt), (std::vector<int>{200, 200, 200, 40}));

  for (const float layer : {-1.0f, 4.0f, 1.5f}) {
    save_calibration(path, "m", "a test",
                     std::vector<CalibrationTensor>{{"tsp.layer", {1}, {layer}}});
    EXPECT_THROW(make_policy("fastkv:tsp_layer=auto,calibration=" + path, toy_shape()), Error);
  }
  std::filesystem::remove_all(folder);
}

TEST(Fastkv, SelectsAtALayerThatSeesTheWholePrompt) {
  KvShape shape = toy_shape();
  shape.layers = 6;
  shape.windows = {20, 0, 20, 20, 0, 20};  // the middle one, 2, has a window; 1 and 3 are as near
  ToyPrompt prompt("fastkv", shape);
  prompt.prefill(100);
  EXPECT_EQ(rows_into_layers(prompt), (std::vector<int>{100, 100, 20, 20, 20, 20}));
  EXPECT_THROW(make_policy("fastkv:tsp_layer=3", shape), Error);
  shape.windows = {20, 20, 20, 20, 20, 20};
  EXPECT_NO_THROW(make_policy("fastkv:tsp_layer=3", shape));
}

TEST(Fastkv, GivesGeneratedTokensTheirTruePositions) {
  ToyPrompt prompt("fastkv:tsp_layer=1");
  prompt.prefill(200);
  prompt.decode(3);
  for (int l = 0; l < 4; ++l) {
    auto kept = prompt.kept(l, 0);
    ASSERT_EQ(kept.size(), 23u);
    EXPECT_EQ((std::vector<int32_t>{kept.end() - 3, kept.end()}),
              (std::vector<int32_t>{200, 201, 202}));
  }
}

}  // namespace
}  // namespace pith::test

#include "calibrate/tsp.h"

#include <filesystem>

#include "base/error.h"
#include "base/random.h"
#include "gtest/gtest.h"
#include "policy/calibration.h"
#include "policy/registry.h"

namespace pith::test {
namespace {

// Scores that name the given tokens as the best, of ten.
std::vector<float> best(std::initializer_list<int> tokens) {
  std::vector<float> scores(10, 0.0f);
  for (const int t : tokens) scores[static_cast<size_t>(t)] = 1.0f;
  return scores;
}

TEST(TspLayer, OverlapIsTheMeanOverAllLaterLayers) {
  const LayerScores scores = {best({0, 1}), best({1, 2}), best({2, 3}), best({2, 3})};
  // Layer 0 shares one of two with layer 1 and nothing with the others; and so on.
  EXPECT_EQ(overlap_with_later_layers(scores, 0.2),
            (std::vector<double>{(0.5 + 0 + 0) / 3, (0.5 + 0.5) / 2, 1.0}));
}

TEST(TspLayer, IsTheFirstLayerWithinTwoPointsOfTheLargestOverlap) {
  EXPECT_EQ(first_settled_layer(std::vector<double>{0.2, 0.5, 0.79, 0.80, 0.75}), 2);
  EXPECT_EQ(first_settled_layer(std::vector<double>{0.2, 0.5, 0.77, 0.80, 0.75}), 3);
  EXPECT_EQ(first_settled_layer(std::vector<double>{0.9, 0.9}), 0);
  EXPECT_EQ(first_settled_layer({}), 0);
}

TEST(TspLayer, IsWhereRankingsStopChanging) {
  // Five layers score at random, then all look at the same tokens with a little noise.
  Random random(3);
  std::vector<float> settled(200);
  for (float& s : settled) s = random.normal();
  LayerScores scores;
  for (int layer = 0; layer < 12; ++layer) {
    scores.emplace_back(200);
    for (size_t t = 0; t < 200; ++t)
      scores.back()[t] = layer < 5 ? random.normal() : settled[t] + 0.01f * random.normal();
  }
  EXPECT_EQ(first_settled_layer(overlap_with_later_layers(scores, 0.2)), 5);
}

TEST(TspLayer, OfOneLayerOrOneTokenIsTheFirst) {
  EXPECT_TRUE(overlap_with_later_layers({best({1})}, 0.2).empty());
  EXPECT_TRUE(overlap_with_later_layers({}, 0.2).empty());
  EXPECT_EQ(overlap_with_later_layers({{1.0f}, {1.0f}}, 0.2), (std::vector<double>{1.0}));
}

TEST(TspLayer, IsReadBackByFastkv) {
  const auto folder = std::filesystem::path(::testing::TempDir()) / "pith_tsp_test";
  std::filesystem::create_directories(folder);
  const std::string path = (folder / "tsp.gguf").string();
  TspFinding finding;
  finding.layer = 3;
  finding.overlap = {0.1, 0.2, 0.3, 0.9, 0.9, 0.9, 0.9};
  save_tsp_layer(path, "the-model", finding);
  const KvShape shape{.layers = 8, .query_heads = 4, .heads = 2, .dim = 16, .width = 64};
  const std::string spec = "fastkv:tsp_layer=auto,calibration=" + path;
  EXPECT_EQ(make_policy(spec, shape, "the-model")->spec, spec);
  EXPECT_THROW(make_policy(spec, shape, "another-model"), Error);

  // A file for a deeper model that somebody gave the same digest.
  finding.layer = 30;
  save_tsp_layer(path, "the-model", finding);
  EXPECT_THROW(make_policy(spec, shape, "the-model"), Error);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace pith::test

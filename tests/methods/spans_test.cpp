#include <algorithm>
#include <filesystem>
#include <gtest/gtest.h>

#include "backend/cpu_backend.h"
#include "base/error.h"
#include "policy/calibration.h"
#include "policy/registry.h"
#include "support/toy_prompt.h"

namespace pith::test {
namespace {

class Spans : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(::testing::TempDir()) / "pith_spans_test";
    std::filesystem::create_directories(folder_);
    // Layers of two heads: (0, 1), (1, 0), (2, 1) and (3, 0) look far.
    save_calibration(path(), "m", "a test",
                     std::vector<CalibrationTensor>{
                         {"spans.score", {2, 4}, {0.1f, 0.9f, 0.8f, 0.2f, 0.3f, 0.7f, 0.6f, 0}}});
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string path() const { return (folder_ / "spans.gguf").string(); }
  std::string spec(const std::string& more) const {
    return "spans:calibration=" + path() + "," + more;
  }
  static bool far(int layer, int head) { return (head == 1) == (layer % 2 == 0); }

 private:
  std::filesystem::path folder_;
};

TEST_F(Spans, KeepEverythingInHeadsThatLookFarAndTheEdgesInOthers) {
  ToyPrompt prompt(spec("sink=8,recent=20"));
  prompt.prefill(300);
  prompt.decode(30);
  for (int l = 0; l < 4; ++l)
    for (int h = 0; h < 2; ++h) {
      const auto kept = prompt.kept(l, h);
      if (far(l, h)) {
        EXPECT_EQ(kept.size(), 330u);
        continue;
      }
      std::vector<int32_t> edges;
      for (int32_t r = 0; r < 8; ++r) edges.push_back(r);
      for (int32_t r = 310; r < 330; ++r) edges.push_back(r);
      EXPECT_EQ(kept, edges) << l << ", " << h;
    }
}

TEST_F(Spans, WithoutStreamingHeadsAreTheFullCache) {
  ToyPrompt prompt(spec("sparsity=0")), full("full");
  for (ToyPrompt* p : {&prompt, &full}) {
    p->prefill(300);
    p->decode(5);
  }
  EXPECT_EQ(prompt.heads(), full.heads());
  EXPECT_EQ(prompt.outputs(), full.outputs());
  for (int l = 0; l < 4; ++l) EXPECT_TRUE(prompt.policy().tile_reader->reads_all(l));
}

TEST_F(Spans, ReadNoMoreOfAPromptThanStreamingHeadsKeep) {
  const auto policy = make_policy(spec("sink=8,recent=100"), toy_shape());
  const auto ops = make_cpu_backend(1);
  const KvShape shape = toy_shape();
  const AttentionRule rule;
  std::vector<int32_t> positions(1000);
  ReadPlan plan;
  plan.begin(2, 1000);
  policy->tile_reader->choose({.ops = *ops,
                               .shape = shape,
                               .rule = rule,
                               .layer = 1,
                               .q = {},
                               .k = {},
                               .positions = positions},
                              plan);
  for (int64_t block = 0; block < 8; ++block) {
    const int64_t own = block * 128, end = std::min<int64_t>(1000, own + 128);
    EXPECT_EQ(plan.at(0, block), (std::vector<RowRange>{{0, end}})) << "(1, 0) looks far";
    // 100 rows before the block, from a multiple of 64; 8 sinks are 64 rows.
    const int64_t recent = (own - 100) / 64 * 64;
    if (block < 2)
      EXPECT_EQ(plan.at(1, block), (std::vector<RowRange>{{0, end}}));
    else
      EXPECT_EQ(plan.at(1, block), (std::vector<RowRange>{{0, 64}, {recent, end}}));
  }
  EXPECT_FALSE(policy->tile_reader->looks());
}

TEST_F(Spans, SayWhichCommandMakesTheirFileAndTakeNoBudget) {
  const auto refusal = [](const std::string& text) -> std::string {
    try {
      make_policy(text, toy_shape());
    } catch (const Error& error) {
      return error.what();
    }
    return "nothing was refused";
  };
  EXPECT_EQ(refusal("spans"),
            "spans: 'calibration' is missing; `pith calibrate spans` makes the file");
  EXPECT_EQ(refusal(spec("budget=0.1")),
            "spans: takes no budget: 'sparsity', 'sink' and 'recent' say what stays");
}

}  // namespace
}  // namespace pith::test

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numeric>

#include "gtest/gtest.h"
#include "policy/calibration.h"
#include "policy/registry.h"
#include "support/recorded_rows.h"
#include "support/score_oracles.h"
#include "support/spec_sentences.h"
#include "support/toy_prompt.h"

namespace pith::test {
namespace {

// Query head 3 of layer 1 (KV head 1) retrieves; query head 0 of layer 2 echoes.
std::string file_of_heads() {
  const auto folder = std::filesystem::path(::testing::TempDir()) / "pith_razor_test";
  std::filesystem::create_directories(folder);
  const std::string path = (folder / "heads.gguf").string();
  std::vector<float> induction(16, 0.1f), echo(16, 0.1f), logit(16, 2.0f);
  induction[4 + 3] = 0.9f;
  echo[8 + 0] = 0.8f;
  save_calibration(path, "m", "a test",
                   std::vector<CalibrationTensor>{{"heads.induction", {4, 4}, induction},
                                                  {"heads.echo", {4, 4}, echo},
                                                  {"heads.logit", {4, 4}, logit}});
  return path;
}

std::string razor(const std::string& options) {
  return "razor:heads=" + file_of_heads() + ",cache=f32," + options;
}

std::vector<int32_t> sinks_and_newest(int rows, int local) {
  std::vector<int32_t> kept{0, 1, 2, 3};
  for (int r = rows - local; r < rows; ++r) kept.push_back(r);
  return kept;
}

TEST(Razor, KeepsRetrievalHeadsWholeAndABufferOfTheOthers) {
  ToyPrompt prompt(razor("induction=0.125,echo=0.125,local=30,factor=10"));
  prompt.prefill(200);
  for (int l = 0; l < 4; ++l)
    for (int h = 0; h < 2; ++h) {
      const bool retrieves = (l == 1 && h == 1) || (l == 2 && h == 0);
      if (retrieves)
        EXPECT_EQ(prompt.kept(l, h).size(), 200u);
      else
        EXPECT_EQ(prompt.kept(l, h), sinks_and_newest(200, 30));
    }
  ToyPrompt longer(razor("induction=0.125,echo=0,local=30,factor=4"));
  longer.prefill(200);
  EXPECT_EQ(longer.kept(2, 0), sinks_and_newest(200, 50)) << "a quarter of the prompt";
}

TEST(Razor, DropsNothingFromShortPrompts) {
  ToyPrompt prompt(razor("local=30,factor=10")), full("full:cache=f32");
  for (ToyPrompt* p : {&prompt, &full}) {
    p->prefill(34);
    EXPECT_TRUE(std::as_const(p->store()).at(0, 0).pseudo().empty());
  }
  EXPECT_EQ(prompt.heads(), full.heads());
}

// Attention with the compensation row, written down: the mean key and value of what was dropped,
// exp(logit) times their number.
std::vector<double> attended(const std::vector<float>& q, const ToyHead& all,
                             const std::vector<int32_t>& kept, int dropped_first,
                             int dropped_last) {
  std::vector<double> sum(16), mean_k(16), mean_v(16);
  const int count = dropped_last - dropped_first;
  for (int r = dropped_first; r < dropped_last; ++r)
    for (size_t d = 0; d < 16; ++d) {
      mean_k[d] += double{all.k[static_cast<size_t>(r) * 16 + d]} / count;
      mean_v[d] += double{all.v[static_cast<size_t>(r) * 16 + d]} / count;
    }
  double total = 0;
  const auto add = [&](auto key, auto value, double weight) {
    double z = 0;
    for (size_t d = 0; d < 16; ++d) z += double{q[d]} * key(d);
    const double e = weight * std::exp(z / 4);
    total += e;
    for (size_t d = 0; d < 16; ++d) sum[d] += e * value(d);
  };
  for (const int32_t r : kept)
    add([&](size_t d) { return double{all.k[static_cast<size_t>(r) * 16 + d]}; },
        [&](size_t d) { return double{all.v[static_cast<size_t>(r) * 16 + d]}; }, 1);
  add([&](size_t d) { return mean_k[d]; }, [&](size_t d) { return mean_v[d]; }, count);
  for (double& x : sum) x /= total;
  return sum;
}

TEST(Razor, AnswersWithARowThatStandsForAllThatWereDropped) {
  ToyPrompt prompt(razor("induction=0,echo=0,local=20,factor=100,reduce_every=8")),
      full("full:cache=f32");
  prompt.prefill(150);
  full.prefill(150);
  int dropped = 150 - 24;  // rows [4, 4 + dropped) are folded
  for (int step = 1; step <= 40; ++step) {
    const auto before = prompt.kept(2, 1);
    prompt.decode(1);
    full.decode(1);
    auto kept = before;
    kept.push_back(149 + step);
    const ToyHead all = full.head(2, 1);
    const std::vector<float> queries = prompt.last_queries(2);
    for (int g = 0; g < 2; ++g) {
      const std::vector<float> q(queries.begin() + (2 + g) * 16, queries.begin() + (3 + g) * 16);
      const auto expected = attended(q, all, kept, 4, 4 + dropped);
      for (size_t d = 0; d < 16; ++d)
        EXPECT_NEAR(prompt.outputs()[static_cast<size_t>((2 * 4 + 2 + g) * 16) + d], expected[d],
                    2e-5)
            << "step " << step;
    }
    if (step % 8 == 0) {
      dropped = 150 + step - 24;
      EXPECT_EQ(prompt.kept(2, 1), sinks_and_newest(150 + step, 20));
      const auto pseudo = std::as_const(prompt.store()).at(2, 1).pseudo();
      ASSERT_EQ(pseudo.size(), 1u);
      EXPECT_EQ(pseudo[0].weight, static_cast<float>(dropped));
    }
  }
}

TEST(Razor, IsExactWhereTheDroppedKeysAreAlike) {
  ToyPrompt prompt(razor("induction=0,echo=0,local=20,factor=100")), full("full:cache=f32");
  for (ToyPrompt* p : {&prompt, &full}) {
    p->plant = [](int, Cube, Cube k, Cube) {
      for (int h = 0; h < 2; ++h)
        for (int64_t r = 4; r < k.dim[1] - 20; ++r)
          for (size_t d = 0; d < 16; ++d) k[h].row(r)[d] = 0.1f * static_cast<float>(d);
    };
    p->prefill(150);
    p->decode(1);
  }
  for (size_t i = 0; i < full.outputs().size(); ++i)
    EXPECT_NEAR(prompt.outputs()[i], full.outputs()[i], 1e-5);
}

TEST(Razor, FoldsOverTurns) {
  ToyPrompt prompt(razor("induction=0,echo=0,local=20,factor=100,reduce_every=1"));
  prompt.prefill(100);
  prompt.decode(10);
  prompt.prefill(60);
  EXPECT_EQ(prompt.kept(0, 0), sinks_and_newest(170, 20));
  const auto pseudo = std::as_const(prompt.store()).at(0, 0).pseudo();
  ASSERT_EQ(pseudo.size(), 1u);
  EXPECT_EQ(pseudo[0].weight, 170.0f - 24);
}

TEST(Razor, HoldsABoundedCacheWhileGenerating) {
  ToyPrompt prompt(razor("induction=0,echo=0,local=40,factor=100,reduce_every=16"));
  prompt.prefill(100);
  prompt.decode(64);
  const size_t bytes = prompt.store().bytes().total();
  for (int i = 0; i < 20; ++i) {
    prompt.decode(16);
    EXPECT_EQ(prompt.store().bytes().total(), bytes);
  }
}

TEST(Razor, KeepsTheWindowOfSlidingLayers) {
  KvShape shape = toy_shape();
  shape.windows = {0, 60, 0, 60};
  ToyPrompt prompt(razor("induction=0,echo=0,local=20,factor=100"), shape);
  prompt.prefill(200);
  EXPECT_EQ(prompt.kept(0, 0), sinks_and_newest(200, 20));
  EXPECT_EQ(prompt.kept(1, 0).size(), 59u);
  EXPECT_TRUE(std::as_const(prompt.store()).at(1, 0).pseudo().empty());
}

// With slopes: the rows behind the horizon cannot have more than epsilon of the attention.
TEST(Razor, WithSlopesLosesNoMoreThanEpsilon) {
  const std::vector<float> slopes{0.5f, 0.25f, 0.125f, 0.0625f};
  ToyPrompt prompt(razor("form=alibi,epsilon=0.001,longest=1000,sink=0"), toy_shape());
  prompt.alibi = slopes;
  std::vector<RecordedLayer> seen;
  record_layers(prompt, seen);
  prompt.prefill(900);
  const double decay = std::log(1000 / 0.001);
  for (int l = 0; l < 4; ++l)
    for (int h = 0; h < 2; ++h) {
      const int horizon = static_cast<int>(
          std::ceil((2 * 2.0 + decay) / double{slopes[static_cast<size_t>(2 * h + 1)]}));
      EXPECT_EQ(prompt.kept(l, h).size(), static_cast<size_t>(std::min(900, horizon)));
    }
  // The bound, for the last query of a layer whose logits really are below the 2 of the file.
  const RecordedLayer& layer = seen[1];
  for (int head = 0; head < 2; ++head) {
    double all = 0, lost = 0;
    const size_t kept = prompt.kept(1, 0).size();
    for (int64_t r = 0; r < 900; ++r) {
      double z = 0;
      for (size_t d = 0; d < 16; ++d)
        z += double{layer.queries()[899].row(head)[d]} * double{layer.keys()[0].row(r)[d]};
      z = std::clamp(z / 4, -2.0, 2.0) - double{slopes[static_cast<size_t>(head)]} * (899 - r);
      all += std::exp(z);
      if (r < 900 - static_cast<int64_t>(kept)) lost += std::exp(z);
    }
    EXPECT_LE(lost / all, 0.001);
  }
}

TEST(Razor, SaysWhatItNeedsAndWhatItDoesNotTake) {
  EXPECT_EQ(answer("razor"), "razor: 'heads' is missing; `pith calibrate heads` makes the file");
  EXPECT_EQ(answer("razor:budget=0.1"),
            "razor: 'budget' must be left out: `local` and `factor` say what heads keep that do "
            "not retrieve");
  ToyPrompt wrong(razor("form=alibi"));
  EXPECT_THROW(wrong.prefill(50), Error);
  ToyPrompt slopes(razor("form=rope"));
  slopes.alibi = {0.5f, 0.25f, 0.125f, 0.0625f};
  EXPECT_THROW(slopes.prefill(50), Error);
}

}  // namespace
}  // namespace pith::test

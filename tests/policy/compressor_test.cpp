#include "policy/compressor.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "gtest/gtest.h"
#include "policy/defaults.h"
#include "policy/registry.h"
#include "support/toy_prompt.h"

namespace pith::test {
namespace {

// Gives every head 100 rows, and takes layer 0 down to 20 once layer 2 is done.
class TakesBack final : public Budget {
 public:
  void assign(const ScoreBoard& board, BudgetTable& table) const override {
    std::ranges::fill(table.rows, 100);
    if (board.newest_layer() < 2) return;
    for (int h = 0; h < table.heads; ++h) table.at(0, h) = 20;
    // What competes: neither the sinks nor the newest rows, of this prompt only.
    const bool fresh = board.newest_layer() == 2;
    const int protects = board.protected_rows(), rows = std::min(100, board.prompt_tokens());
    EXPECT_EQ(board.contested(0, 0).size(), static_cast<size_t>((fresh ? rows : 20) - protects));
    EXPECT_EQ(board.contested(2, 1).size(),
              static_cast<size_t>((fresh ? board.prompt_tokens() : rows) - protects));
    EXPECT_TRUE(board.contested(3, 0).empty() || board.newest_layer() == 3);
  }
};
const RegisterMethod takes_back{{
    .name = "test_takes_back",
    .summary = "a later layer takes rows from the first",
    .source = "-",
    .build =
        [](Options& o, const KvShape& /*shape*/, Policy& p) {
          protect_options(o, p, {.sink = 2, .recent = 3});
          p.budget = std::make_unique<TakesBack>();
        },
}};

const RegisterMethod plain{{
    .name = "test_plain",
    .summary = "protects the same rows and leaves all else to the defaults",
    .source = "-",
    .build = [](Options& o, const KvShape& /*shape*/,
                Policy& p) { protect_options(o, p, {.sink = 2, .recent = 3}); },
}};

// Folds what it drops, and what was folded before, into one mean row.
class Folds final : public Reducer {
 public:
  bool needs_vectors() const override { return true; }
  void reduce(const HeadView& head, int budget, HeadPlan& plan) const override {
    top_rows(head.scores, budget, head.protect, plan.keep);
    const size_t dim = static_cast<size_t>(head.k.dim[1]);
    PseudoRow mean{std::vector<float>(dim), std::vector<float>(dim), 0};
    const auto add = [&](std::span<const float> k, std::span<const float> v, float weight) {
      const float total = mean.weight + weight;
      for (size_t d = 0; d < dim; ++d) {
        mean.k[d] += (k[d] - mean.k[d]) * weight / total;
        mean.v[d] += (v[d] - mean.v[d]) * weight / total;
      }
      mean.weight = total;
    };
    for (const PseudoRow& old : head.pseudo) add(old.k, old.v, old.weight);
    for (int32_t r = 0; r < static_cast<int32_t>(head.scores.size()); ++r)
      if (!std::ranges::binary_search(plan.keep, r)) add(head.k.row(r), head.v.row(r), 1);
    if (mean.weight > 0) plan.pseudo.push_back(std::move(mean));
  }
};
const RegisterMethod folds{{
    .name = "test_folds",
    .summary = "keeps the newest rows and one mean of the others",
    .source = "-",
    .build =
        [](Options& o, const KvShape& /*shape*/, Policy& p) {
          protect_options(o, p, {.sink = 0, .recent = 1});
          p.scorer = newest_first();
          p.reducer = std::make_unique<Folds>();
          p.store.pseudo_rows = 1;
        },
}};

// After layer 1 the prompt runs again with its odd rows.
class ReadsAgain final : public Router {
 public:
  void route(const LayerTap& tap, ConstMat /*scores*/, Protect /*protect*/,
             StreamPlan& plan) const override {
    const int rows = static_cast<int>(tap.rows.positions.size());
    if (tap.layer != 1 || rows < tap.prompt_tokens) return;
    for (int r = 1; r < rows; r += 2) plan.rows.push_back(r);
    plan.restart = plan.renumber = true;
  }
};
const RegisterMethod reads_again{{
    .name = "test_reads_again",
    .summary = "runs the prompt twice",
    .source = "-",
    .build = [](Options& /*options*/, const KvShape& /*shape*/,
                Policy& p) { p.router = std::make_unique<ReadsAgain>(); },
}};

// Reads the second sealed page only, in all layers but the first.
class OnePage final : public Reader {
 public:
  int floats(int /*dim*/) const override { return 1; }
  void summarise(ConstMat /*k_page*/, std::span<float> summary) const override { summary[0] = 1; }
  bool reads_all(int layer) const override { return layer == 0; }
  void choose(const PageChoice& job, std::vector<int32_t>& pages) const override {
    if (job.summaries.dim[0] > 1) pages.push_back(1);
  }
};
const RegisterMethod one_page{{
    .name = "test_one_page",
    .summary = "reads one page",
    .source = "-",
    .build = [](Options& /*options*/, const KvShape& /*shape*/,
                Policy& p) { p.reader = std::make_unique<OnePage>(); },
}};

// Attention received from the whole prompt.
class Received final : public Scorer {
 public:
  Demand demand() const override { return {.prompt_mass = Mass::sum}; }
  bool scores_add_up() const override { return true; }
  void score_prompt(const LayerTap& tap, Mat scores) const override {
    for (int h = 0; h < tap.shape.heads; ++h)
      std::ranges::copy(tap.prompt_mass.row(h), scores.row(h).begin());
  }
};
const RegisterMethod received{{
    .name = "test_received",
    .summary = "scores by attention of the whole prompt",
    .source = "-",
    .build = [](Options& /*options*/, const KvShape& /*shape*/,
                Policy& p) { p.scorer = std::make_unique<Received>(); },
}};

std::vector<int32_t> counted(int32_t first, int32_t last) {
  std::vector<int32_t> rows(static_cast<size_t>(last - first + 1));
  std::iota(rows.begin(), rows.end(), first);
  return rows;
}

TEST(Compressor, LetsALaterLayerTakeRowsBackFromAnEarlierOne) {
  ToyPrompt prompt("test_takes_back"), at_once("test_plain:budget=20");
  at_once.prefill(300);
  prompt.prefill(300);
  for (int h = 0; h < 2; ++h) {
    EXPECT_EQ(prompt.kept(0, h), at_once.kept(0, h)) << "the best of the best";
    for (int l = 1; l < 4; ++l) EXPECT_EQ(prompt.kept(l, h).size(), 100u);
  }
  EXPECT_EQ(prompt.compressor().stats().layers_revised, 1);
  EXPECT_EQ(prompt.compressor().stats().rows_kept, 2 * 20 + 6 * 100);
  EXPECT_EQ(prompt.store().rows(), 2 * 20 + 6 * 100);
}

TEST(Compressor, RevisesNothingOfAnEarlierTurn) {
  ToyPrompt prompt("test_takes_back");
  prompt.prefill(300);
  prompt.decode(4);
  const auto before = prompt.kept(0, 1);
  prompt.prefill(200);
  auto after = prompt.kept(0, 1);
  ASSERT_EQ(after.size(), before.size() + 20);
  EXPECT_TRUE(std::equal(before.begin(), before.end(), after.begin()));
  EXPECT_EQ(after.back(), 503);
}

TEST(Compressor, HandsAReducerTheVectorsOfWhatItMayDrop) {
  ToyPrompt prompt("test_folds:budget=40,cache=f32"), full("full:cache=f32");
  prompt.prefill(100);
  full.prefill(100);
  for (int l = 0; l < 4; ++l)
    for (int h = 0; h < 2; ++h) {
      EXPECT_EQ(prompt.kept(l, h), counted(60, 99));
      const auto pseudo = prompt.store().at(l, h).pseudo();
      ASSERT_EQ(pseudo.size(), 1u);
      EXPECT_EQ(pseudo[0].weight, 60);
      const ToyHead all = full.head(l, h);
      for (size_t d = 0; d < 16; ++d) {
        double k = 0, v = 0;
        for (size_t r = 0; r < 60; ++r) k += all.k[r * 16 + d], v += all.v[r * 16 + d];
        EXPECT_NEAR(pseudo[0].k[d], k / 60, 1e-5);
        EXPECT_NEAR(pseudo[0].v[d], v / 60, 1e-5);
      }
    }
}

TEST(Compressor, FoldsOnWhileGeneratingAndOverTurns) {
  ToyPrompt prompt("test_folds:budget=40,cache=f32,reduce_every=4"), full("full:cache=f32");
  for (ToyPrompt* p : {&prompt, &full}) {
    p->prefill(100);
    p->decode(8);
    p->prefill(30);
    p->decode(4);
  }
  EXPECT_EQ(prompt.kept(1, 1), counted(102, 141));
  const auto pseudo = prompt.store().at(1, 1).pseudo();
  ASSERT_EQ(pseudo.size(), 1u);
  EXPECT_EQ(pseudo[0].weight, 102);
  const ToyHead all = full.head(1, 1);
  for (size_t d = 0; d < 16; ++d) {
    double k = 0;
    for (size_t r = 0; r < 102; ++r) k += all.k[r * 16 + d];
    EXPECT_NEAR(pseudo[0].k[d], k / 102, 1e-5);
  }
}

TEST(Compressor, StartsAPromptAgainIfARouterSaysSo) {
  ToyPrompt prompt("test_reads_again:budget=1.0");
  prompt.prefill(100);
  EXPECT_EQ(prompt.layers_run(), 2 + 4);
  for (int l = 0; l < 4; ++l) {
    EXPECT_EQ(prompt.rows_into(l), 50);
    EXPECT_EQ(prompt.kept(l, 0), counted(0, 49));
  }
  EXPECT_EQ(prompt.compressor().stats().rows_kept, 8 * 50);
  EXPECT_EQ(prompt.compressor().stats().rows_seen, 8 * 100);
  EXPECT_EQ(prompt.compressor().query_position(100), 50);
  prompt.decode(2);
  EXPECT_EQ(prompt.kept(2, 0).back(), 51);
}

KvShape with_windows() {
  KvShape shape = toy_shape();
  shape.windows = {0, 40, 0, 24};
  return shape;
}

TEST(Compressor, DropsRowsThatASlidingWindowHidesFromEveryLaterQuery) {
  ToyPrompt prompt("full", with_windows());
  prompt.prefill(200);
  EXPECT_EQ(prompt.kept(0, 0), counted(0, 199));
  EXPECT_EQ(prompt.kept(1, 0), counted(161, 199));  // the next query, 200, sees 161 to 200
  EXPECT_EQ(prompt.kept(2, 1), counted(0, 199));
  EXPECT_EQ(prompt.kept(3, 1), counted(177, 199));
}

TEST(Compressor, DropsHiddenRowsAPageAtATimeWhileGenerating) {
  ToyPrompt prompt("full:page=8", with_windows());
  prompt.prefill(200);
  for (int i = 0; i < 100; ++i) {
    prompt.decode(1);
    const auto kept = prompt.kept(1, 1);
    EXPECT_EQ(kept.back(), 200 + i);
    EXPECT_LE(kept.front(), 200 + i + 1 - 39) << "every row that is seen is there";
    EXPECT_LT(kept.size(), 39u + 8u);
    EXPECT_EQ(kept, counted(kept.front(), kept.back()));
  }
}

TEST(Compressor, SpendsNoBudgetOnHiddenRows) {
  ToyPrompt prompt("knorm:budget=30,sink=4,recent=5", with_windows());
  prompt.prefill(200);
  for (int h = 0; h < 2; ++h) {
    EXPECT_EQ(prompt.kept(0, h).size(), 30u);
    EXPECT_EQ(prompt.kept(1, h).size(), 30u);
    EXPECT_GE(prompt.kept(1, h).front(), 161) << "sinks that nobody sees are gone";
    EXPECT_EQ(prompt.kept(3, h), counted(177, 199)) << "fewer rows than the budget";
  }
}

TEST(Compressor, DropsHiddenRowsOfEarlierTurnsAtTheEndOfAPrompt) {
  ToyPrompt prompt("snapkv:budget=20,window=4", with_windows());
  prompt.prefill(200);
  prompt.prefill(30);
  for (const int32_t row : prompt.kept(3, 0)) EXPECT_GE(row, 207);
  EXPECT_EQ(prompt.kept(0, 0).size(), 40u);
  prompt.prefill(1);
  for (const int32_t row : prompt.kept(3, 0)) EXPECT_GE(row, 208);
}

TEST(Compressor, ForgetsAPromptThatIsAbandoned) {
  for (const char* spec : {"snapkv:budget=40,window=8", "streaming_llm:budget=40",
                           "test_takes_back", "streaming_llm:budget=40,rerotate=true"}) {
    ToyPrompt prompt(spec), never(spec);
    for (ToyPrompt* p : {&prompt, &never}) {
      p->prefill(120);
      p->decode(3);
    }
    prompt.begin(77);
    prompt.run_layer();
    prompt.run_layer();
    prompt.run_layer();
    prompt.abandon();
    EXPECT_EQ(prompt.heads(), never.heads()) << spec;
    for (ToyPrompt* p : {&prompt, &never}) {
      p->decode(3);
      p->prefill(90);
      p->decode(20);
    }
    EXPECT_EQ(prompt.heads(), never.heads()) << spec;
    EXPECT_EQ(prompt.compressor().stats().rows_kept, never.compressor().stats().rows_kept);
    EXPECT_EQ(prompt.compressor().stats().rows_seen, never.compressor().stats().rows_seen);
  }
}

TEST(Compressor, AddsUpVotesBeforeAndAfterReduction) {
  // Each of 12 queries of 4 query heads in 4 layers spends one.
  ToyPrompt all("snapkv:budget=1.0,window=12,pool=none");
  all.prefill(150);
  EXPECT_NEAR(all.compressor().stats().score_seen, 12 * 4 * 4, 1e-3);
  EXPECT_DOUBLE_EQ(all.compressor().stats().score_kept, all.compressor().stats().score_seen);
  ToyPrompt some("snapkv:budget=50,window=12,pool=none");
  some.prefill(150);
  EXPECT_NEAR(some.compressor().stats().score_seen, 12 * 4 * 4, 1e-3);
  EXPECT_LT(some.compressor().stats().score_kept, 0.9 * 12 * 4 * 4);
  EXPECT_GT(some.compressor().stats().score_kept, 12 * 4 * 4 * 50 / 150);
  EXPECT_GT(some.compressor().stats().prompt_seconds, 0);
}

TEST(Compressor, GivesAScorerTheAttentionOfTheWholePromptIfItAsks) {
  ToyPrompt prompt("test_received:budget=60");
  prompt.prefill(100);
  EXPECT_NEAR(prompt.compressor().stats().score_seen, 100 * 4 * 4, 1e-2);
  EXPECT_EQ(prompt.kept(0, 0).size(), 60u);
}

TEST(Compressor, AsksAReaderWhichPagesAQueryReads) {
  ToyPrompt prompt("test_one_page:reduce_every=1000+snapkv:budget=1.0,window=4");
  prompt.prefill(100);  // three sealed pages and four open rows
  std::vector<std::vector<float>> before;
  for (int l = 0; l < 2; ++l) {
    const auto lane = prompt.store().at(l, 0).scores();
    before.emplace_back(lane.begin(), lane.end());
  }
  prompt.decode(1);
  for (int l = 0; l < 2; ++l) {
    const auto lane = prompt.store().at(l, 0).scores();
    for (size_t r = 0; r < 100; ++r) {
      const bool read = l == 0 || (r >= 32 && r < 64) || r >= 96;
      EXPECT_EQ(lane[r] != before[static_cast<size_t>(l)][r], read)
          << "layer " << l << " row " << r;
    }
  }
}

TEST(Compressor, CountsBytesOverAllTurns) {
  ToyPrompt prompt("snapkv:budget=300KiB,window=8");
  prompt.prefill(300);
  const size_t after_one = prompt.store().bytes().total();
  EXPECT_GT(after_one, 150u * 1024);
  prompt.prefill(2000);
  const size_t after_two = prompt.store().bytes().total();
  EXPECT_GT(after_two, after_one);
  EXPECT_LE(after_two, 300u * 1024);
}

TEST(Compressor, GivesEachTurnItsShareUnlessOldRowsCompete) {
  ToyPrompt stays("snapkv:budget=0.2,window=8"),
      competes("snapkv:budget=0.2,window=8,reduce_every=1");
  for (ToyPrompt* p : {&stays, &competes}) {
    p->prefill(100);
    p->decode(10);
    p->prefill(200);
  }
  EXPECT_EQ(stays.kept(1, 0).size(), 20u + 10u + 40u);
  EXPECT_EQ(competes.kept(1, 0).size(), 60u);
}

// What a step or a layer asks for is enough for all that happens in it: the pool's peak tells.
TEST(Compressor, AsksForTheMemoryOfReductionsThatCopySharedPages) {
  for (const char* spec :
       {"h2o:budget=40,reduce_every=3", "snapkv:budget=70,window=8,reduce_every=5",
        "test_folds:budget=40,reduce_every=2", "streaming_llm:budget=60,rerotate=true",
        "test_one_page:reduce_every=4+knorm:budget=90"}) {
    ToyPrompt prompt(spec);
    const auto begins = [&](ToyPrompt& p) {
      const size_t before = p.pool().used_bytes();
      p.pool().reset_peak();
      return before;
    };
    bool copied = false;
    prompt.prefill(150);
    for (int i = 0; i < 25; ++i) {
      const auto fork = prompt.fork();  // every page has two owners again
      const size_t asked = prompt.compressor().bytes_for_step();
      copied |= asked > prompt.store().bytes_for_step();
      const size_t before = begins(prompt);
      prompt.decode(1);
      EXPECT_LE(prompt.pool().peak_bytes() - before, asked) << spec << " step " << i;
    }
    EXPECT_TRUE(copied) << spec;
    const auto fork = prompt.fork();
    prompt.begin(60);
    for (bool more = true; more;) {
      const size_t asked = prompt.compressor().bytes_for_layer(60);
      const size_t before = begins(prompt);
      more = prompt.run_layer();
      EXPECT_LE(prompt.pool().peak_bytes() - before, asked) << spec;
    }
  }
}

}  // namespace
}  // namespace pith::test

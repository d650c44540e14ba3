// Methods together: what their papers never tried runs, holds its budget exactly, and says so where
// two of them cannot be one.
#include <algorithm>

#include "gtest/gtest.h"
#include "support/spec_sentences.h"
#include "support/toy_calibration.h"
#include "support/toy_prompt.h"

namespace pith::test {
namespace {

int64_t rows_promised(const ToyPrompt& prompt, int budget) {
  int64_t rows = 0;
  for (int l = 0; l < 4; ++l) rows += 2 * std::min(budget, prompt.rows_into(l));
  return rows;
}

TEST(Compositions, HoldTheBudgetOfTheWholeModelExactly) {
  for (const char* spec :
       {"dynamickv:budget=0.2+fastkv:tsp_rate=0.4", "fastkv:tsp_rate=0.4,budget=0.2+dynamickv",
        "adakv:budget=0.2+quest:pages=4", "snapkv:budget=0.2+pyramidkv+chunkkv",
        "expected:budget=0.2+adakv", "tova:budget=0.2+lazyllm:steps=1:0.6/2:0.4",
        "h2o:budget=0.2+merge", "observed:budget=0.2+global+hierarchy:pages=5",
        "flexprefill+snapkv:budget=0.2", "criticalkv:budget=0.2+adakv+chunkkv",
        "keydiff:budget=0.2+dynamickv+quest", "uncomp:budget=0.2+route:steps=1:0.5",
        "pyramidkv:budget=0.2+fastkv:tsp_rate=0.3", "adakv:budget=0.2,pyramid=20+route:steps=1:0.3",
        "adakv:budget=0.2+gemfilter:layer=1,tokens=0.6"}) {
    ToyPrompt prompt(spec);
    prompt.prefill(300);
    EXPECT_EQ(prompt.store().rows(), rows_promised(prompt, 60)) << spec;
    prompt.decode(20);
    if (prompt.policy().reduce_every > 0) {
      EXPECT_LE(prompt.store().rows(), 8 * 64) << spec;  // of 320 tokens
    } else {
      EXPECT_EQ(prompt.store().rows(), rows_promised(prompt, 60) + 8 * 20) << spec;
    }
  }
}

TEST(Compositions, OfRazorAndAReaderKeepTheCompensationRow) {
  const std::string razor =
      "razor:heads=" + toy_calibration(toy_shape()) + ",local=20,factor=50,page=16";
  ToyPrompt prompt(razor + "+hierarchy:pages=1000"), alone(razor);
  for (ToyPrompt* p : {&prompt, &alone}) {
    p->prefill(400);
    p->decode(40);
  }
  EXPECT_EQ(prompt.heads(), alone.heads());
  for (size_t i = 0; i < alone.outputs().size(); ++i)
    EXPECT_NEAR(prompt.outputs()[i], alone.outputs()[i], 1e-5);
  int folded = 0;
  for (int l = 0; l < 4; ++l)
    for (int h = 0; h < 2; ++h)
      folded += std::as_const(prompt.store()).at(l, h).pseudo().size() == 1;
  EXPECT_EQ(folded, 7) << "one of eight heads retrieves";
  ToyPrompt few(razor + "+hierarchy:pages=3");
  few.prefill(400);
  few.decode(40);
  EXPECT_EQ(few.heads(), alone.heads()) << "what is read changes nothing of what is held";
}

TEST(Compositions, AreTheSameOnAnyNumberOfThreads) {
  for (const char* spec : {"dynamickv:budget=0.2+fastkv:tsp_rate=0.4",
                           "adakv:budget=0.2+quest:pages=4", "h2o:budget=0.2+merge",
                           "snapkv:budget=0.2+pyramidkv+chunkkv", "expected:budget=0.2+adakv"}) {
    ToyPrompt one(spec, toy_shape(), 1), three(spec, toy_shape(), 3);
    for (ToyPrompt* p : {&one, &three}) {
      p->prefill(500);
      p->decode(10);
    }
    EXPECT_EQ(one.heads(), three.heads()) << spec;
    EXPECT_EQ(one.outputs(), three.outputs()) << spec;
  }
}

TEST(Compositions, ThatContradictThemselvesAreRefused) {
  EXPECT_EQ(answer("snapkv:budget=0.1+h2o"), "both 'snapkv' and 'h2o' bring a scorer");
  EXPECT_EQ(answer("adakv:budget=0.1+pyramidkv"), "both 'adakv' and 'pyramidkv' bring a budget");
  EXPECT_EQ(answer("fastkv+gemfilter"), "both 'fastkv' and 'gemfilter' bring a router");
  EXPECT_EQ(answer("chunkkv:budget=0.1+merge"), "both 'chunkkv' and 'merge' bring a reducer");
  EXPECT_EQ(answer("quest+hierarchy"), "both 'quest' and 'hierarchy' bring a reader");
  EXPECT_EQ(answer("kvzip:budget=0.3,share=even+uncomp"),
            "'uncomp' looks at the queries of each layer as it comes, and 'kvzip' decides behind "
            "the last one");
  EXPECT_EQ(answer("adakv"), "adakv: needs budget=...");
  EXPECT_EQ(answer("chunkkv"), "chunkkv: needs budget=...");
  EXPECT_EQ(answer("expected:budget=0.1,reduce_every=8"),
            "'expected' scores the prompt only and knows nothing of generated rows; leave "
            "reduce_every at 0");
}

// Bounded for ever: the same rows and bytes after every step, whatever was generated.
void expect_bounded(const std::string& spec, int prompt_tokens, int steps) {
  ToyPrompt prompt(spec);
  prompt.prefill(prompt_tokens);
  const int cadence = std::max(1, prompt.policy().reduce_every);
  prompt.decode(4 * cadence);
  const size_t bytes = prompt.store().bytes().total();
  const size_t page = 2 * 8 *
                      PagePool::page_cost(static_cast<size_t>(prompt.policy().store.page_rows *
                                                              prompt.shape().dim * 2));
  const int64_t rows = prompt.store().rows();
  for (int i = 0; i < steps / cadence; ++i) {
    prompt.decode(cadence);
    ASSERT_EQ(prompt.store().rows(), rows) << spec << " step " << i;
    ASSERT_LE(prompt.store().bytes().total(), bytes + page) << spec << " step " << i;
  }
  EXPECT_LE(prompt.pool().peak_bytes(), prompt.pool().used_bytes() + 64 * page) << spec;
}

TEST(Compositions, ThatReduceWhileGeneratingHoldTheirBytes) {
  const std::string heads = toy_calibration(toy_shape());
  for (const std::string& spec :
       {std::string("h2o:budget=96"), std::string("tova:budget=96"),
        std::string("streaming_llm:budget=96"), std::string("observed:budget=96,reduce_every=1"),
        std::string("snapkv:budget=96,reduce_every=32"), std::string("uncomp:budget=96"),
        "razor:heads=" + heads + ",induction=0,echo=0,local=92,factor=100",
        std::string("h2o:budget=96,reduce_every=8+quest:pages=4"),
        std::string("keydiff:budget=96,reduce_every=16+merge")})
    expect_bounded(spec, 300, 200);
}

}  // namespace
}  // namespace pith::test

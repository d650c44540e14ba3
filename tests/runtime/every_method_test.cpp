// What every registered method promises when a whole model runs, without a line of code by its
// author. tests/methods/methods_contract_test.cpp has the promises that need no model.
#include <cmath>
#include <gtest/gtest.h>
#include <map>
#include <set>

#include "backend/cpu_backend.h"
#include "base/error.h"
#include "policy/registry.h"
#include "runtime/engine.h"
#include "runtime/forward.h"
#include "support/method_specs.h"
#include "support/tiny_model.h"
#include "support/tiny_sessions.h"

namespace pith::test {
namespace {

class EveryMethod : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    try {
      spec("llama", "40");
    } catch (const Error& error) {
      GTEST_SKIP() << "no file of random numbers is enough: " << error.what();
    }
  }
  std::string spec(const std::string& model, const std::string& budget,
                   bool neutral = false) const {
    std::string text = spec_of(method_, budget, loaded_tiny_model(model)->config().shape, neutral);
    if (method_.name == "razor" && model == "mpt") text += ",form=alibi";
    return text;
  }
  const Method& method_ = *find_method(GetParam());
};

// Rows that everybody sees, sliding windows, slopes, and queries of one kind more.
const char* const kKinds[] = {"llama", "gemma2", "mpt", "qwen3"};

TEST_P(EveryMethod, AnswersTheSameWithOneThreadAndWithTwo) {
  for (const char* model : kKinds) {
    const auto prompt = tiny_tokens(tiny_model(model), 100);
    const std::string text = spec(model, "0.2");
    EXPECT_TRUE(same_bits(answer(model, tiny_options(1), text, prompt, 6),
                          answer(model, tiny_options(2), text, prompt, 6)))
        << text << " on " << model;
  }
}

class Neutral : public EveryMethod {
 protected:
  void SetUp() override {
    EveryMethod::SetUp();
    const KvShape& shape = loaded_tiny_model("llama")->config().shape;
    if (!make_policy(spec("llama", "1.0", true), shape)->amount) GTEST_SKIP() << "takes no budget";
  }
  // Compares with `full` on a prompt of two pages and some rows. Both with the further option.
  void expect_full(const std::string& model, const std::string& budget, const std::string& cache) {
    static std::map<std::string, std::vector<float>> answers;  // of `full`
    const auto prompt = tiny_tokens(tiny_model(model), 70);
    std::string text = spec(model, budget, true);
    text += (text.find(':') == std::string::npos ? ":cache=" : ",cache=") + cache;
    std::vector<float> compressed;
    int page_rows = 0;
    try {
      page_rows = make_policy(text, loaded_tiny_model(model)->config().shape)->store.page_rows;
      compressed = answer(model, tiny_options(1), text, prompt, 3);
    } catch (const Error& error) {  // routers refuse to act there, and a store is one format
      const std::string what = error.what();
      ASSERT_TRUE(what.find("sliding window") != std::string::npos ||
                  what.find("'cache' must be") != std::string::npos)
          << what;
      return;
    }
    // Weights of 8-bit rows are rounded page by page, so pages have to be alike.
    const std::string plain = "full:cache=" + cache + ",page=" + std::to_string(page_rows);
    std::vector<float>& full = answers[model + " " + plain];
    if (full.empty()) full = answer(model, tiny_options(2), plain, prompt, 3);
    EXPECT_TRUE(same_bits(full, compressed)) << text << " on " << model;
  }
};

TEST_P(Neutral, WithABudgetOfThePromptIsTheFullCacheBitForBitOnEveryArchitecture) {
  std::set<std::string> seen;  // variants of one differ in what no method sees
  for (const TinyModel& tiny : tiny_models())
    if (seen.insert(tiny.arch).second) expect_full(tiny.name, "1.0", "f16");
}

TEST_P(Neutral, WithABudgetOfMoreRowsThanThePromptIsTheFullCacheInEveryPageFormat) {
  for (const char* cache : {"f16", "bf16", "q8"})
    for (const char* model : {"llama", "gemma2"}) expect_full(model, "4096", cache);
}

TEST_P(EveryMethod, RunsPromptsOfOneTokenOfLessThanAWindowAndOfOnePage) {
  for (const char* model : kKinds)
    for (const auto& [tokens, budget] :
         {std::pair(1, "0.5"), {5, "0.5"}, {32, "0.5"}, {32, "40"}, {33, "0.5"}}) {
      const auto prompt = tiny_tokens(tiny_model(model), tokens);
      const std::string text = spec(model, budget);
      for (const float x : answer(model, tiny_options(1), text, prompt, 3))
        ASSERT_TRUE(std::isfinite(x)) << text << " on " << model << ", " << tokens << " tokens";
    }
}

TEST_P(EveryMethod, AnswersLikeAloneBesideAnotherSession) {
  const auto a = tiny_tokens(tiny_model("llama"), 120, 1),
             b = tiny_tokens(tiny_model("llama"), 90, 2);
  const std::string tested = spec("llama", "40"), other = "knorm:budget=40";
  const auto alone_a = answer("llama", tiny_options(2), tested, a, 5);
  const auto alone_b = answer("llama", tiny_options(2), other, b, 5);
  Engine engine(loaded_tiny_model("llama"), tiny_options(2));
  const auto first = open_tiny(engine, tested), second = open_tiny(engine, other);
  engine.prefill(*first, a);
  engine.prefill(*second, b);
  std::vector<float> got_a = first->logits, got_b = second->logits;
  for (int i = 0; i < 5; ++i) {
    Session* const both[] = {first.get(), second.get()};
    int32_t tokens[2];
    for (int s = 0; s < 2; ++s)
      tokens[s] =
          static_cast<int32_t>(std::ranges::max_element(both[s]->logits) - both[s]->logits.begin());
    engine.decode(both, tokens);
    got_a.insert(got_a.end(), first->logits.begin(), first->logits.end());
    got_b.insert(got_b.end(), second->logits.begin(), second->logits.end());
  }
  EXPECT_TRUE(same_bits(alone_a, got_a));
  EXPECT_TRUE(same_bits(alone_b, got_b));
}

TEST_P(EveryMethod, AnswersLikeAloneWhenPromptsTakeTurnsByTile) {
  const auto model = loaded_tiny_model("gemma2");
  const auto backend = make_cpu_backend(2);
  PagePool pool(size_t{256} << 20);
  Forward forward(*model, *backend, 16);
  const auto a = tiny_tokens(tiny_model("gemma2"), 130, 1),
             b = tiny_tokens(tiny_model("gemma2"), 75, 2);
  const KvShape& shape = model->config().shape;
  const std::string tested = spec("gemma2", "40"), other = "snapkv:budget=0.5";
  Session first(shape, make_policy(tested, shape), pool, {}),
      second(shape, make_policy(other, shape), pool, {});
  first.feed(a);
  second.feed(b);
  while (first.prefill || second.prefill)
    for (Session* session : {&first, &second})
      if (session->prefill) {
        ASSERT_NE(forward.prefill_tile(*session), Progress::starved);
      }
  // Attention that rows receive adds up tile by tile, so alone is in the same tiles.
  EXPECT_TRUE(same_bits(first.logits, answer("gemma2", tiny_options(2, 16), tested, a, 0)));
  EXPECT_TRUE(same_bits(second.logits, answer("gemma2", tiny_options(2, 16), other, b, 0)));
}

TEST_P(EveryMethod, ContinuesOnAForkLikeOnItsOriginalAndNeitherDisturbsTheOther) {
  Engine engine(loaded_tiny_model("llama"), tiny_options(1));
  const auto prompt = tiny_tokens(tiny_model("llama"), 100);
  {
    const auto session = open_tiny(engine, spec("llama", "40"));
    engine.prefill(*session, prompt);
    const auto fork = session->fork(), other = session->fork();
    const auto run = [&](Session& s, int32_t token) {
      std::vector<float> all;
      Session* const one = &s;
      for (int i = 0; i < 40; ++i) {
        engine.decode({&one, 1}, {&token, 1});
        all.insert(all.end(), s.logits.begin(), s.logits.end());
      }
      return all;
    };
    const auto a = run(*session, 70), b = run(*other, 91), c = run(*fork, 70);
    EXPECT_TRUE(same_bits(a, c));
    EXPECT_FALSE(same_bits(a, b));
  }
  EXPECT_EQ(engine.pool().used_bytes(), 0u);
}

TEST_P(EveryMethod, GivesBackEveryByteWhenItEnds) {
  Engine engine(loaded_tiny_model("gemma2"), tiny_options(1));
  {
    const auto session = open_tiny(engine, spec("gemma2", "40"));
    answer(engine, *session, tiny_tokens(tiny_model("gemma2"), 200), 40);
    EXPECT_GT(engine.pool().used_bytes(), 0u);
  }
  EXPECT_EQ(engine.pool().used_bytes(), 0u);
}

INSTANTIATE_TEST_SUITE_P(Methods, EveryMethod, ::testing::ValuesIn(method_names()),
                         [](const auto& info) { return info.param; });
INSTANTIATE_TEST_SUITE_P(Methods, Neutral, ::testing::ValuesIn(method_names()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace pith::test

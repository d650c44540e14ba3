// What sessions promise whatever the model: how a prompt is cut, who runs beside it and what was
// asked before must not change a bit of what it answers.
#include <cmath>
#include <gtest/gtest.h>

#include "backend/cpu_backend.h"
#include "base/error.h"
#include "policy/registry.h"
#include "runtime/engine.h"
#include "runtime/forward.h"
#include "support/tiny_model.h"
#include "support/tiny_sessions.h"

namespace pith::test {
namespace {

std::vector<std::string> architectures() {
  std::vector<std::string> names;
  for (const TinyModel& m : tiny_models()) names.push_back(m.name);
  return names;
}

EngineOptions options(int threads, int tile_rows = 512, size_t cache_bytes = size_t{256} << 20) {
  return tiny_options(threads, tile_rows, cache_bytes);
}

class EveryArchitecture : public ::testing::TestWithParam<std::string> {};

TEST_P(EveryArchitecture, AnswersTheSameHoweverThePromptIsCutIntoTiles) {
  const auto prompt = tiny_tokens(tiny_model(GetParam()), 150);
  const auto whole = answer(GetParam(), options(1), "full", prompt, 4);
  for (int tile : {1, 7, 64, 149})
    EXPECT_TRUE(same_bits(whole, answer(GetParam(), options(1, tile), "full", prompt, 4))) << tile;
}

TEST_P(EveryArchitecture, CodedPagesAnswerNearlyLikePlainOnes) {
  const auto prompt = tiny_tokens(tiny_model(GetParam()), 150);
  Engine engine(loaded_tiny_model(GetParam()), options(1));
  const auto logits = [&](const char* spec) {
    const auto session = engine.open(spec);
    engine.prefill(*session, prompt);
    Session* const one = session.get();
    std::vector<float> all;
    for (int32_t token = 5; token < 11; ++token) {
      engine.decode({&one, 1}, {&token, 1});
      all.insert(all.end(), one->logits.begin(), one->logits.end());
    }
    return all;
  };
  const auto exact = logits("full:cache=f32");
  double size = 0;
  for (const float x : exact) size += static_cast<double>(x) * x;
  const auto distance = [&](const std::vector<float>& x) {
    double sum = 0;
    for (size_t i = 0; i < x.size(); ++i)
      sum += (static_cast<double>(x[i]) - exact[i]) * (static_cast<double>(x[i]) - exact[i]);
    return std::sqrt(sum / size);
  };
  EXPECT_LT(distance(logits("full:cache=q8")), 2e-2);
  EXPECT_GE(distance(logits("full:cache=q8")), distance(logits("full")));  // equal: all rows open
  EXPECT_LT(distance(logits("full:cache=bf16")), 5e-3);
}

INSTANTIATE_TEST_SUITE_P(Session, EveryArchitecture, ::testing::ValuesIn(architectures()),
                         [](const auto& info) { return info.param; });

TEST(Session, ASecondTurnSeesTheFirst) {
  // With the full cache in f32, two turns are one prompt.
  const auto prompt = tiny_tokens(tiny_model("llama"), 120);
  Engine engine(loaded_tiny_model("llama"), options(1));
  const auto whole = engine.open("full:cache=f32"), turns = engine.open("full:cache=f32");
  engine.prefill(*whole, prompt);
  engine.prefill(*turns, std::span(prompt).first(50));
  engine.prefill(*turns, std::span(prompt).subspan(50));
  ASSERT_EQ(whole->logits.size(), turns->logits.size());
  for (size_t i = 0; i < whole->logits.size(); ++i)
    EXPECT_NEAR(whole->logits[i], turns->logits[i], 1e-4);
}

TEST(Session, TheBatchThatATokenIsDecodedInDoesNotChangeItsLogits) {
  Engine engine(loaded_tiny_model("qwen2"), options(2));
  const auto prompt = tiny_tokens(tiny_model("qwen2"), 60);
  const auto first = engine.open("full");
  engine.prefill(*first, prompt);
  std::vector<std::unique_ptr<Session>> forks;
  std::vector<Session*> all;
  std::vector<int32_t> tokens;
  for (int i = 0; i < 21; ++i) {
    forks.push_back(first->fork());
    all.push_back(forks.back().get());
    tokens.push_back(40 + i);
  }
  engine.decode(all, tokens);
  for (int i = 0; i < 21; ++i) {
    const auto alone = first->fork();
    Session* const one = alone.get();
    engine.decode({&one, 1}, {&tokens[i], 1});
    EXPECT_TRUE(same_bits(alone->logits, forks[i]->logits)) << i;
  }
}

TEST(Session, HoldsNoMoreThanItsBudgetPlusWhatItGenerated) {
  Engine engine(loaded_tiny_model("llama"), options(1));
  const auto session = engine.open("snapkv:budget=40");
  answer(engine, *session, tiny_tokens(tiny_model("llama"), 300), 10);
  const KvShape& shape = engine.model().config().shape;
  for (int l = 0; l < shape.layers; ++l)
    for (int h = 0; h < shape.heads; ++h) EXPECT_EQ(session->store->at(l, h).rows(), 50);
}

TEST(Session, AStreamingCacheStaysAtItsBudgetWhileGenerating) {
  Engine engine(loaded_tiny_model("llama"), options(1));
  const auto session = engine.open("streaming_llm:budget=48");
  answer(engine, *session, tiny_tokens(tiny_model("llama"), 100), 60);
  EXPECT_EQ(session->store->at(1, 0).rows(), 48);
  const auto positions = session->store->at(1, 0).positions();
  EXPECT_EQ(positions[3], 3);
  EXPECT_EQ(positions.back(), 159);
}

TEST(Session, APromptThatDoesNotFitIsRefusedAndLosesNothing) {
  Engine engine(loaded_tiny_model("llama"), options(1, 64, 200 << 10));
  const auto session = engine.open("full");
  engine.prefill(*session, tiny_tokens(tiny_model("llama"), 100));
  const auto before = session->logits;
  const size_t used = engine.pool().used_bytes();
  try {
    engine.prefill(*session, tiny_tokens(tiny_model("llama"), 3000));
    FAIL() << "3000 tokens do not fit";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Errc::no_memory);
    EXPECT_NE(std::string(error.what()).find("--kv-memory"), std::string::npos);
  }
  EXPECT_EQ(engine.pool().used_bytes(), used);
  EXPECT_EQ(session->tokens.size(), 100u);
  EXPECT_TRUE(same_bits(before, session->logits));
  Session* const one = session.get();
  const int32_t token = 50;
  engine.decode({&one, 1}, {&token, 1});
}

TEST(Session, TheLimitIsNeverExceeded) {
  Engine engine(loaded_tiny_model("llama"), options(2, 64, 600 << 10));
  const auto session = engine.open("snapkv:budget=0.1");
  answer(engine, *session, tiny_tokens(tiny_model("llama"), 800), 20);
  EXPECT_LE(engine.pool().peak_bytes(), engine.pool().limit_bytes());
}

TEST(Session, AnInterruptedPromptLeavesTheSessionAsItWas) {
  class StopAfter final : public Monitor {
   public:
    bool stopped() const override { return ++asked_ > 5; }

   private:
    mutable int asked_ = 0;
  };
  Engine engine(loaded_tiny_model("llama"), options(1, 16));
  const auto session = engine.open("full");
  StopAfter stop;
  EXPECT_THROW(engine.prefill(*session, tiny_tokens(tiny_model("llama"), 200), stop), Error);
  EXPECT_TRUE(session->tokens.empty());
  EXPECT_EQ(session->store->at(0, 0).rows(), 0);
  const auto prompt = tiny_tokens(tiny_model("llama"), 100);
  EXPECT_TRUE(same_bits(answer(engine, *session, prompt, 2),
                        answer("llama", options(1), "full", prompt, 2)));
}

TEST(Session, ATokenOutsideTheVocabularyIsRefused) {
  Engine engine(loaded_tiny_model("llama"), options(1));
  const auto session = engine.open("full");
  const std::vector<int32_t> bad = {1, 100000};
  EXPECT_THROW(engine.prefill(*session, bad), Error);
  EXPECT_THROW(engine.prefill(*session, {}), Error);
  EXPECT_TRUE(session->tokens.empty());
}

TEST(Session, LogitsOfAllRowsEndWithThoseOfTheLast) {
  Engine engine(loaded_tiny_model("qwen3"), options(1));
  const auto prompt = tiny_tokens(tiny_model("qwen3"), 70);
  const auto session = engine.open("full");
  int rows = 0;
  std::vector<float> last;
  engine.prefill_all(*session, prompt, [&](int row, std::span<const float> logits) {
    EXPECT_EQ(row, rows++);
    last.assign(logits.begin(), logits.end());
  });
  EXPECT_EQ(rows, 70);
  EXPECT_TRUE(same_bits(last, session->logits));
  EXPECT_TRUE(same_bits(last, answer("qwen3", options(1), "full", prompt, 0)));
}

}  // namespace
}  // namespace pith::test

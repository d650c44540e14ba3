// What sessions promise whatever the model: how a prompt is cut, who runs beside it and what was
// asked before must not change a bit of what it answers.
#include <cstring>
#include <gtest/gtest.h>
#include <map>

#include "backend/cpu_backend.h"
#include "base/error.h"
#include "policy/registry.h"
#include "runtime/engine.h"
#include "runtime/forward.h"
#include "support/tiny_model.h"

namespace pith {
namespace {

using test::tiny_model;
using test::tiny_tokens;

class Models {
 public:
  static std::shared_ptr<const Model> get(const std::string& name) {
    static std::map<std::string, std::shared_ptr<const Model>> loaded;
    auto& model = loaded[name];
    if (!model) model = Model::load(test::write_tiny_model(tiny_model(name)));
    return model;
  }
};

std::vector<std::string> names() {
  std::vector<std::string> names;
  for (const test::TinyModel& m : test::tiny_models()) names.push_back(m.name);
  return names;
}

EngineOptions options(int threads, int tile_rows = 512, size_t cache_bytes = size_t{256} << 20) {
  return {.threads = threads, .cache_bytes = cache_bytes, .tile_rows = tile_rows};
}

// Logits after the prompt and after each of `steps` greedy tokens, one after the other.
std::vector<float> answer(Engine& engine, Session& session, std::span<const int32_t> prompt,
                          int steps) {
  engine.prefill(session, prompt);
  std::vector<float> all = session.logits;
  Session* const one = &session;
  for (int i = 0; i < steps; ++i) {
    const auto best = std::max_element(session.logits.begin(), session.logits.end());
    const auto token = static_cast<int32_t>(best - session.logits.begin());
    engine.decode({&one, 1}, {&token, 1});
    all.insert(all.end(), session.logits.begin(), session.logits.end());
  }
  return all;
}

std::vector<float> answer(const std::string& model, const EngineOptions& how,
                          const std::string& spec, std::span<const int32_t> prompt, int steps) {
  Engine engine(Models::get(model), how);
  const auto session = engine.open(spec);
  return answer(engine, *session, prompt, steps);
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

class EveryArchitecture : public ::testing::TestWithParam<std::string> {};

TEST_P(EveryArchitecture, AnswersTheSameHoweverThePromptIsCutIntoTiles) {
  const auto prompt = tiny_tokens(tiny_model(GetParam()), 150);
  const auto whole = answer(GetParam(), options(1), "full", prompt, 4);
  for (int tile : {1, 7, 64, 149})
    EXPECT_TRUE(same_bits(whole, answer(GetParam(), options(1, tile), "full", prompt, 4))) << tile;
}

TEST_P(EveryArchitecture, AnswersTheSameWithOneThreadAndWithTwo) {
  const auto prompt = tiny_tokens(tiny_model(GetParam()), 150);
  for (const char* spec : {"full", "snapkv:budget=40", "fastkv:budget=0.2"})
    EXPECT_TRUE(same_bits(answer(GetParam(), options(1), spec, prompt, 6),
                          answer(GetParam(), options(2), spec, prompt, 6)))
        << spec;
}

TEST_P(EveryArchitecture, WithABudgetOfThePromptEveryMethodIsTheFullCacheBitForBit) {
  const auto prompt = tiny_tokens(tiny_model(GetParam()), 150);
  const auto full = answer(GetParam(), options(2), "full", prompt, 6);
  for (const char* spec : {"snapkv:budget=1.0", "snapkv:budget=150", "knorm:budget=1.0",
                           "streaming_llm:budget=4096", "fastkv:tsp_rate=1,budget=1.0"})
    EXPECT_TRUE(same_bits(full, answer(GetParam(), options(2), spec, prompt, 6))) << spec;
}

TEST_P(EveryArchitecture, WithCodedPagesTooABudgetOfThePromptIsTheFullCacheOfThatFormat) {
  const auto prompt = tiny_tokens(tiny_model(GetParam()), 150);
  for (const std::string format : {"q8", "bf16"}) {
    const auto full = answer(GetParam(), options(2), "full:cache=" + format, prompt, 6);
    for (const char* spec :
         {"snapkv:budget=1.0", "knorm:budget=150", "fastkv:tsp_rate=1,budget=1.0"})
      EXPECT_TRUE(same_bits(
          full, answer(GetParam(), options(1), std::string(spec) + ",cache=" + format, prompt, 6)))
          << spec << " " << format;
  }
}

TEST_P(EveryArchitecture, CodedPagesAnswerNearlyLikePlainOnes) {
  const auto prompt = tiny_tokens(tiny_model(GetParam()), 150);
  Engine engine(Models::get(GetParam()), options(1));
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

TEST_P(EveryArchitecture, RunsPromptsOfOneTokenOfLessThanTheWindowAndOfOnePage) {
  for (int tokens : {1, 5, 32, 33}) {
    const auto prompt = tiny_tokens(tiny_model(GetParam()), tokens);
    for (const char* spec : {"full", "snapkv:budget=8,window=4", "knorm:budget=0.5",
                             "streaming_llm:budget=16", "fastkv:budget=0.1"})
      for (float x : answer(GetParam(), options(1), spec, prompt, 3))
        ASSERT_TRUE(std::isfinite(x)) << spec << " with " << tokens << " tokens";
  }
}

INSTANTIATE_TEST_SUITE_P(Session, EveryArchitecture, ::testing::ValuesIn(names()),
                         [](const auto& info) { return info.param; });

TEST(Session, TwoInterleavedAnswerLikeEachAlone) {
  const auto a = tiny_tokens(tiny_model("llama"), 120, 1),
             b = tiny_tokens(tiny_model("llama"), 90, 2);
  for (const char* spec :
       {"full", "snapkv:budget=40", "streaming_llm:budget=32", "fastkv:budget=0.15"}) {
    const auto alone_a = answer("llama", options(2), spec, a, 5);
    const auto alone_b = answer("llama", options(2), "knorm:budget=40", b, 5);
    Engine engine(Models::get("llama"), options(2));
    const auto first = engine.open(spec), second = engine.open("knorm:budget=40");
    engine.prefill(*first, a);
    engine.prefill(*second, b);
    std::vector<float> got_a = first->logits, got_b = second->logits;
    for (int i = 0; i < 5; ++i) {
      Session* const both[] = {first.get(), second.get()};
      int32_t tokens[2];
      for (int s = 0; s < 2; ++s)
        tokens[s] =
            static_cast<int32_t>(std::max_element(both[s]->logits.begin(), both[s]->logits.end()) -
                                 both[s]->logits.begin());
      engine.decode(both, tokens);
      got_a.insert(got_a.end(), first->logits.begin(), first->logits.end());
      got_b.insert(got_b.end(), second->logits.begin(), second->logits.end());
    }
    EXPECT_TRUE(same_bits(alone_a, got_a)) << spec;
    EXPECT_TRUE(same_bits(alone_b, got_b)) << spec;
  }
}

TEST(Session, TwoPromptsThatTakeTurnsByTileAnswerLikeEachAlone) {
  const auto model = Models::get("gemma2");
  const auto backend = make_cpu_backend(2);
  PagePool pool(size_t{256} << 20);
  Forward forward(*model, *backend, 16);
  const auto a = tiny_tokens(tiny_model("gemma2"), 130, 1),
             b = tiny_tokens(tiny_model("gemma2"), 75, 2);
  for (const char* spec : {"full", "snapkv:budget=40", "fastkv:budget=0.15"}) {
    const KvShape& shape = model->config().shape;
    Session first(shape, make_policy(spec, shape), pool, {}),
        second(shape, make_policy("snapkv:budget=0.5", shape), pool, {});
    first.feed(a);
    second.feed(b);
    while (first.prefill || second.prefill)
      for (Session* session : {&first, &second})
        if (session->prefill) {
          ASSERT_NE(forward.prefill_tile(*session), Progress::starved);
        }
    EXPECT_TRUE(same_bits(first.logits, answer("gemma2", options(2), spec, a, 0))) << spec;
    EXPECT_TRUE(same_bits(second.logits, answer("gemma2", options(2), "snapkv:budget=0.5", b, 0)));
  }
}

TEST(Session, AForkContinuesLikeItsOriginalAndNeitherDisturbsTheOther) {
  Engine engine(Models::get("llama"), options(1));
  const auto prompt = tiny_tokens(tiny_model("llama"), 100);
  for (const char* spec :
       {"full", "snapkv:budget=40", "streaming_llm:budget=40", "knorm:budget=0.3"}) {
    const auto session = engine.open(spec);
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
    EXPECT_TRUE(same_bits(a, c)) << spec;
    EXPECT_FALSE(same_bits(a, b)) << spec;
  }
  EXPECT_EQ(engine.pool().used_bytes(), 0u);
}

TEST(Session, ASecondTurnSeesTheFirst) {
  // With the full cache in f32, two turns are one prompt.
  const auto prompt = tiny_tokens(tiny_model("llama"), 120);
  Engine engine(Models::get("llama"), options(1));
  const auto whole = engine.open("full:cache=f32"), turns = engine.open("full:cache=f32");
  engine.prefill(*whole, prompt);
  engine.prefill(*turns, std::span(prompt).first(50));
  engine.prefill(*turns, std::span(prompt).subspan(50));
  ASSERT_EQ(whole->logits.size(), turns->logits.size());
  for (size_t i = 0; i < whole->logits.size(); ++i)
    EXPECT_NEAR(whole->logits[i], turns->logits[i], 1e-4);
}

TEST(Session, TheBatchThatATokenIsDecodedInDoesNotChangeItsLogits) {
  Engine engine(Models::get("qwen2"), options(2));
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

TEST(Session, GivesBackEveryByteWhenItEnds) {
  Engine engine(Models::get("gemma2"), options(1));
  for (const char* spec : {"full", "snapkv:budget=40", "fastkv:budget=0.2"}) {
    const auto session = engine.open(spec);
    answer(engine, *session, tiny_tokens(tiny_model("gemma2"), 200), 40);
    EXPECT_GT(engine.pool().used_bytes(), 0u) << spec;
  }
  EXPECT_EQ(engine.pool().used_bytes(), 0u);
}

TEST(Session, HoldsNoMoreThanItsBudgetPlusWhatItGenerated) {
  Engine engine(Models::get("llama"), options(1));
  const auto session = engine.open("snapkv:budget=40");
  answer(engine, *session, tiny_tokens(tiny_model("llama"), 300), 10);
  const KvShape& shape = engine.model().config().shape;
  for (int l = 0; l < shape.layers; ++l)
    for (int h = 0; h < shape.heads; ++h) EXPECT_EQ(session->store->at(l, h).rows(), 50);
}

TEST(Session, AStreamingCacheStaysAtItsBudgetWhileGenerating) {
  Engine engine(Models::get("llama"), options(1));
  const auto session = engine.open("streaming_llm:budget=48");
  answer(engine, *session, tiny_tokens(tiny_model("llama"), 100), 60);
  EXPECT_EQ(session->store->at(1, 0).rows(), 48);
  const auto positions = session->store->at(1, 0).positions();
  EXPECT_EQ(positions[3], 3);
  EXPECT_EQ(positions.back(), 159);
}

TEST(Session, APromptThatDoesNotFitIsRefusedAndLosesNothing) {
  Engine engine(Models::get("llama"), options(1, 64, 200 << 10));
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
  Engine engine(Models::get("llama"), options(2, 64, 600 << 10));
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
  Engine engine(Models::get("llama"), options(1, 16));
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
  Engine engine(Models::get("llama"), options(1));
  const auto session = engine.open("full");
  const std::vector<int32_t> bad = {1, 100000};
  EXPECT_THROW(engine.prefill(*session, bad), Error);
  EXPECT_THROW(engine.prefill(*session, {}), Error);
  EXPECT_TRUE(session->tokens.empty());
}

TEST(Session, LogitsOfAllRowsEndWithThoseOfTheLast) {
  Engine engine(Models::get("qwen3"), options(1));
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
}  // namespace pith

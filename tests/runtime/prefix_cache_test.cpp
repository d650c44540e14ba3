// Prompts that begin the same: what is taken over from another session changes no bit of an answer,
// and nobody goes without memory for it.
#include "runtime/prefix_cache.h"

#include <algorithm>
#include <gtest/gtest.h>
#include <set>

#include "base/error.h"
#include "policy/registry.h"
#include "runtime/scheduler.h"
#include "runtime/squeeze.h"
#include "support/method_specs.h"
#include "support/tiny_model.h"
#include "support/tiny_sessions.h"

namespace pith::test {
namespace {

EngineOptions reusing(int tile_rows = 512, size_t cache_bytes = size_t{256} << 20) {
  EngineOptions options = tiny_options(1, tile_rows, cache_bytes);
  options.reuse_prefixes = true;
  return options;
}

// Prompts of one beginning and ends of their own.
std::vector<int32_t> prompt_of(int common, int own, uint64_t seed, const char* model = "llama") {
  std::vector<int32_t> prompt = tiny_tokens(tiny_model(model), common, 1);
  const std::vector<int32_t> rest = tiny_tokens(tiny_model(model), own, 100 + seed);
  prompt.insert(prompt.end(), rest.begin(), rest.end());
  return prompt;
}

// The second of two prompts answers as it does where nothing is reused.
void expect_same(const std::string& model, const std::string& spec, int common, int own) {
  const auto first = prompt_of(common, own, 1, model.c_str()),
             second = prompt_of(common, own + 9, 2, model.c_str());
  Engine engine(loaded_tiny_model(model), reusing(48));
  const auto one = open_tiny(engine, spec), other = open_tiny(engine, spec);
  const auto answer_one = answer(engine, *one, first, 40);
  const auto got = answer(engine, *other, second, 40);
  EXPECT_TRUE(same_bits(got, answer(model, tiny_options(1), spec, second, 40)))
      << spec << " on " << model << " took over " << other->reused_tokens;
  EXPECT_TRUE(same_bits(answer_one, answer(model, tiny_options(1), spec, first, 40)))
      << spec << " on " << model << ": the first one was disturbed";

  const PrefixUse use = prefix_use(*other->policy, engine.model().config().shape);
  const int most = std::min(common, static_cast<int>(second.size()) - use.computed);
  EXPECT_EQ(other->reused_tokens,
            use.what == Reuse::nothing || most < PrefixCache::kLeastTokens ? 0 : most)
      << spec << " on " << model;
  if (use.what != Reuse::pages || common < 32) {
    EXPECT_EQ(engine.prefixes()->stats().rows_shared, 0) << spec;
  } else if (common >= 64) {
    EXPECT_GT(engine.prefixes()->stats().rows_shared, 0) << spec;
  }
}

class PrefixOfMethod : public ::testing::TestWithParam<std::string> {};

TEST_P(PrefixOfMethod, ChangesNoBitOfAnAnswer) {
  const Method& method = *find_method(GetParam());
  for (const char* model : {"llama", "gemma2", "mpt", "qwen3"}) {
    std::string spec;
    try {
      spec = spec_of(method, "40", loaded_tiny_model(model)->config().shape);
      if (method.name == "razor" && std::string(model) == "mpt") spec += ",form=alibi";
      make_policy(spec, loaded_tiny_model(model)->config().shape);
    } catch (const Error& error) {
      GTEST_SKIP() << "no file of random numbers is enough: " << error.what();
    }
    expect_same(model, spec, 120, 40);
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, PrefixOfMethod, ::testing::ValuesIn(method_names()),
                         [](const auto& info) { return info.param; });

TEST(PrefixCache, ChangesNoBitInAnyPageFormatNorForBeginningsThatFillNoPage) {
  for (const char* spec : {"full:cache=f32", "full:cache=bf16", "full:cache=q8", "full:cache=e4m3",
                           "kivi:bits=2", "kivi:bits=4,group=32,residual=9",
                           "kivi:bits=4+quest:pages=3", "snapkv:budget=0.4+kivi:bits=2",
                           "full:page=16+quest:pages=3", "h2o:budget=1.0", "snapkv:budget=1.0"})
    for (const int common : {31, 32, 63, 97, 150}) expect_same("llama", spec, common, 40);
}

// The others' pages are sealed further than this prompt's would be.
TEST(PrefixCache, LeavesTheNewestRowsPlainThatASpecWantsPlain) {
  const std::string spec = "kivi:bits=2,group=32,residual=64";
  const auto prompt = prompt_of(150, 90, 1);
  Engine engine(loaded_tiny_model("llama"), reusing(48));
  const auto one = open_tiny(engine, spec);
  engine.prefill(*one, prompt);
  for (const size_t tokens : {40, 70, 97, 170, 239, 240}) {
    const auto other = open_tiny(engine, spec);
    const auto part = std::span(prompt).first(tokens);
    EXPECT_TRUE(same_bits(answer(engine, *other, part, 40),
                          answer("llama", tiny_options(1), spec, part, 40)))
        << tokens;
  }
  EXPECT_GT(engine.prefixes()->stats().rows_shared, 0);
}

TEST(PrefixCache, ChangesNoBitWhereWeightsAreCoded) {
  for (const DType dtype : {DType::f16, DType::q8_0}) {
    TinyModel tiny;
    tiny.ffn_width = 64;
    tiny.dtype = dtype;
    const auto model = Model::load(write_tiny_model(tiny));
    for (const char* spec : {"full", "snapkv:budget=0.4"}) {
      Engine plain(model, tiny_options(1)), engine(model, reusing(37));
      const auto one = open_tiny(engine, spec), other = open_tiny(engine, spec),
                 alone = open_tiny(plain, spec);
      answer(engine, *one, prompt_of(130, 40, 1), 1);
      EXPECT_TRUE(same_bits(answer(engine, *other, prompt_of(130, 50, 2), 6),
                            answer(plain, *alone, prompt_of(130, 50, 2), 6)));
      EXPECT_GT(other->reused_tokens, 100);
    }
  }
}

TEST(PrefixCache, SharesPagesAmongSessionsThatKeepEverythingUntilTheyWrite) {
  Engine engine(loaded_tiny_model("llama"), reusing());
  const auto first = open_tiny(engine, "full");
  engine.prefill(*first, prompt_of(256, 10, 1));
  const size_t one = engine.pool().used_bytes() - engine.prefixes()->bytes();
  const size_t before = engine.pool().used_bytes(), shared = engine.pool().shared_pages();
  const size_t shared_bytes = shared * PagePool::page_cost(32 * 8 * 2);
  EXPECT_GT(shared_bytes, one / 2);
  std::vector<std::unique_ptr<Session>> more;
  for (uint64_t i = 2; i < 6; ++i) {
    more.push_back(open_tiny(engine, "full"));
    more.back()->reuse.remember = 0;
    engine.prefill(*more.back(), prompt_of(256, 10, i));
    EXPECT_EQ(more.back()->reused_tokens, 256);
  }
  EXPECT_EQ(engine.pool().shared_pages(), shared) << "the same pages, with more owners";
  EXPECT_EQ(shared, 2u * 4u * 8u) << "sides, heads of all layers, pages of 256 rows";
  const size_t spare = one / 50;  // in arrays that grew
  EXPECT_LE(engine.pool().used_bytes() - before, 4 * (one - shared_bytes + spare));

  // What one loses, the others keep.
  const auto expected = answer("llama", tiny_options(1), "full", prompt_of(256, 10, 3), 10);
  Session* const victim = more[0].get();
  squeeze(std::span(&victim, 1), size_t{1} << 30);
  EXPECT_GE(victim->store->rows(), 4 * 256) << "shared pages would free nothing";
  HeadPlan some;
  for (int32_t row = 5; row < 100; ++row) some.keep.push_back(row);
  const KvShape& shape = victim->store->shape();
  for (int l = 0; l < shape.layers; ++l)
    for (int h = 0; h < shape.heads; ++h) victim->store->at(l, h).apply(some);
  EXPECT_EQ(victim->store->rows(), 4 * 95);
  std::vector<float> got = more[1]->logits;
  Session* const other = more[1].get();
  for (int i = 0; i < 10; ++i) {
    const auto token =
        static_cast<int32_t>(std::ranges::max_element(other->logits) - other->logits.begin());
    engine.decode({&other, 1}, {&token, 1});
    got.insert(got.end(), other->logits.begin(), other->logits.end());
  }
  EXPECT_TRUE(same_bits(got, expected));
}

TEST(PrefixCache, GoesOnFromTheLongestBeginningAndForgetsTheShorterOnes) {
  Engine engine(loaded_tiny_model("llama"), reusing());
  const auto read = [&](int tokens, const char* spec = "full") {
    const auto session = open_tiny(engine, spec);
    engine.prefill(*session, prompt_of(tokens, 0, 1));
    return session->reused_tokens;
  };
  EXPECT_EQ(read(100), 0);
  EXPECT_EQ(read(200), 100);
  EXPECT_EQ(engine.prefixes()->entries(), 1);
  EXPECT_EQ(read(200), 199) << "the last token's logits are computed";
  EXPECT_EQ(read(150), 149);
  EXPECT_EQ(read(300, "snapkv:budget=0.2"), 200);
  EXPECT_EQ(engine.prefixes()->entries(), 1);
  EXPECT_EQ(read(20), 0) << "too short to be worth it";
}

TEST(PrefixCache, ReleasesWhatNobodyUsesTheLongestUnusedFirst) {
  Engine engine(loaded_tiny_model("llama"), reusing());
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    const auto session = open_tiny(engine, "full");
    engine.prefill(*session, prompt_of(0, 100, seed));
  }
  const auto again = open_tiny(engine, "full");
  engine.prefill(*again, prompt_of(0, 100, 1));
  EXPECT_EQ(again->reused_tokens, 99);
  ASSERT_EQ(engine.prefixes()->entries(), 3);
  EXPECT_TRUE(engine.prefixes()->release(engine.pool().free_bytes() + 1));
  EXPECT_EQ(engine.prefixes()->entries(), 2);
  const auto used = open_tiny(engine, "full"), unused = open_tiny(engine, "full");
  used->reuse.remember = unused->reuse.remember = 0;
  engine.prefill(*used, prompt_of(0, 100, 1));
  engine.prefill(*unused, prompt_of(0, 100, 2));
  EXPECT_EQ(used->reused_tokens, 99);
  EXPECT_EQ(unused->reused_tokens, 0) << "it was the one that was dropped";

  // A prompt in flight holds what it reads from.
  const auto reads = open_tiny(engine, "full");
  engine.feed(*reads, prompt_of(0, 100, 3));
  ASSERT_EQ(engine.read_tile(*reads), Progress::more);
  EXPECT_TRUE(engine.prefixes()->release(engine.pool().limit_bytes()));
  EXPECT_EQ(engine.prefixes()->entries(), 1);
  EXPECT_FALSE(engine.prefixes()->release(engine.pool().limit_bytes()));
  while (engine.read_tile(*reads) == Progress::more) continue;
  EXPECT_TRUE(engine.prefixes()->release(engine.pool().limit_bytes()));
  EXPECT_EQ(engine.prefixes()->bytes(), 0u);
}

// Whatever fits without reuse fits with it, and the limit holds.
TEST(PrefixCache, NeverCostsASessionItsMemory) {
  for (const char* spec : {"full", "kivi:bits=4", "snapkv:budget=0.3"}) {
    const auto expected = answer("llama", tiny_options(1, 64), spec, prompt_of(200, 60, 4), 20);
    size_t limit = size_t{64} << 10;  // the least that is enough for one session, nearly
    for (bool enough = false; !enough; limit += enough ? 0 : limit / 32) {
      enough = true;
      for (uint64_t i = 1; enough && i <= 4; ++i) try {
          answer("llama", tiny_options(1, 64, limit), spec, prompt_of(200, 60, i), 20);
        } catch (const Error& error) {
          ASSERT_EQ(error.code(), Errc::no_memory);
          enough = false;
        }
    }
    Engine engine(loaded_tiny_model("llama"), reusing(64, limit));
    for (uint64_t i = 1; i <= 4; ++i) {
      const auto session = open_tiny(engine, spec);
      const auto got = answer(engine, *session, prompt_of(200, 60, i), 20);
      if (i == 4) {
        EXPECT_TRUE(same_bits(got, expected)) << spec;
      }
    }
    EXPECT_LE(engine.pool().peak_bytes(), engine.pool().limit_bytes());
  }
}

TEST(PrefixCache, APromptThatIsGivenUpLeavesNothing) {
  Engine engine(loaded_tiny_model("llama"), reusing(16));
  {
    const auto session = open_tiny(engine, "full");
    engine.prefill(*session, prompt_of(100, 40, 1));
  }
  const size_t before = engine.pool().used_bytes();
  auto session = open_tiny(engine, "full");
  engine.feed(*session, prompt_of(100, 60, 2));
  for (int i = 0; i < 7; ++i) ASSERT_EQ(engine.read_tile(*session), Progress::more);
  EXPECT_GT(session->store->rows(), 0);
  session->abandon();
  EXPECT_EQ(session->store->rows(), 0);
  session.reset();
  EXPECT_EQ(engine.pool().used_bytes(), before);
  session = open_tiny(engine, "full");
  EXPECT_EQ(engine.prefixes()->entries(), 1);
  EXPECT_TRUE(same_bits(answer(engine, *session, prompt_of(100, 60, 2), 3),
                        answer("llama", tiny_options(1), "full", prompt_of(100, 60, 2), 3)));
}

TEST(PrefixCache, LeavesFurtherTurnsAlone) {
  Engine engine(loaded_tiny_model("llama"), reusing());
  const auto one = open_tiny(engine, "full"), other = open_tiny(engine, "full");
  for (Session* session : {one.get(), other.get()}) {
    engine.prefill(*session, prompt_of(50, 0, 1));
    engine.prefill(*session, prompt_of(0, 70, 2));
  }
  EXPECT_EQ(other->reused_tokens, 49);
  EXPECT_EQ(engine.prefixes()->stats().helped, 1);
  EXPECT_TRUE(same_bits(one->logits, other->logits));
}

TEST(PrefixCache, SaysWhatIsSharedAndWhyNotMore) {
  const KvShape& shape = loaded_tiny_model("llama")->config().shape;
  const auto use = [&](const char* spec) { return prefix_use(*make_policy(spec, shape), shape); };
  const auto has = [](const PrefixUse& use, const char* words) {
    return use.why.find(words) != std::string::npos && use.why.find('\n') == std::string::npos;
  };
  EXPECT_EQ(use("full").what, Reuse::pages);
  EXPECT_EQ(use("kivi:bits=4").what, Reuse::pages);
  EXPECT_EQ(use("snapkv:budget=0.1").what, Reuse::work);
  EXPECT_TRUE(has(use("snapkv:budget=0.1"), "'snapkv:budget=0.1' chooses among the rows of the"));
  EXPECT_EQ(use("streaming_llm:budget=64").what, Reuse::work);
  EXPECT_EQ(use("kvzip:budget=0.3").what, Reuse::work);
  for (const char* spec : {"fastkv:budget=0.2", "h2o:budget=40", "flexprefill"}) {
    EXPECT_EQ(use(spec).what, Reuse::nothing) << spec;
    EXPECT_TRUE(has(use(spec), "every prompt is read from its first token")) << use(spec).why;
  }
  const KvShape& sliding = loaded_tiny_model("gemma2")->config().shape;
  EXPECT_EQ(prefix_use(*make_policy("full", sliding), sliding).what, Reuse::work);
}

TEST(PrefixCache, ServesTheRequestsOfASchedulerThatWaitForTheSameBeginning) {
  Engine engine(loaded_tiny_model("llama"), reusing(64));
  Scheduler scheduler(engine);
  SamplingOptions sampling;
  sampling.temperature = 0;
  const char* specs[] = {"full", "snapkv:budget=0.3", "full", "streaming_llm:budget=40"};
  std::vector<std::vector<int32_t>> prompts;
  for (uint64_t i = 0; i < 4; ++i) {
    prompts.push_back(prompt_of(150, 35, i));
    scheduler.submit(
        {.prompt = prompts.back(), .max_tokens = 12, .spec = specs[i], .sampling = sampling});
  }
  const std::vector<int32_t> stranger = tiny_tokens(tiny_model("llama"), 120, 77);
  scheduler.submit({.prompt = stranger, .max_tokens = 3, .sampling = sampling});
  while (scheduler.step()) continue;
  std::vector<Answer> answers = scheduler.take_answers();
  ASSERT_EQ(answers.size(), 5u);
  std::ranges::sort(answers, {}, &Answer::id);
  for (size_t i = 0; i < 4; ++i) {
    Engine plain(loaded_tiny_model("llama"), tiny_options(1, 64));
    const auto session = open_tiny(plain, specs[i]);
    plain.prefill(*session, prompts[i]);
    std::vector<int32_t> tokens;
    session->sampler = Sampler(sampling);
    plain.generate(*session, 12, [&](int32_t token) {
      tokens.push_back(token);
      return true;
    });
    EXPECT_EQ(answers[i].tokens, tokens) << specs[i];
    EXPECT_EQ(answers[i].reused_tokens > 0, i > 0);
  }
  EXPECT_EQ(answers[4].reused_tokens, 0);
  EXPECT_EQ(engine.prefixes()->entries(), 1) << "nobody waits for what the stranger read";
  engine.prefixes()->release(engine.pool().limit_bytes());
  EXPECT_EQ(engine.pool().used_bytes(), 0u);
}

// An opening is a turn of its own for methods that need no question, and part of the prompt for the
// others; either way an answer is what it would be alone.
TEST(PrefixCache, KeepsOnceWhatAMethodKeepsOfAnOpening) {
  SamplingOptions sampling;
  sampling.temperature = 0;
  for (const char* spec :
       {"knorm:budget=0.5", "streaming_llm:budget=64", "kvzip:budget=0.4", "keydiff:budget=60",
        "knorm:budget=0.5+kivi:bits=4", "snapkv:budget=0.4", "full", "h2o:budget=60"}) {
    Engine engine(loaded_tiny_model("llama"), reusing(64));
    Engine plain(loaded_tiny_model("llama"), tiny_options(1, 64));
    const bool opens =
        prefix_use(*make_policy(spec, engine.model().config().shape), engine.model().config().shape)
            .opens;
    EXPECT_EQ(opens, std::string(spec).find("snapkv") && std::string(spec).find("h2o") &&
                         std::string(spec) != "full")
        << spec;
    Scheduler scheduler(engine);
    std::vector<std::vector<int32_t>> prompts;
    for (uint64_t i = 0; i < 3; ++i) {
      prompts.push_back(prompt_of(170, 20 + 9 * static_cast<int>(i), i));
      scheduler.submit({.prompt = prompts.back(),
                        .max_tokens = 20,
                        .spec = spec,
                        .opening = 170,
                        .sampling = sampling});
    }
    bool shared = false;
    while (scheduler.step()) shared |= engine.pool().shared_pages() > 0;
    std::vector<Answer> answers = scheduler.take_answers();
    ASSERT_EQ(answers.size(), 3u);
    std::ranges::sort(answers, {}, &Answer::id);
    for (size_t i = 0; i < 3; ++i) {
      const auto session = plain.open(spec, sampling);
      const auto prompt = std::span(prompts[i]);
      if (opens) {
        plain.prefill(*session, prompt.first(170));
        plain.prefill(*session, prompt.subspan(170));
      } else {
        plain.prefill(*session, prompt);
      }
      std::vector<int32_t> tokens;
      plain.generate(*session, 20, [&](int32_t token) {
        tokens.push_back(token);
        return true;
      });
      EXPECT_EQ(answers[i].tokens, tokens) << spec << " " << i;
      if (opens) {
        EXPECT_EQ(answers[i].reused_tokens, i == 0 ? 0 : 170) << spec;
      }
    }
    EXPECT_EQ(engine.prefixes()->stats().openings, opens ? 2 : 0) << spec;
    EXPECT_TRUE(shared || !opens) << spec;
    engine.prefixes()->release(engine.pool().limit_bytes());
    EXPECT_EQ(engine.pool().used_bytes(), 0u) << spec;
  }
}

TEST(PrefixCache, AnOpeningIsFollowedBySomething) {
  Engine engine(loaded_tiny_model("llama"), reusing());
  Scheduler scheduler(engine);
  EXPECT_THROW(scheduler.submit({.prompt = prompt_of(10, 0, 1), .opening = 10}), Error);
  EXPECT_THROW(scheduler.submit({.prompt = prompt_of(10, 0, 1), .opening = -1}), Error);
}

}  // namespace
}  // namespace pith::test

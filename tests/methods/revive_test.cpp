// Tokens that lazyllm lets drop out come back when a generated token attends to them. The oracle
// is the paper's rule written over the float64 reference, a token and a layer at a time.
#include <algorithm>
#include <filesystem>
#include <map>
#include <numeric>
#include <set>

#include "base/error.h"
#include "gtest/gtest.h"
#include "support/reference_forward.h"
#include "support/spec_sentences.h"
#include "support/tiny_model.h"
#include "support/tiny_sessions.h"

namespace pith::test {
namespace {

constexpr int kPrompt = 48, kSteps = 8;

TinyModel deep_model() {
  TinyModel model = tiny_model("llama");
  model.name = "deep";
  model.layers = 6;
  return model;
}

const std::string& deep_path() {
  static const std::string path = write_tiny_model(deep_model());
  return path;
}

std::shared_ptr<const Model> deep() {
  static const auto model = Model::load(deep_path());
  return model;
}

std::vector<int32_t> text(int count = kPrompt + kSteps) {
  return tiny_tokens(deep_model(), count, 5);
}

std::vector<int32_t> sorted(std::span<const int32_t> positions) {
  std::vector<int32_t> all(positions.begin(), positions.end());
  std::ranges::sort(all);
  return all;
}

void decode(Engine& engine, Session& session, int32_t token) {
  Session* const one = &session;
  engine.decode({&one, 1}, {&token, 1});
}

// LazyLLM over the reference: which tokens have passed which layer, and which wait behind it.
struct Lazy {
  ReferenceForward model{deep_path()};
  std::map<int, double> steps;  // layer, share of tokens that travel on
  double revive = 0;
  std::vector<std::set<int>> passed, waiting = {};  // [layers]
  int tokens = 0;

  explicit Lazy(std::map<int, double> schedule, double factor)
      : steps(std::move(schedule)), revive(factor) {
    passed.resize(static_cast<size_t>(model.layers()));
    waiting.resize(passed.size());
  }
  std::vector<double> pass(int position, int layer) {
    passed[static_cast<size_t>(layer)].insert(position);
    return model.pass(position, layer);
  }
  static std::set<int> best(const std::vector<double>& paid, std::set<int> among, int count) {
    std::vector<int> order(among.begin(), among.end());
    std::ranges::stable_sort(order, [&](int a, int b) {
      return paid[static_cast<size_t>(a)] > paid[static_cast<size_t>(b)];
    });
    order.resize(std::min(order.size(), static_cast<size_t>(count)));
    return {order.begin(), order.end()};
  }
  void prompt(std::span<const int32_t> ids) {
    std::set<int> alive;
    for (const int32_t id : ids) {
      model.embed(tokens, id);
      alive.insert(tokens++);
    }
    for (int l = 0; l < model.layers(); ++l) {
      std::vector<double> paid;
      for (const int position : alive) paid = pass(position, l);
      if (!steps.contains(l)) continue;
      const int last = tokens - 1;
      auto others = alive;
      others.erase(last);
      std::set<int> on = best(paid, others, static_cast<int>(std::lround(steps[l] * tokens)) - 1);
      on.insert(last);
      for (const int position : alive)
        if (!on.contains(position)) waiting[static_cast<size_t>(l)].insert(position);
      alive = on;
    }
  }
  void token(int32_t id) {
    const int position = tokens++;
    model.embed(position, id);
    std::set<int> coming;
    for (int l = 0; l < model.layers(); ++l) {
      for (const int back : coming) pass(back, l);
      const std::vector<double> paid = pass(position, l);
      if (!steps.contains(l) || revive == 0) continue;
      auto& here = waiting[static_cast<size_t>(l)];
      here.merge(coming);
      coming.clear();
      for (const int one :
           best(paid, passed[static_cast<size_t>(l)],
                static_cast<int>(std::lround(revive * std::lround(steps[l] * tokens)))))
        if (here.erase(one) > 0) coming.insert(one);
    }
  }
};

void expect_same(const Lazy& lazy, const Session& session, int newest) {
  const std::vector<double> expected = lazy.model.logits(newest);
  for (size_t i = 0; i < expected.size(); ++i)
    ASSERT_NEAR(session.logits[i], expected[i], 4e-3) << "logit " << i << " after token " << newest;
  for (int l = 0; l < lazy.model.layers(); ++l) {
    const auto& passed = lazy.passed[static_cast<size_t>(l)];
    for (int h = 0; h < session.store->shape().heads; ++h)
      ASSERT_EQ(sorted(std::as_const(*session.store).at(l, h).positions()),
                std::vector<int32_t>(passed.begin(), passed.end()))
          << "layer " << l << " after token " << newest;
  }
}

TEST(LazyllmRevive, BringsBackWhatGeneratedTokensAttendTo) {
  const auto ids = text();
  Engine engine(deep(), tiny_options(2));
  const auto session = open_tiny(engine, "lazyllm:steps=1:0.5/3:0.25,revive=1,recent=1,cache=f32");
  Lazy lazy({{1, 0.5}, {3, 0.25}}, 1);
  lazy.prompt(std::span(ids).first(kPrompt));
  engine.prefill(*session, std::span(ids).first(kPrompt));
  expect_same(lazy, *session, kPrompt - 1);
  const size_t dropped = lazy.waiting[1].size() + lazy.waiting[3].size();
  for (int i = kPrompt; i < kPrompt + kSteps; ++i) {
    lazy.token(ids[static_cast<size_t>(i)]);
    decode(engine, *session, ids[static_cast<size_t>(i)]);
    expect_same(lazy, *session, i);
    for (const int l : {1, 3}) {
      const auto& waiting = lazy.waiting[static_cast<size_t>(l)];
      ASSERT_EQ(sorted(session->store->dropped(l).positions()),
                std::vector<int32_t>(waiting.begin(), waiting.end()));
    }
  }
  EXPECT_LT(lazy.waiting[1].size() + lazy.waiting[3].size(), dropped) << "some have come back";
  EXPECT_GT(lazy.waiting[3].size(), 0u) << "and some have not";
}

TEST(LazyllmRevive, AnswersLikeTheFullCacheOnceEverythingIsBackBelowTheLastLayer) {
  // The states that enter the last layer are those of the full prompt, so its rows are too.
  const auto ids = text();
  Engine engine(deep(), tiny_options(1));
  const auto all = open_tiny(engine, "full:cache=f32");
  const auto lazy = open_tiny(engine, "lazyllm:steps=4:0.25,revive=1000,recent=1,cache=f32");
  for (Session* session : {all.get(), lazy.get()})
    engine.prefill(*session, std::span(ids).first(kPrompt));
  EXPECT_EQ(std::as_const(*lazy->store).at(5, 0).rows(), kPrompt / 4);
  for (int i = kPrompt; i < kPrompt + kSteps; ++i) {
    for (Session* session : {all.get(), lazy.get()})
      decode(engine, *session, ids[static_cast<size_t>(i)]);
    EXPECT_EQ(std::as_const(*lazy->store).at(5, 0).rows(), i + 1);
    EXPECT_EQ(lazy->store->bytes().dropped, lazy->store->dropped(4).bytes());
    EXPECT_EQ(lazy->store->dropped(4).tokens(), 0);
    for (size_t v = 0; v < all->logits.size(); ++v)
      ASSERT_NEAR(lazy->logits[v], all->logits[v], 3e-3);
  }
}

TEST(LazyllmRevive, ChangesNothingWhereItIsOff) {
  const auto ids = text();
  Engine engine(deep(), tiny_options(1));
  const auto off = open_tiny(engine, "lazyllm:steps=1:0.5,recent=1,cache=f32");
  engine.prefill(*off, std::span(ids).first(kPrompt));
  EXPECT_FALSE(off->policy->store.keeps_dropped);
  EXPECT_EQ(engine.pool().used_bytes(MemoryClass::dropped), 0u);
  Lazy lazy({{1, 0.5}}, 0);
  lazy.prompt(std::span(ids).first(kPrompt));
  for (int i = kPrompt; i < kPrompt + kSteps; ++i) {
    lazy.token(ids[static_cast<size_t>(i)]);
    decode(engine, *off, ids[static_cast<size_t>(i)]);
    expect_same(lazy, *off, i);
  }
}

TEST(LazyllmRevive, HoldsTheBytesThatTheAllocatorCounts) {
  const auto ids = text();
  Engine engine(deep(), tiny_options(1));
  const auto session = open_tiny(engine, "lazyllm:steps=1:0.5/3:0.25,revive=1,recent=1");
  engine.prefill(*session, std::span(ids).first(kPrompt));
  const size_t halves = static_cast<size_t>(kPrompt / 2 + kPrompt / 4) * 32 * 2;
  EXPECT_GE(session->store->bytes().dropped, halves);
  EXPECT_LE(session->store->bytes().dropped, halves * 5 / 4 + 1024);
  for (int i = kPrompt;; ++i) {
    EXPECT_EQ(session->store->bytes().total(), engine.pool().used_bytes());
    EXPECT_EQ(session->store->bytes().dropped, engine.pool().used_bytes(MemoryClass::dropped));
    if (i == kPrompt + kSteps) break;
    decode(engine, *session, ids[static_cast<size_t>(i)]);
  }
}

TEST(LazyllmRevive, AsksForWhatAStepMayTakeBeforeItTakesAnything) {
  const auto ids = text();
  constexpr const char* kSpec = "lazyllm:steps=1:0.25/3:0.1,revive=1000,recent=1,page=8";
  size_t needed = 0, held = 0;
  {
    Engine engine(deep(), tiny_options(1));
    const auto session = open_tiny(engine, kSpec);
    engine.prefill(*session, std::span(ids).first(kPrompt));
    held = engine.pool().used_bytes();
    needed = session->compressor.bytes_for_step();
  }
  for (const size_t missing : {size_t{1}, size_t{0}}) {
    Engine engine(deep(), tiny_options(1, 512, size_t{1} << 20));
    const auto session = open_tiny(engine, kSpec);
    engine.prefill(*session, std::span(ids).first(kPrompt));
    ASSERT_EQ(engine.pool().used_bytes(), held);
    engine.pool().charge(engine.pool().free_bytes() - needed + missing, MemoryClass::lanes);
    if (missing > 0) {
      EXPECT_THROW(decode(engine, *session, ids[kPrompt]), Error);
      EXPECT_EQ(session->store->dropped(1).tokens(), kPrompt - kPrompt / 4);
    } else {
      decode(engine, *session, ids[kPrompt]);
      EXPECT_EQ(session->store->dropped(1).tokens(), 0) << "everything came back";
    }
    EXPECT_LE(engine.pool().peak_bytes(), engine.pool().limit_bytes());
    engine.pool().refund(engine.pool().limit_bytes() - held - needed + missing, MemoryClass::lanes);
  }
}

TEST(LazyllmRevive, GivesTheSameBitsInBatchesTilesAndThreads) {
  const auto ids = text();
  const auto run = [&](const EngineOptions& how, bool batched) {
    Engine engine(deep(), how);
    const auto one = open_tiny(engine, "lazyllm:steps=1:0.5/3:0.25,revive=1,recent=1"),
               other = open_tiny(engine, "full");
    engine.prefill(*one, std::span(ids).first(kPrompt));
    engine.prefill(*other, std::span(ids).first(9));
    std::vector<float> all = one->logits;
    for (int i = kPrompt; i < kPrompt + kSteps; ++i) {
      Session* const both[] = {other.get(), one.get()};
      const int32_t tokens[] = {7, ids[static_cast<size_t>(i)]};
      if (batched)
        engine.decode(both, tokens);
      else
        decode(engine, *one, tokens[1]);
      all.insert(all.end(), one->logits.begin(), one->logits.end());
    }
    return all;
  };
  const auto expected = run(tiny_options(1), false);
  EXPECT_TRUE(same_bits(run(tiny_options(3), false), expected));
  EXPECT_TRUE(same_bits(run(tiny_options(2, 3), false), expected));
  EXPECT_TRUE(same_bits(run(tiny_options(2), true), expected));
}

TEST(LazyllmRevive, SurvivesForksFilesTurnsAndAbandonedPrompts) {
  const auto ids = text();
  constexpr const char* kSpec = "lazyllm:steps=1:0.5/3:0.25,revive=1,recent=1";
  Engine engine(deep(), tiny_options(1));
  const auto session = open_tiny(engine, kSpec), plain = open_tiny(engine, kSpec);
  for (Session* one : {session.get(), plain.get()}) {
    engine.prefill(*one, std::span(ids).first(kPrompt));
    decode(engine, *one, ids[kPrompt]);
    decode(engine, *one, ids[kPrompt + 1]);
  }
  // A turn that is given up leaves nothing.
  const size_t before = session->store->bytes().total();
  const int waiting = session->store->dropped(1).tokens();
  session->feed(std::span(ids).first(20));
  session->abandon();
  EXPECT_EQ(session->store->bytes().total(), before);
  class StopsLate final : public Monitor {
   public:
    bool stopped() const override { return ++asked_ > 24; }

   private:
    mutable int asked_ = 0;
  } stops;
  EXPECT_THROW(engine.prefill(*session, std::span(ids).first(30), stops), Error);
  EXPECT_EQ(session->store->dropped(1).tokens(), waiting);

  const std::string path = fresh_folder() + "revived.session";
  engine.save(*session, path);
  const auto loaded = engine.load(path);
  const auto fork = session->fork();
  const auto go_on = [&](Session& one) {
    engine.prefill(one, std::span(ids).subspan(10, 17));
    std::vector<float> all = one.logits;
    for (int i = 0; i < kSteps; ++i) {
      decode(engine, one, ids[static_cast<size_t>(i)]);
      all.insert(all.end(), one.logits.begin(), one.logits.end());
    }
    return all;
  };
  const auto expected = go_on(*plain);
  EXPECT_TRUE(same_bits(go_on(*fork), expected));
  EXPECT_TRUE(same_bits(go_on(*session), expected));
  EXPECT_TRUE(same_bits(go_on(*loaded), expected));
}

TEST(LazyllmRevive, RefusesWhatNeedsRowsInOrder) {
  KvShape shape{.layers = 4, .query_heads = 4, .heads = 2, .dim = 16, .width = 32};
  shape.windows = {0, 40, 0, 40};
  EXPECT_EQ(answer("lazyllm:revive=1", shape),
            "lazyllm: 'revive' must be 0 for models with sliding windows, whose rows stay in "
            "order");
  EXPECT_EQ(answer("lazyllm:revive=1+tova:budget=0.3"),
            "'lazyllm' calls tokens back in any order, and what is reduced while generating lies "
            "in order; leave reduce_every at 0");
  EXPECT_EQ(answer("lazyllm:revive=1"), "ok: lazyllm:revive=1");
}

}  // namespace
}  // namespace pith::test

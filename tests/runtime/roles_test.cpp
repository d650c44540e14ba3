// Roles that change how a prompt runs: readers of tiles and probes, on models of every
// architecture.
#include <gtest/gtest.h>
#include <map>

#include "base/error.h"
#include "policy/defaults.h"
#include "policy/registry.h"
#include "runtime/engine.h"
#include "support/same_bits.h"
#include "support/tiny_model.h"

namespace pith {
namespace {

using test::tiny_model;
using test::tiny_tokens;

std::shared_ptr<const Model> model_of(const std::string& name) {
  static std::map<std::string, std::shared_ptr<const Model>> loaded;
  auto& model = loaded[name];
  if (!model) model = Model::load(test::write_tiny_model(tiny_model(name)));
  return model;
}

EngineOptions options(int threads, int tile_rows = 512, size_t cache_bytes = size_t{256} << 20) {
  return {.threads = threads, .cache_bytes = cache_bytes, .tile_rows = tile_rows};
}

// Logits after the prompt and after each of `steps` greedy tokens.
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

std::shared_ptr<Policy> keeping_everything() {
  auto policy = std::make_shared<Policy>();
  policy->spec = "a test";
  policy->scorer = newest_first();
  policy->budget = keep_everything();
  policy->reducer = keep_best();
  return policy;
}

std::vector<std::string> readers() {
  std::vector<std::string> names;
  for (const test::TinyModel& m : test::tiny_models()) names.push_back(m.name);
  return names;
}

// ---- readers of tiles

// Reads every `step`-th block of keys before the queries' own; 1: all, in pieces.
class EveryFew final : public TileReader {
 public:
  EveryFew(int64_t step, bool looks) : step_(step), looks_(looks) {}
  bool looks() const override { return looks_; }
  void choose(const TileTap& tap, ReadPlan& plan) const override {
    EXPECT_EQ(static_cast<int64_t>(tap.positions.size()), plan.rows);
    if (looks_) {
      EXPECT_EQ(tap.q.dim[0], plan.rows);
      EXPECT_EQ(tap.k.dim[1], plan.rows);
    }
    for (int64_t head = 0; head < plan.heads; ++head)
      for (int64_t block = 0; block < plan.blocks(); ++block) {
        const int64_t own = block * ReadPlan::kBlock;
        for (int64_t row = 0; row < own; row += 64 * step_)
          plan.at(head, block).push_back({row, row + 64});
        plan.at(head, block).push_back({own, std::min(plan.rows, own + ReadPlan::kBlock)});
      }
  }

 private:
  int64_t step_;
  bool looks_;
};

std::vector<float> read_by(const std::string& model, int64_t step, bool looks,
                           const EngineOptions& how, std::span<const int32_t> prompt) {
  auto policy = keeping_everything();
  policy->tile_reader = std::make_unique<EveryFew>(step, looks);
  Engine engine(model_of(model), how);
  const auto session = engine.open(policy);
  return answer(engine, *session, prompt, 2);
}

class TileReaders : public ::testing::TestWithParam<std::string> {};

TEST_P(TileReaders, ThatReadEverythingAreTheFullCacheBitForBit) {
  const auto prompt = tiny_tokens(tiny_model(GetParam()), 300);
  Engine engine(model_of(GetParam()), options(2));
  const auto session = engine.open("full");
  const auto full = answer(engine, *session, prompt, 2);
  for (const bool looks : {false, true})
    EXPECT_TRUE(test::same_bits(full, read_by(GetParam(), 1, looks, options(2, 70), prompt)));
}

TEST_P(TileReaders, OfEveryMethodToldToReadEverythingAreTheFullCacheBitForBit) {
  const auto prompt = tiny_tokens(tiny_model(GetParam()), 300);
  Engine engine(model_of(GetParam()), options(2, 70));
  const auto full = engine.open("full");
  const auto expected = answer(engine, *full, prompt, 2);
  for (const char* spec : {"flexprefill:gamma=1", "xattention:threshold=1", "kvzip:budget=1.0"}) {
    const auto session = engine.open(spec);
    EXPECT_TRUE(test::same_bits(expected, answer(engine, *session, prompt, 2))) << spec;
  }
  for (const char* spec : {"flexprefill:gamma=0.5,least=64", "xattention:threshold=0.5"}) {
    const auto whole = engine.open(spec);
    const auto at_once = answer(engine, *whole, prompt, 2);
    Engine other(model_of(GetParam()), options(1, 37));
    const auto cut = other.open(spec);
    EXPECT_TRUE(test::same_bits(at_once, answer(other, *cut, prompt, 2))) << spec;
  }
}

TEST_P(TileReaders, AnswerTheSameHoweverThePromptIsCutIntoTiles) {
  const auto prompt = tiny_tokens(tiny_model(GetParam()), 300);
  const auto whole = read_by(GetParam(), 2, true, options(1), prompt);
  for (const int tile : {1, 90, 299})
    for (const bool looks : {false, true})
      EXPECT_TRUE(test::same_bits(whole, read_by(GetParam(), 2, looks, options(2, tile), prompt)))
          << tile;
}

INSTANTIATE_TEST_SUITE_P(Roles, TileReaders, ::testing::ValuesIn(readers()),
                         [](const auto& info) { return info.param; });

TEST(TileReaders, ChangeAnswersWhenTheyReadLess) {
  const auto prompt = tiny_tokens(tiny_model("llama"), 300);
  EXPECT_FALSE(test::same_bits(read_by("llama", 1, true, options(1), prompt),
                               read_by("llama", 2, true, options(1), prompt)));
}

TEST(TileReaders, ThatLookHaveTheQueriesOfALayerCounted) {
  const auto prompt = tiny_tokens(tiny_model("llama"), 300);
  size_t peak[2];
  for (const bool looks : {false, true}) {
    auto policy = keeping_everything();
    policy->tile_reader = std::make_unique<EveryFew>(1, looks);
    Engine engine(model_of("llama"), options(1));
    const auto session = engine.open(policy);
    engine.prefill(*session, prompt);
    peak[looks] = engine.pool().peak_bytes();
  }
  const KvShape& s = model_of("llama")->config().shape;
  EXPECT_EQ(peak[1] - peak[0], 300 * sizeof(float) * static_cast<size_t>(s.query_heads * s.dim));
}

// ---- probes

struct Seen {
  std::vector<float> q,
      k;  // of the pass, of all its rows: [rows, query_heads, dim] and [heads, ..]
  std::vector<int32_t> positions;
};

// Two rounds that repeat parts of the prompt, and scores that name the rows with even numbers.
class Repeats final : public Probe {
 public:
  explicit Repeats(std::map<std::pair<int, int>, Seen>* seen) : seen_(seen) {}
  int rounds(int) const override { return 2; }
  ProbeRun run(int tokens, int round) const override {
    round_ = round;
    const int half = tokens / 2;
    ProbeRun run{.pieces = {}, .first = round * half, .last = round ? tokens : half, .sinks = 3};
    run.pieces.push_back({.kind = ProbePiece::Kind::prompt, .first = run.first, .last = run.last});
    return run;
  }
  bool wants_values() const override { return true; }
  void score(const ProbeTap& tap, Mat scores) const override {
    EXPECT_EQ(tap.k.dim[1], tap.sinks + tap.scored + tap.rows);
    EXPECT_EQ(tap.positions.size(), static_cast<size_t>(tap.k.dim[1]));
    EXPECT_EQ(tap.v.dim[1], tap.scored);
    EXPECT_EQ(scores.dim[1], tap.scored);
    for (const float norm : tap.stream_norm) EXPECT_GT(norm, 0);
    for (int h = 0; h < tap.shape.heads; ++h)
      for (int r = 0; r < tap.scored; ++r)
        scores.row(h)[r] = tap.positions[tap.sinks + r] % 2 == 0 ? 1.0f : 0.0f;
    if (!seen_) return;
    Seen& seen = (*seen_)[{round_, tap.layer}];
    for (int r = 0; r < tap.rows; ++r)
      seen.q.insert(seen.q.end(), tap.q[r].data, tap.q[r].data + tap.q.stride[0]);
    for (int h = 0; h < tap.shape.heads; ++h)
      for (int r = 0; r < tap.rows; ++r) {
        const auto row = tap.k[h].row(tap.sinks + tap.scored + r);
        seen.k.insert(seen.k.end(), row.begin(), row.end());
      }
    seen.positions.assign(tap.positions.begin(), tap.positions.end());
  }

 private:
  std::map<std::pair<int, int>, Seen>* seen_;
  mutable int round_ = 0;
};

class Zero final : public Scorer {
 public:
  void score_prompt(const LayerTap&, Mat scores) const override {
    for (int64_t h = 0; h < scores.dim[0]; ++h) std::ranges::fill(scores.row(h), 0.0f);
  }
};

std::shared_ptr<Policy> probing(Amount amount, std::map<std::pair<int, int>, Seen>* seen) {
  auto policy = keeping_everything();
  policy->scorer = std::make_unique<Zero>();
  policy->probe = std::make_unique<Repeats>(seen);
  if (amount) policy->budget = even_budget(amount, 0);
  policy->amount = amount;
  return policy;
}

// What a further turn of the same tokens looks like to a scorer.
class Recorder final : public Scorer {
 public:
  explicit Recorder(std::vector<Seen>& seen) : seen_(seen) {}
  Demand demand() const override { return {.window_queries = 1 << 20}; }
  void score_prompt(const LayerTap& tap, Mat scores) const override {
    for (int64_t h = 0; h < scores.dim[0]; ++h) std::ranges::fill(scores.row(h), 0.0f);
    Seen seen;
    for (int64_t r = 0; r < tap.window_q.dim[0]; ++r)
      seen.q.insert(seen.q.end(), tap.window_q[r].data,
                    tap.window_q[r].data + tap.window_q.stride[0]);
    for (int64_t h = 0; h < tap.rows.k.dim[0]; ++h)
      for (int64_t r = 0; r < tap.rows.k.dim[1]; ++r) {
        const auto row = tap.rows.k[h].row(r);
        seen.k.insert(seen.k.end(), row.begin(), row.end());
      }
    seen_.push_back(std::move(seen));
  }

 private:
  std::vector<Seen>& seen_;
};

TEST(Probes, SeeTheWholePromptLikeAFurtherTurn) {
  for (const char* name : {"llama", "gemma2", "mpt"}) {
    SCOPED_TRACE(name);
    const auto prompt = tiny_tokens(tiny_model(name), 101);
    std::map<std::pair<int, int>, Seen> seen;
    Engine engine(model_of(name), options(2, 30));
    const auto probed = engine.open(probing({}, &seen));
    engine.prefill(*probed, prompt);
    const int layers = model_of(name)->config().shape.layers;
    ASSERT_GE(seen.size(), static_cast<size_t>(layers));
    for (int round = 0; round < 2; ++round) {
      std::vector<Seen> turn;
      auto recording = keeping_everything();
      recording->scorer = std::make_unique<Recorder>(turn);
      const auto session = engine.open(recording);
      engine.prefill(*session, prompt);
      turn.clear();
      const std::span<const int32_t> tokens(prompt);
      engine.prefill(*session, round ? tokens.subspan(50) : tokens.first(50));
      for (int l = 0; l < layers; ++l) {
        if (!seen.contains({round, l})) {  // its sliding window has left the scored rows behind
          EXPECT_GT(model_of(name)->config().shape.window(l), 0);
          continue;
        }
        const Seen& pass = seen[{round, l}];
        EXPECT_TRUE(test::same_bits(pass.q, turn[static_cast<size_t>(l)].q)) << l;
        EXPECT_TRUE(test::same_bits(pass.k, turn[static_cast<size_t>(l)].k)) << l;
        EXPECT_EQ(pass.positions.back(), 101 + (round ? 50 : 49));
      }
    }
  }
}

TEST(Probes, LeaveNothingInTheCacheButScores) {
  for (const std::string& name : readers()) {
    SCOPED_TRACE(name);
    const auto prompt = tiny_tokens(tiny_model(name), 120);
    Engine engine(model_of(name), options(2, 50));
    const auto full = engine.open("full"), probed = engine.open(probing({}, nullptr));
    const auto plain = answer(engine, *full, prompt, 3);
    EXPECT_TRUE(test::same_bits(plain, answer(engine, *probed, prompt, 3)));
    EXPECT_EQ(full->store->rows(), probed->store->rows());
    EXPECT_EQ(engine.pool().used_bytes(MemoryClass::prompt), 0u);
  }
}

TEST(Probes, DecideWhatEveryLayerKeeps) {
  const auto prompt = tiny_tokens(tiny_model("llama"), 120);
  Engine engine(model_of("llama"), options(1));
  const auto session = engine.open(probing({.rows = 40}, nullptr));
  for (int turn = 0; turn < 2; ++turn) {
    engine.prefill(*session, prompt);
    const KvShape& s = model_of("llama")->config().shape;
    for (int l = 0; l < s.layers; ++l)
      for (int h = 0; h < s.heads; ++h) {
        const auto positions = std::as_const(*session->store).at(l, h).positions();
        ASSERT_EQ(positions.size(), 40u * (static_cast<size_t>(turn) + 1));
        // The best are the even ones, the older first; and the last row, which always stays.
        for (size_t r = 0; r + 1 < 40; ++r)
          EXPECT_EQ(positions[40 * static_cast<size_t>(turn) + r],
                    120 * turn + 2 * static_cast<int>(r));
        EXPECT_EQ(positions.back(), 120 * turn + 119);
      }
    EXPECT_EQ(session->compressor.stats().rows_kept, session->store->rows());
  }
}

TEST(Probes, PayForThePlainCacheOfThePrompt) {
  const auto prompt = tiny_tokens(tiny_model("llama"), 400);
  size_t full_bytes = 0, peak = 0, kept = 0;
  {
    Engine engine(model_of("llama"), options(1));
    const auto session = engine.open("full");
    engine.prefill(*session, prompt);
    full_bytes = session->store->bytes().total();
  }
  {
    Engine engine(model_of("llama"), options(1));
    const auto session = engine.open(probing({.rows = 40}, nullptr));
    engine.prefill(*session, prompt);
    peak = engine.pool().peak_bytes();
    kept = session->store->bytes().total();
  }
  EXPECT_GT(peak, full_bytes);
  EXPECT_LT(kept, full_bytes / 4);
  // Less than the peak is refused, and the session is as it was before.
  Engine engine(model_of("llama"), options(1, 512, peak - 1));
  const auto session = engine.open(probing({.rows = 40}, nullptr));
  try {
    engine.prefill(*session, prompt);
    FAIL() << "the peak is " << peak;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Errc::no_memory);
  }
  EXPECT_EQ(session->store->rows(), 0);
  EXPECT_EQ(engine.pool().used_bytes(MemoryClass::prompt), 0u);
  engine.prefill(*session, std::span(prompt).first(100));
  EXPECT_GT(session->store->rows(), 0);
}

}  // namespace
}  // namespace pith

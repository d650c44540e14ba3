// KV-Distill: adapter files, the choice of tokens, and the adapted pass against a forward pass in
// float64 that shares nothing with it.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <numeric>

#include "base/error.h"
#include "gguf/gguf.h"
#include "policy/adapter.h"
#include "policy/registry.h"
#include "runtime/engine.h"
#include "runtime/scheduler.h"
#include "support/reference_forward.h"
#include "support/tiny_sessions.h"
#include "support/toy_adapter.h"
#include "support/toy_prompt.h"
#include "tensor/codec.h"

namespace pith::test {
namespace {

std::vector<double> matrix_times(const GgufFile& file, const std::string& name,
                                 const std::vector<double>& x) {
  const GgufTensor& t = file.tensor(name);
  const std::span<const float> values = file.floats(name, t.elements());
  std::vector<double> y(static_cast<size_t>(t.rows()));
  for (size_t r = 0; r < y.size(); ++r)
    for (size_t c = 0; c < x.size(); ++c) y[r] += double{values[r * x.size() + c]} * x[c];
  return y;
}

// What a token's hidden state is worth to the scorer of a file.
double score(const GgufFile& file, std::vector<double> x) {
  double squares = 0;
  for (const double v : x) squares += v * v;
  for (double& v : x) v /= std::sqrt(squares / static_cast<double>(x.size()) + 1e-6);
  if (file.has_tensor("scorer.up.weight")) {
    x = matrix_times(file, "scorer.up.weight", x);
    const auto bias = file.floats("scorer.up.bias", static_cast<int64_t>(x.size()));
    for (size_t i = 0; i < x.size(); ++i) {
      x[i] += bias[i];
      x[i] /= 1 + std::exp(-x[i]);
    }
  }
  return matrix_times(file, "scorer.down.weight", x)[0] + file.floats("scorer.down.bias", 1)[0];
}

// The first `sink` tokens, the last one, and the best of the others, in each fold its share.
std::vector<bool> choice(const std::vector<double>& scores, int keep, int sink, int fold) {
  const int rows = static_cast<int>(scores.size());
  std::vector<bool> chosen(scores.size());
  for (int r = 0; r < sink; ++r) chosen[static_cast<size_t>(r)] = true;
  chosen.back() = true;
  const int left = keep - sink - 1, free = rows - sink - 1;
  int given = 0;
  for (int begin = 0; begin < rows - 1; begin += fold) {
    const int first = std::max(begin, sink), last = std::min(begin + fold, rows - 1);
    const int until = left * (last - sink) / free;
    std::vector<int> order(static_cast<size_t>(last - first));
    std::iota(order.begin(), order.end(), first);
    std::ranges::stable_sort(order, [&](int a, int b) {
      return scores[static_cast<size_t>(a)] > scores[static_cast<size_t>(b)];
    });
    for (int i = 0; i < until - given; ++i)
      chosen[static_cast<size_t>(order[static_cast<size_t>(i)])] = true;
    given = until;
  }
  return chosen;
}

struct Told {
  std::vector<bool> chosen;
  std::vector<double> logits;  // after each token of the question, one after the other
};

// A document is compressed, a question follows.
Told reference(const std::string& model, const std::string& adapter,
               const std::vector<int32_t>& document, const std::vector<int32_t>& question, int keep,
               int layer, int fold) {
  const auto file = GgufFile::open(adapter);
  ReferenceForward forward(model);
  forward.set_adapter(file);
  const int rows = static_cast<int>(document.size());
  const int whole = fold > 0 ? fold : rows;
  const auto read = [&](int position, int32_t token, int layers) {
    forward.embed(position, token);
    for (int l = 0; l < layers; ++l) forward.pass(position, l);
  };
  std::vector<double> scores;
  for (int p = 0; p < rows; ++p) {
    forward.read_from(p / whole * whole);
    read(p, document[static_cast<size_t>(p)], layer + 1);
    scores.push_back(score(*file, forward.hidden(p)));
  }
  Told told{choice(scores, keep, 8, whole), {}};
  forward.clear();
  for (int p = 0; p < rows; ++p) {
    forward.read_from(p / whole * whole);
    forward.adapt(true, told.chosen[static_cast<size_t>(p)]);
    read(p, document[static_cast<size_t>(p)], forward.layers());
  }
  for (int p = 0; p < rows; ++p)
    if (!told.chosen[static_cast<size_t>(p)]) forward.forget(p);
  forward.adapt(false, false);
  forward.read_from(0);
  for (size_t i = 0; i < question.size(); ++i) {
    const int at = rows + static_cast<int>(i);
    read(at, question[i], forward.layers());
    const std::vector<double> logits = forward.logits(at);
    told.logits.insert(told.logits.end(), logits.begin(), logits.end());
  }
  return told;
}

struct Case {
  const char* model;
  int tokens, keep, hidden, fold, tile_rows;
};

class KvDistillForward : public ::testing::TestWithParam<Case> {};

TEST_P(KvDistillForward, IsTheAdaptedPassOfTheDefinition) {
  const Case& c = GetParam();
  const auto model = loaded_tiny_model(c.model);
  const KvShape& shape = model->config().shape;
  const std::string adapter =
      toy_adapter(shape, {.layer = 0, .rank = 5, .hidden = c.hidden, .fold = c.fold});
  const auto document = tiny_tokens(tiny_model(c.model), c.tokens),
             question = tiny_tokens(tiny_model(c.model), 6, 9);
  const Told told = reference(model->file().path(), adapter, document, question, c.keep, 0, c.fold);

  Engine engine(model, tiny_options(2, c.tile_rows));
  const auto session = open_tiny(
      engine, "kvdistill:cache=f32,adapter=" + adapter + ",budget=" + std::to_string(c.keep));
  engine.prefill(*session, document);
  for (int l = 0; l < shape.layers; ++l)
    for (int h = 0; h < shape.heads; ++h) {
      std::vector<bool> kept(document.size());
      for (const int32_t p : session->store->at(l, h).positions()) kept[static_cast<size_t>(p)] = 1;
      EXPECT_EQ(kept, told.chosen) << "layer " << l << ", head " << h;
    }
  // Two tokens of the question are a turn, the others are fed one by one.
  std::vector<float> logits;
  engine.prefill(*session, std::span(question).first(2));
  const size_t vocab = session->logits.size();
  logits.insert(logits.end(), session->logits.begin(), session->logits.end());
  Session* const one = session.get();
  for (size_t i = 2; i < question.size(); ++i) {
    engine.decode({&one, 1}, {&question[i], 1});
    logits.insert(logits.end(), session->logits.begin(), session->logits.end());
  }
  double worst = 0, most = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    worst = std::max(worst, std::fabs(double{logits[i]} - told.logits[vocab + i]));
    most = std::max(most, std::fabs(told.logits[vocab + i]));
  }
  EXPECT_LT(worst, 1e-4 * std::max(1.0, most));
  EXPECT_GT(most, 0.01);
}

INSTANTIATE_TEST_SUITE_P(KvDistill, KvDistillForward,
                         ::testing::Values(Case{"llama", 90, 30, 6, 0, 512},
                                           Case{"llama", 70, 12, 0, 0, 16},
                                           Case{"llama", 300, 60, 6, 128, 100},
                                           Case{"qwen3", 60, 20, 6, 0, 512},
                                           Case{"mpt", 60, 20, 6, 0, 32}));

TEST(KvDistill, WithoutAdditionsAndWithAllRowsIsTheModelBitForBit) {
  for (const char* name : {"llama", "gemma2", "mpt", "qwen3"}) {
    const auto model = loaded_tiny_model(name);
    const auto tokens = tiny_tokens(tiny_model(name), 150);
    for (const int fold : {0, 256}) {
      const std::string adapter = toy_adapter(model->config().shape, {.zero = true, .fold = fold});
      EXPECT_TRUE(same_bits(
          answer(name, tiny_options(2), "full", tokens, 4),
          answer(name, tiny_options(2), "kvdistill:budget=1.0,adapter=" + adapter, tokens, 4)))
          << name;
    }
  }
}

TEST(KvDistill, ChangesTheRowsThatStay) {
  const auto model = loaded_tiny_model("llama");
  const auto tokens = tiny_tokens(tiny_model("llama"), 100);
  const auto spec = [&](bool zero) {
    return "kvdistill:budget=1.0,adapter=" + toy_adapter(model->config().shape, {.zero = zero});
  };
  EXPECT_FALSE(same_bits(answer("llama", tiny_options(1), spec(true), tokens, 0),
                         answer("llama", tiny_options(1), spec(false), tokens, 0)));
}

TEST(KvDistill, KeepsTheSameTokensInEveryLayerAndHeadAndLaterTurnsWhole) {
  ToyPrompt prompt("kvdistill:budget=40,adapter=" + toy_adapter(toy_shape(), {.layer = 1}));
  prompt.prefill(300);
  const auto kept = prompt.kept(0, 0);
  EXPECT_EQ(kept.size(), 40u);
  for (int l = 0; l < 4; ++l)
    for (int h = 0; h < 2; ++h) EXPECT_EQ(prompt.kept(l, h), kept);
  EXPECT_EQ(prompt.layers_run(), 6);  // two, and all four again
  prompt.prefill(50);
  EXPECT_EQ(prompt.kept(3, 1).size(), 90u);
  EXPECT_EQ(prompt.layers_run(), 10);
}

TEST(KvDistill, GivesEveryFoldItsShare) {
  std::vector<float> scores(1000);
  std::iota(scores.begin(), scores.end(), 0.0f);  // all the best are in the last fold
  const auto kept = choose_tokens(scores, 100, {.sink = 8, .recent = 1}, 256);
  ASSERT_EQ(kept.size(), 100u);
  EXPECT_TRUE(std::ranges::is_sorted(kept));
  int in[4] = {};
  for (const int32_t r : kept) ++in[r / 256];
  EXPECT_NEAR(in[0], 8 + 91 * 248 / 991, 1);
  EXPECT_NEAR(in[1], 91 * 256 / 991, 1);
  EXPECT_NEAR(in[2], 91 * 256 / 991, 1);
  EXPECT_EQ(kept.back(), 999);
  // Fewer than are protected, and more than there are.
  EXPECT_EQ(choose_tokens(scores, 3, {.sink = 8, .recent = 1}, 256).size(), 9u);
  EXPECT_EQ(choose_tokens(scores, 5000, {.sink = 8, .recent = 1}, 256).size(), 1000u);
}

// ---- files

class AdapterFile : public ::testing::Test {
 protected:
  void SetUp() override { folder_ = fresh_folder(); }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  // The sentence with which the file is refused.
  std::string refusal(const ToyAdapter& toy, const KvShape& shape = toy_shape(),
                      const std::string& digest = "m") {
    const std::string path = folder_ + "a.gguf";
    write_adapter(path, toy_shape(), toy);
    return refusal_of(path, shape, digest);
  }
  static std::string refusal_of(const std::string& path, const KvShape& shape,
                                const std::string& digest) {
    try {
      make_policy("kvdistill:adapter=" + path, shape, digest);
    } catch (const Error& error) {
      EXPECT_TRUE(error.code() == Errc::bad_file || error.code() == Errc::io);
      return error.what();
    }
    return "";
  }
  std::string folder_;
};

TEST_F(AdapterFile, IsReadForTheModelItWasTrainedOnAndNoOther) {
  EXPECT_EQ(refusal({}), "");
  EXPECT_EQ(refusal({.hidden = 0, .fold = 1536}), "");
  const std::string other = refusal({.digest = "n"});
  EXPECT_NE(other.find("trained on another model"), std::string::npos) << other;
  EXPECT_NE(other.find("pith distill"), std::string::npos) << other;
  for (const auto change :
       {&KvShape::layers, &KvShape::query_heads, &KvShape::heads, &KvShape::dim, &KvShape::width}) {
    KvShape shape = toy_shape();
    shape.*change *= 2;
    EXPECT_NE(refusal({}, shape), "");
    shape.*change /= 4;
    EXPECT_NE(refusal({}, shape), "");
  }
}

TEST_F(AdapterFile, IsRefusedWhereItsNumbersMakeNoSense) {
  EXPECT_NE(refusal({.layer = 3}).find("kvdistill.layer"), std::string::npos);
  EXPECT_NE(refusal({.fold = 100}).find("kvdistill.fold"), std::string::npos);
  EXPECT_NE(refusal({.size = INFINITY}).find("no numbers"), std::string::npos);
}

TEST_F(AdapterFile, IsRefusedWhereItIsDamaged) {
  const std::string path = folder_ + "a.gguf", cut = folder_ + "cut.gguf";
  write_adapter(path, toy_shape(), {});
  std::ifstream in(path, std::ios::binary);
  const std::string whole((std::istreambuf_iterator<char>(in)), {});
  for (const size_t size : {size_t{0}, size_t{20}, whole.size() / 3, whole.size() - 40}) {
    std::ofstream(cut, std::ios::binary) << whole.substr(0, size);
    EXPECT_NE(refusal_of(cut, toy_shape(), "m"), "") << size;
  }
  EXPECT_NE(refusal_of(folder_ + "none.gguf", toy_shape(), "m"), "");
  const std::string model = write_tiny_model(tiny_model("llama"));
  const std::string sentence = refusal_of(model, toy_shape(), "m");
  EXPECT_NE(sentence.find("is no adapter"), std::string::npos) << sentence;
}

TEST_F(AdapterFile, IsAskedForWhereItIsMissing) {
  try {
    make_policy("kvdistill:budget=0.1", toy_shape());
    FAIL() << "no adapter was needed";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "kvdistill: 'adapter' is missing; `pith distill` makes the file");
  }
}

// ---- one document, many questions

TEST(KvDistill, ReadsAnOpeningOnceAndAnswersAsIfEachQuestionWereAlone) {
  const auto model = loaded_tiny_model("llama");
  const TinyModel& tiny = tiny_model("llama");
  const std::string adapter =
      toy_adapter(model->config().shape, {.digest = model->config().digest});
  const std::string spec = "kvdistill:budget=30,adapter=" + adapter;
  const auto document = tiny_tokens(tiny, 120);
  EngineOptions options = tiny_options(1);
  options.reuse_prefixes = true;
  Engine engine(model, options);
  Scheduler scheduler(engine, {});
  std::vector<std::vector<int32_t>> alone;
  for (uint64_t q = 0; q < 3; ++q) {
    const auto question = tiny_tokens(tiny, 7, 20 + q);
    const auto session = engine.open(spec);
    engine.prefill(*session, document);
    engine.prefill(*session, question);
    std::vector<int32_t>& tokens = alone.emplace_back();
    engine.generate(*session, 5, [&](int32_t token) {
      tokens.push_back(token);
      return true;
    });
    Request request;
    request.prompt = document;
    request.prompt.insert(request.prompt.end(), question.begin(), question.end());
    request.opening = static_cast<int>(document.size());
    request.spec = spec;
    request.max_tokens = 5;
    scheduler.submit(request);
  }
  while (scheduler.step()) continue;
  std::vector<Answer> answers = scheduler.take_answers();
  std::ranges::sort(answers, {}, &Answer::id);
  ASSERT_EQ(answers.size(), 3u);
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(answers[i].tokens, alone[i]);
  EXPECT_EQ(engine.prefixes()->stats().openings, 2);
}

TEST(KvDistill, CompressesTheSpanOfAPromptThatIsNamed) {
  const auto model = loaded_tiny_model("llama");
  const auto tokens = tiny_tokens(tiny_model("llama"), 200);
  Engine engine(model, tiny_options(1));
  for (const std::string& spec : std::vector<std::string>{
           "kvdistill:budget=0.2,adapter=" + toy_adapter(model->config().shape), "knorm:budget=0.2",
           "kvzip:budget=20,share=even"}) {
    const auto session = open_tiny(engine, spec);
    const std::span<const int32_t> all = tokens;
    engine.prefill(*session, all.first(50), Monitor::silent(), Turn::whole);
    engine.prefill(*session, all.subspan(50, 100), Monitor::silent(), Turn::compressed);
    engine.prefill(*session, all.last(50), Monitor::silent(), Turn::whole);
    for (int l = 0; l < model->config().shape.layers; ++l) {
      int before = 0, inside = 0, behind = 0;
      for (const int32_t p : session->store->at(l, 1).positions())
        ++(p < 50 ? before : p < 150 ? inside : behind);
      EXPECT_EQ(before, 50) << spec;
      EXPECT_EQ(inside, spec.starts_with("knorm") ? 32 : 20) << spec;
      EXPECT_EQ(behind, 50) << spec;
    }
  }
}

}  // namespace
}  // namespace pith::test

// The engine against two oracles: golden files of trained models, made outside of this project,
// and the float64 reference forward on tiny random models of every architecture.
#include "support/golden.h"

#include <algorithm>
#include <cmath>
#include <gtest/gtest.h>
#include <span>

#include "convert/convert.h"
#include "runtime/engine.h"
#include "support/reference_forward.h"
#include "support/test_data.h"
#include "support/tiny_model.h"

namespace pith::test {
namespace {

constexpr const char* kSpec = "full:cache=f32";

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr size_t kStories = 3;  // instrumented kernels are many times slower
#else
constexpr size_t kStories = 20;
#endif

EngineOptions options(int tile_rows = 512) {
  EngineOptions o;
  o.threads = 2;
  o.cache_bytes = size_t{256} << 20;
  o.tile_rows = tile_rows;
  return o;
}

using Logits = std::vector<std::vector<float>>;

// Logits after every token: the first `prompt` tokens as one prompt, the others one by one.
Logits engine_logits(const std::string& path, std::span<const int32_t> tokens, size_t prompt,
                     int tile_rows, const char* spec = kSpec) {
  Engine engine(Model::load(path), options(tile_rows));
  const std::unique_ptr<Session> session = engine.open(spec);
  Logits out;
  engine.prefill_all(*session, tokens.first(prompt), [&](int row, std::span<const float> logits) {
    EXPECT_EQ(row, static_cast<int>(out.size()));
    out.emplace_back(logits.begin(), logits.end());
  });
  for (const int32_t token : tokens.subspan(prompt)) {
    Session* const one = session.get();
    engine.decode({&one, 1}, {&token, 1});
    out.push_back(session->logits);
  }
  return out;
}

double nll(std::span<const float> logits, int32_t token) {
  const double top = *std::ranges::max_element(logits);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - top);
  return top + std::log(sum) - logits[static_cast<size_t>(token)];
}

// ---- Tiny models of every architecture ----

// Logits of the tiny models are up to about 15 in size; float32 sums over at most 64 terms in 2 to
// 7 layers stay well below this.
constexpr double kTolerance = 2e-3;
// Keys and values rounded to f16.
constexpr double kHalfTolerance = 6e-2;
// More than a window, a page of 32 rows and any tile below.
constexpr int kTokens = 45;

class EveryTinyModel : public ::testing::TestWithParam<TinyModel> {
 protected:
  void SetUp() override {
    path_ = write_tiny_model(GetParam());
    tokens_ = tiny_tokens(GetParam(), kTokens);
  }
  void expect_reference(const Logits& logits, double tolerance) const {
    const std::vector<std::vector<double>> expected = reference_logits(path_, tokens_);
    ASSERT_EQ(logits.size(), expected.size());
    double worst = 0;
    size_t where = 0;
    for (size_t t = 0; t < logits.size(); ++t)
      for (size_t i = 0; i < expected[t].size(); ++i) {
        const double error = std::fabs(logits[t][i] - expected[t][i]);
        if (!(error <= worst)) worst = error, where = t;
      }
    EXPECT_LT(worst, tolerance) << "largest at token " << where;
  }
  std::string path_;
  std::vector<int32_t> tokens_;
};

INSTANTIATE_TEST_SUITE_P(Engine, EveryTinyModel, ::testing::ValuesIn(tiny_models()),
                         [](const auto& i) { return i.param.name; });

TEST_P(EveryTinyModel, AgreesWithTheReferenceOverAWholePrompt) {
  expect_reference(engine_logits(path_, tokens_, kTokens, 512), kTolerance);
}

TEST_P(EveryTinyModel, AgreesWithTheReferenceOverAPromptInTiles) {
  expect_reference(engine_logits(path_, tokens_, kTokens, 7), kTolerance);
}

TEST_P(EveryTinyModel, AgreesWithTheReferenceFromAPromptTokenByToken) {
  expect_reference(engine_logits(path_, tokens_, 13, 512), kTolerance);
}

TEST_P(EveryTinyModel, AgreesWithTheReferenceFromOneTokenOn) {
  expect_reference(engine_logits(path_, tokens_, 1, 512), kTolerance);
}

TEST_P(EveryTinyModel, StaysNearTheReferenceWithAnF16Cache) {
  expect_reference(engine_logits(path_, tokens_, 20, 512, "full"), kHalfTolerance);
}

TEST_P(EveryTinyModel, ReadsASecondTurnOnTopOfTheFirst) {
  Engine engine(Model::load(path_), options());
  const std::unique_ptr<Session> session = engine.open(kSpec);
  const std::span<const int32_t> all(tokens_);
  Logits out;
  const auto keep = [&](int, std::span<const float> logits) {
    out.emplace_back(logits.begin(), logits.end());
  };
  engine.prefill_all(*session, all.first(17), keep);
  engine.prefill_all(*session, all.subspan(17), keep);
  expect_reference(out, kTolerance);
}

// ---- Trained models ----

struct Trained {
  std::string name, folder;
  void (*convert)(const std::string& folder, const std::string& out);
};

class TrainedModel : public ::testing::TestWithParam<Trained> {};

INSTANTIATE_TEST_SUITE_P(
    Engine, TrainedModel,
    ::testing::Values(Trained{"Stories260k", "stories260k",
                              [](const std::string& folder, const std::string& out) {
                                convert_llama2c(folder + "/stories260K.bin", folder + "/tok512.bin",
                                                out, DType::f32);
                              }},
                      Trained{"Stories3m", "stories3m",
                              [](const std::string& folder, const std::string& out) {
                                convert_llama2c(folder + "/stories3M-q80.bin",
                                                folder + "/tok4096.bin", out, DType::f32);
                              }},
                      Trained{"TinyStories656k", "tinystories-656k",
                              [](const std::string& folder, const std::string& out) {
                                convert_hugging_face(folder, out, DType::f32);
                              }}),
    [](const auto& i) { return i.param.name; });

std::string converted(const Trained& model) {
  const std::string out = fresh_folder() + model.folder + ".gguf";
  model.convert(data_path(model.folder), out);
  return out;
}

TEST_P(TrainedModel, HasTheLogitsOfItsGoldenFileWithin1e3) {
  PITH_NEEDS_DATA(GetParam().folder + "/golden.json");
  Engine engine(Model::load(converted(GetParam())), options());
  for (const GoldenPrompt& prompt :
       read_golden(data_path(GetParam().folder + "/golden.json")).prompts) {
    SCOPED_TRACE(prompt.text);
    const std::unique_ptr<Session> session = engine.open(kSpec);
    engine.prefill(*session, prompt.ids);
    for (const auto& [id, logit] : prompt.top)
      EXPECT_NEAR(session->logits[static_cast<size_t>(id)], logit, 1e-3);
    for (size_t i = 0; i < prompt.first_logits.size(); ++i)
      EXPECT_NEAR(session->logits[i], prompt.first_logits[i], 1e-3);
    EXPECT_NEAR(nll(session->logits, 0) + session->logits[0], prompt.log_sum_exp, 1e-3);
  }
}

TEST_P(TrainedModel, ContinuesGreedilyAsItsGoldenFileSays) {
  PITH_NEEDS_DATA(GetParam().folder + "/golden.json");
  Engine engine(Model::load(converted(GetParam())), options());
  for (const GoldenPrompt& prompt :
       read_golden(data_path(GetParam().folder + "/golden.json")).prompts) {
    SCOPED_TRACE(prompt.text);
    const std::unique_ptr<Session> session = engine.open(kSpec);
    engine.prefill(*session, prompt.ids);
    std::vector<int32_t> said;
    for (size_t i = 0; i < prompt.greedy.size(); ++i) {
      const auto best = std::ranges::max_element(session->logits) - session->logits.begin();
      said.push_back(static_cast<int32_t>(best));
      Session* const one = session.get();
      engine.decode({&one, 1}, {&said.back(), 1});
    }
    EXPECT_EQ(said, prompt.greedy);
  }
}

TEST_P(TrainedModel, SurprisesItselfOverStoriesAsItsGoldenFileSaysWithin1e4) {
  PITH_NEEDS_DATA(GetParam().folder + "/golden.json");
  PITH_NEEDS_DATA("tinystories-1000/tinystories_1000.json");
  Engine engine(Model::load(converted(GetParam())), options());
  const std::vector<std::string> texts =
      read_stories(data_path("tinystories-1000/tinystories_1000.json"));
  size_t left = kStories;
  for (const GoldenStory& story :
       read_golden(data_path(GetParam().folder + "/golden.json")).stories) {
    if (left-- == 0) break;
    SCOPED_TRACE("story " + std::to_string(story.index));
    // Only the first stories come with their ids; so this is the tokenizer's test as well.
    std::vector<int32_t> ids =
        engine.tokenizer().encode_prompt(texts.at(static_cast<size_t>(story.index)), false);
    ASSERT_GE(ids.size(), static_cast<size_t>(story.tokens));
    ids.resize(static_cast<size_t>(story.tokens));
    if (!story.ids.empty()) {
      EXPECT_EQ(ids, story.ids);
    }
    const std::unique_ptr<Session> session = engine.open(kSpec);
    double sum = 0;
    engine.prefill_all(*session, ids, [&](int row, std::span<const float> logits) {
      const auto next = static_cast<size_t>(row) + 1;
      if (next < ids.size()) sum += nll(logits, ids[next]);
    });
    EXPECT_NEAR(sum, story.nll_sum, 1e-4 * story.nll_sum);
  }
}

TEST_P(TrainedModel, TokenizesAsItsGoldenFileSays) {
  PITH_NEEDS_DATA(GetParam().folder + "/golden.json");
  const auto tokenizer = Tokenizer::load(*GgufFile::open(converted(GetParam())));
  for (const GoldenPrompt& prompt :
       read_golden(data_path(GetParam().folder + "/golden.json")).prompts)
    EXPECT_EQ(tokenizer->encode_prompt(prompt.text, false), prompt.ids) << prompt.text;
}

}  // namespace
}  // namespace pith::test

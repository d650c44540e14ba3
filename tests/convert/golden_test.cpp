// Converted models, run by the float64 reference, answer what the golden files say. This checks
// the converters and the reference against numbers made by neither.
#include "support/golden.h"

#include <cmath>
#include <gtest/gtest.h>

#include "convert/convert.h"
#include "support/reference_forward.h"
#include "support/test_data.h"
#include "support/tiny_model.h"

namespace pith::test {
namespace {

constexpr double kLogitTolerance = 1e-3, kNllTolerance = 1e-4;

// As many steps as keep a sanitizer build quick; the engine's own test runs all of them.
constexpr size_t kGreedySteps = 12;
constexpr size_t kStories = 1;

void expect_golden(const std::string& model, const Golden& golden) {
  ReferenceForward forward(model);
  for (const GoldenPrompt& prompt : golden.prompts) {
    SCOPED_TRACE(prompt.text);
    forward.clear();
    std::vector<double> logits;
    for (const int32_t id : prompt.ids) logits = forward.feed(id);
    for (const auto& [id, logit] : prompt.top) EXPECT_NEAR(logits[id], logit, kLogitTolerance);
    for (size_t i = 0; i < prompt.first_logits.size(); ++i)
      EXPECT_NEAR(logits[i], prompt.first_logits[i], kLogitTolerance);
    EXPECT_NEAR(log_sum_exp(logits), prompt.log_sum_exp, kLogitTolerance);
    for (size_t i = 0; i < std::min(kGreedySteps, prompt.greedy.size()); ++i) {
      ASSERT_EQ(argmax(logits), prompt.greedy[i]) << "step " << i;
      logits = forward.feed(prompt.greedy[i]);
    }
  }
  size_t left = kStories;
  for (const GoldenStory& story : golden.stories) {
    if (story.ids.empty() || left-- == 0) continue;
    forward.clear();
    double nll = 0;
    for (size_t i = 0; i + 1 < story.ids.size(); ++i) {
      const std::vector<double> logits = forward.feed(story.ids[i]);
      nll += log_sum_exp(logits) - logits[static_cast<size_t>(story.ids[i + 1])];
    }
    EXPECT_NEAR(nll, story.nll_sum, kNllTolerance * story.nll_sum) << "story " << story.index;
  }
}

TEST(ConvertedModel, Stories260kAnswersAsItsGoldenFileSays) {
  PITH_NEEDS_DATA("stories260k/golden.json");
  const std::string out = fresh_folder() + "model.gguf";
  convert_llama2c(data_path("stories260k/stories260K.bin"), data_path("stories260k/tok512.bin"),
                  out, DType::f32);
  expect_golden(out, read_golden(data_path("stories260k/golden.json")));
}

TEST(ConvertedModel, Stories3mAnswersAsItsGoldenFileSays) {
  PITH_NEEDS_DATA("stories3m/golden.json");
  const std::string out = fresh_folder() + "model.gguf";
  convert_llama2c(data_path("stories3m/stories3M-q80.bin"), data_path("stories3m/tok4096.bin"), out,
                  DType::f32);
  expect_golden(out, read_golden(data_path("stories3m/golden.json")));
}

TEST(ConvertedModel, TinyStories656kAnswersAsItsGoldenFileSays) {
  PITH_NEEDS_DATA("tinystories-656k/golden.json");
  const std::string out = fresh_folder() + "model.gguf";
  convert_hugging_face(data_path("tinystories-656k"), out, DType::f32);
  expect_golden(out, read_golden(data_path("tinystories-656k/golden.json")));
}

}  // namespace
}  // namespace pith::test

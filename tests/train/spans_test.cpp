// Gates of the recall model, of which it is known which heads retrieve.
#include "train/spans.h"

#include <algorithm>
#include <gtest/gtest.h>

#include "base/error.h"
#include "convert/synthesize.h"
#include "gguf/gguf.h"
#include "train/checkpoint.h"

namespace pith {
namespace {

TEST(TrainerSpans, OnlyHeadsThatRetrieveKeepLookingFar) {
  const std::vector<std::byte> bytes = recall_model_bytes();
  const auto file = GgufFile::parse(bytes, "recall.gguf");
  NetworkShape shape = read_shape(*file);
  shape.context = 512;
  const std::vector<float> parameters = read_parameters(*file, shape);
  SpanOptions options;
  options.steps = 40;
  options.sink = 4;
  options.recent = 32;
  options.rate = 0.07;
  std::vector<SpanStep> steps;
  const std::vector<float> gates = train_spans(
      shape, parameters, options,
      [](int step) {
        constexpr int kNeedles = 8;
        const RecallPrompt prompt = make_recall_prompt(200, kNeedles, static_cast<uint64_t>(step));
        SpanSample sample{prompt.tokens, {}};
        // The keys at the end are what answers follow.
        for (int i = 0; i < kNeedles; ++i)
          sample.rows.push_back(static_cast<int64_t>(prompt.tokens.size()) - kNeedles + i);
        return sample;
      },
      Monitor::silent(), [&](const SpanStep& step) { steps.push_back(step); });
  ASSERT_EQ(steps.size(), 40u);
  EXPECT_LT(steps.back().mean_gate, 0.6);
  float least = 1, most = 0;
  const auto retrieving = recall_retrieval_heads();
  for (int layer = 0; layer < shape.layers; ++layer)
    for (int head = 0; head < shape.heads; ++head) {
      const float gate = gates[static_cast<size_t>(layer * shape.heads + head)];
      const bool far = std::ranges::find(retrieving, std::pair(layer, head)) != retrieving.end();
      if (far)
        least = std::min(least, gate);
      else
        most = std::max(most, gate);
    }
  EXPECT_GT(least, most + 0.2f) << "retrieving heads from " << least << ", others to " << most;
}

TEST(TrainerSpans, RefusesASampleThatAsksForNothing) {
  NetworkShape shape;
  shape.layers = 1;
  shape.width = shape.ffn_width = 32;
  shape.query_heads = shape.heads = 2;
  shape.dim = 16;
  shape.vocab = 40;
  shape.context = 64;
  const std::vector<float> parameters(static_cast<size_t>(ParameterLayout(shape).size()), 0.1f);
  EXPECT_THROW(train_spans(shape, parameters, {},
                           [](int) {
                             return SpanSample{{1, 2}, {}};
                           }),
               Error);
}

}  // namespace
}  // namespace pith

// A folded model answers what it answered before, by the float64 reference.
#include <algorithm>
#include <cmath>
#include <gtest/gtest.h>

#include "convert/convert.h"
#include "gguf/gguf.h"
#include "support/reference_forward.h"
#include "support/rotation.h"
#include "support/tiny_model.h"

namespace pith::test {
namespace {

FoldMaps random_maps(const TinyModel& model, bool keys) {
  Random random(4);
  FoldMaps maps{model.layers, model.query_heads, model.heads, model.dim, {}, {}};
  for (int head = 0; head < model.layers * model.heads; ++head)
    for (std::vector<float>* side : {&maps.v, &maps.k}) {
      if (side == &maps.k && !keys) continue;
      const std::vector<float> rotation = random_rotation(model.dim, random);
      side->insert(side->end(), rotation.begin(), rotation.end());
    }
  return maps;
}

TEST(Fold, ChangesWeightsAndNoAnswer) {
  for (const char* name : {"llama", "llama_many_heads", "qwen2", "qwen3", "gemma2", "mpt"}) {
    SCOPED_TRACE(name);
    TinyModel model = tiny_model(name);
    model.clamp_qkv = 0;
    const std::string before = write_tiny_model(model), after = fresh_folder() + "folded.gguf";
    fold(before, after, random_maps(model, model.arch == "mpt"), DType::f32);
    const auto tokens = tiny_tokens(model, 12, 2);
    const auto expected = reference_logits(before, tokens),
               folded = reference_logits(after, tokens);
    for (size_t t = 0; t < tokens.size(); ++t)
      for (size_t i = 0; i < expected[t].size(); ++i)
        ASSERT_NEAR(folded[t][i], expected[t][i], 1e-4) << "logit " << i << " of token " << t;
    const auto a = GgufFile::open(before), b = GgufFile::open(after);
    const std::string output = "blk.1.attn_output.weight";
    EXPECT_NE(a->tensor(output).data[5], b->tensor(output).data[5]);
    for (const GgufTensor& t : a->tensors()) {
      const bool turned =
          t.name.find("attn_") != std::string::npos && t.name.find("norm") == std::string::npos;
      EXPECT_TRUE(turned || std::ranges::equal(t.data, b->tensor(t.name).data)) << t.name;
    }
  }
}

// Turns of the pairs of channels that rotary positions turn together commute with them, side by
// side or half a head apart, with biases and without.
TEST(Fold, TurnsPairsOfKeysThatRotaryPositionsTurn) {
  for (const char* name : {"llama", "llama_many_heads", "qwen2", "gemma2"}) {
    SCOPED_TRACE(name);
    const TinyModel model = tiny_model(name);
    const std::string before = write_tiny_model(model), after = fresh_folder() + "folded.gguf";
    const bool apart = model.arch != "llama";
    FoldMaps maps = random_maps(model, false);
    const auto dim = static_cast<size_t>(model.dim);
    Random random(6);
    for (int head = 0; head < model.layers * model.heads; ++head) {
      std::vector<float> map(dim * dim);
      for (size_t pair = 0; pair < dim / 2; ++pair) {
        const size_t x = apart ? pair : 2 * pair, y = apart ? pair + dim / 2 : 2 * pair + 1;
        const float angle = random.uniform(-3, 3);
        map[x * dim + x] = map[y * dim + y] = std::cos(angle);
        map[x * dim + y] = std::sin(angle);
        map[y * dim + x] = -std::sin(angle);
      }
      maps.k.insert(maps.k.end(), map.begin(), map.end());
    }
    fold(before, after, maps, DType::f32);
    const auto tokens = tiny_tokens(model, 12, 2);
    const auto expected = reference_logits(before, tokens),
               folded = reference_logits(after, tokens);
    for (size_t t = 0; t < tokens.size(); ++t)
      for (size_t i = 0; i < expected[t].size(); ++i)
        ASSERT_NEAR(folded[t][i], expected[t][i], 1e-4) << "logit " << i << " of token " << t;
    const auto a = GgufFile::open(before), b = GgufFile::open(after);
    EXPECT_NE(a->tensor("blk.1.attn_k.weight").data[5], b->tensor("blk.1.attn_k.weight").data[5]);
  }
}

}  // namespace
}  // namespace pith::test

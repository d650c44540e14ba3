#include <cmath>

#include "base/error.h"
#include "gtest/gtest.h"
#include "policy/registry.h"
#include "support/toy_prompt.h"

namespace pith::test {
namespace {

std::vector<int32_t> sinks_and(int32_t first, int32_t last, int32_t sinks = 4) {
  std::vector<int32_t> rows;
  for (int32_t r = 0; r < sinks; ++r) rows.push_back(r);
  for (int32_t r = first; r <= last; ++r) rows.push_back(r);
  return rows;
}

TEST(StreamingLlm, KeepsFourSinksAndTheNewestRows) {
  ToyPrompt prompt("streaming_llm:budget=30");
  prompt.prefill(200);
  for (int l = 0; l < 4; ++l)
    for (int h = 0; h < 2; ++h) EXPECT_EQ(prompt.kept(l, h), sinks_and(174, 199));
}

TEST(StreamingLlm, MovesItsWindowWithEveryTokenThatIsGenerated) {
  ToyPrompt prompt("streaming_llm:budget=30");
  prompt.prefill(20);
  for (int i = 0; i < 10; ++i) {
    prompt.decode(1);
    EXPECT_EQ(prompt.kept(1, 0), sinks_and(4, 20 + i));
  }
  for (int i = 0; i < 50; ++i) {
    prompt.decode(1);
    EXPECT_EQ(prompt.kept(1, 0), sinks_and(5 + i, 30 + i));
  }
}

TEST(StreamingLlm, HoldsOneWindowOverAllTurns) {
  ToyPrompt prompt("streaming_llm:budget=30");
  prompt.prefill(100);
  prompt.decode(5);
  prompt.prefill(12);
  EXPECT_EQ(prompt.kept(2, 1), sinks_and(91, 116));
  prompt.prefill(60);
  EXPECT_EQ(prompt.kept(2, 1), sinks_and(151, 176));
}

TEST(StreamingLlm, TakesItsWindowFromRecentAlone) {
  ToyPrompt prompt("streaming_llm:recent=20");
  prompt.prefill(100);
  EXPECT_EQ(prompt.kept(0, 0), sinks_and(80, 99));
}

// The rotation of RoPE written down: pair (i, i + dim/2) turns by position * inv_freq[i].
std::vector<double> turned(const std::vector<float>& key, const std::vector<float>& inv_freq,
                           int position) {
  const size_t half = key.size() / 2;
  std::vector<double> out(key.size());
  for (size_t i = 0; i < half; ++i) {
    const double angle = double{inv_freq[i]} * position;
    const double a = key[i], b = key[i + half];
    out[i] = a * std::cos(angle) - b * std::sin(angle);
    out[i + half] = a * std::sin(angle) + b * std::cos(angle);
  }
  return out;
}

void expect_keys_at_index(const ToyPrompt& prompt, const std::vector<int32_t>& tokens) {
  for (int l = 0; l < 4; ++l)
    for (int h = 0; h < 2; ++h) {
      const ToyHead head = prompt.head(l, h);
      ASSERT_EQ(head.positions.size(), tokens.size());
      for (size_t r = 0; r < tokens.size(); ++r) {
        EXPECT_EQ(head.positions[r], static_cast<int32_t>(r));
        const auto expected =
            turned(prompt.raw_key(l, h, tokens[r]), prompt.inv_freq(), static_cast<int>(r));
        for (size_t d = 0; d < 16; ++d)
          ASSERT_NEAR(head.k[r * 16 + d], expected[d], 2e-5) << "token " << tokens[r];
      }
    }
}

TEST(StreamingLlm, TurnsKeysToTheirPlaceInTheCacheIfAskedTo) {
  ToyPrompt prompt("streaming_llm:budget=30,rerotate=true,reduce_every=1,cache=f32");
  prompt.prefill(200);
  expect_keys_at_index(prompt, sinks_and(174, 199));
  EXPECT_EQ(prompt.compressor().query_position(200), 30);
  prompt.decode(40);
  expect_keys_at_index(prompt, sinks_and(214, 239));
  EXPECT_EQ(prompt.compressor().query_position(240), 30);
}

TEST(StreamingLlm, SpreadsTurningOverSeveralTokens) {
  ToyPrompt prompt("streaming_llm:budget=30,rerotate=true,cache=f32");
  EXPECT_EQ(prompt.policy().reduce_every, 16);
  prompt.prefill(100);
  prompt.decode(15);
  expect_keys_at_index(prompt, sinks_and(74, 114));
  prompt.decode(1);
  expect_keys_at_index(prompt, sinks_and(90, 115));
}

TEST(StreamingLlm, PutsALaterTurnBehindTheRowsThatAreLeft) {
  ToyPrompt prompt("streaming_llm:budget=30,rerotate=true,cache=f32");
  prompt.prefill(100);
  prompt.prefill(50);
  expect_keys_at_index(prompt, sinks_and(124, 149));
}

TEST(StreamingLlm, RefusesToTurnKeysOfModelsWithSlidingWindows) {
  KvShape shape = toy_shape();
  shape.windows = {0, 16, 0, 16};
  EXPECT_THROW(make_policy("streaming_llm:budget=30,rerotate=true", shape), Error);
  EXPECT_NO_THROW(make_policy("streaming_llm:budget=30", shape));
}

}  // namespace
}  // namespace pith::test

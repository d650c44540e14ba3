#include <numeric>

#include "gtest/gtest.h"
#include "support/toy_prompt.h"

namespace pith::test {
namespace {

TEST(Full, KeepsEveryRowOfEveryHeadThroughTurnsAndGeneration) {
  ToyPrompt prompt("full");
  prompt.prefill(70);
  prompt.decode(10);
  prompt.prefill(33);
  prompt.decode(3);
  std::vector<int32_t> all(116);
  std::iota(all.begin(), all.end(), 0);
  for (int l = 0; l < 4; ++l)
    for (int h = 0; h < 2; ++h) EXPECT_EQ(prompt.kept(l, h), all);
  EXPECT_EQ(prompt.compressor().stats().rows_kept, prompt.compressor().stats().rows_seen);
}

}  // namespace
}  // namespace pith::test

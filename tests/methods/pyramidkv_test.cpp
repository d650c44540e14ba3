#include "gtest/gtest.h"
#include "support/spec_sentences.h"
#include "support/toy_prompt.h"

namespace pith::test {
namespace {

// The line of the paper, summed exactly: rows above the window fall evenly from 2 base - base/beta
// to base/beta.
TEST(Pyramidkv, FallsInALineWhoseSumIsThatOfEvenBudgets) {
  KvShape shape = toy_shape();
  shape.layers = 32;
  ToyPrompt prompt("pyramidkv:budget=136", shape);  // the paper's 128 and a window of 8
  prompt.prefill(400);
  int total = 0;
  for (int l = 0; l < 32; ++l) {
    const double expected = 8 + 249.6 + (6.4 - 249.6) * l / 31;
    for (int h = 0; h < 2; ++h) {
      const int rows = static_cast<int>(prompt.kept(l, h).size());
      EXPECT_NEAR(rows, expected, 1) << "layer " << l;
      if (h == 0) total += rows;
    }
  }
  EXPECT_EQ(total, 32 * 136);  // the reference's rounding comes to 32 x 149.5
}

TEST(Pyramidkv, SharesEvenlyWhereThePromptIsShort) {
  ToyPrompt prompt("pyramidkv:budget=80");
  prompt.prefill(140);  // below twice the budget
  for (int l = 0; l < 4; ++l) EXPECT_EQ(prompt.kept(l, 0).size(), 80u);
}

TEST(Pyramidkv, WithABetaOfOneIsEven) {
  ToyPrompt pyramid("pyramidkv:budget=60,beta=1"), even("snapkv:budget=60,window=8");
  pyramid.prefill(300);
  even.prefill(300);
  EXPECT_EQ(pyramid.heads(), even.heads());
}

TEST(Pyramidkv, SharesOutABudgetAndNeedsOne) {
  EXPECT_EQ(answer("pyramidkv"), "pyramidkv: needs budget=...");
  EXPECT_EQ(answer("pyramidkv:budget=64,beta=0.5"), "pyramidkv: 'beta' must be between 1 and 1000");
}

}  // namespace
}  // namespace pith::test

// MiniKV: what it keeps is what its parts keep, stored in two bits.
#include <algorithm>
#include <cmath>
#include <utility>

#include "gtest/gtest.h"
#include "support/spec_sentences.h"
#include "support/toy_prompt.h"

namespace pith::test {
namespace {

TEST(Minikv, KeepsWhatReceivedMostAttentionAndAsManyOfTheNewest) {
  ToyPrompt mini("minikv:budget=0.5"), h2o("h2o:form=prompt,newest=0.5,budget=0.5,recent=1");
  for (ToyPrompt* p : {&mini, &h2o}) p->prefill(320);
  for (int l = 0; l < 4; ++l)
    for (int h = 0; h < 2; ++h) {
      EXPECT_EQ(mini.kept(l, h), h2o.kept(l, h));
      const auto kept = mini.kept(l, h);
      EXPECT_EQ(kept.size(), 160u);
      for (int position = 240; position < 320; ++position)
        EXPECT_TRUE(std::ranges::binary_search(kept, position));
    }
}

TEST(Minikv, StoresFullPagesInTwoBits) {
  ToyPrompt mini("minikv"), kivi("h2o:form=prompt,newest=0.5,budget=0.5,recent=1+kivi:group=32");
  for (ToyPrompt* p : {&mini, &kivi}) {
    p->prefill(300);
    p->decode(20);
  }
  EXPECT_EQ(mini.heads(), kivi.heads());
  EXPECT_EQ(mini.outputs(), kivi.outputs());
  EXPECT_EQ(mini.policy().store.k, Quant::q2_channels);
  EXPECT_EQ(mini.policy().store.v, Quant::q2_groups32);
}

TEST(Minikv, AsAPyramidGivesLowerLayersMore) {
  ToyPrompt mini("minikv:budget=80,pyramid=true"), apart("minikv:budget=80+pyramidkv:beta=7");
  size_t before = 1000, all = 0;
  for (ToyPrompt* p : {&mini, &apart}) p->prefill(400);
  for (int l = 0; l < 4; ++l) {
    EXPECT_EQ(mini.kept(l, 0), apart.kept(l, 0));
    EXPECT_LT(mini.kept(l, 0).size(), before);
    before = mini.kept(l, 0).size();
    all += before;
  }
  EXPECT_EQ(all, 4 * 80u);
}

TEST(Minikv, ClashesWithOtherScorersAndStores) {
  EXPECT_EQ(answer("minikv+h2o"), "both 'minikv' and 'h2o' bring a scorer");
  EXPECT_EQ(answer("minikv+kivi"), "both 'minikv' and 'kivi' bring a store");
  EXPECT_EQ(answer("minikv:pyramid=true+adakv"), "both 'minikv' and 'adakv' bring a budget");
}

}  // namespace
}  // namespace pith::test

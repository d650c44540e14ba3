// How rows are stored, where a spec says it for any method: a rotation, a list of outliers, other
// formats for values and for the lowest layers.
#include <algorithm>
#include <cmath>
#include <utility>

#include "gtest/gtest.h"
#include "policy/defaults.h"
#include "support/spec_sentences.h"
#include "support/toy_prompt.h"

namespace pith::test {
namespace {

// Numbers of which about a hundredth lie far out, in any channel.
void plant_outliers(ToyPrompt& prompt) {
  prompt.plant = [](int layer, Cube, Cube k, Cube v) {
    for (int64_t h = 0; h < k.dim[0]; ++h)
      for (int64_t r = 0; r < k.dim[1]; ++r) {
        const auto at = static_cast<size_t>((r * 37 + h * 11 + layer * 5) % 96);
        if (at < 16) k[h].row(r)[at] = r % 2 == 0 ? 40 : -40;
        if (at >= 16 && at < 32) v[h].row(r)[at - 16] = r % 2 == 0 ? 40 : -40;
      }
  };
}

double error(const std::string& spec, bool outliers = true) {
  ToyPrompt coded(spec), full("full");
  double sum = 0;
  for (ToyPrompt* p : {&coded, &full}) {
    if (outliers) plant_outliers(*p);
    p->prefill(256);
  }
  for (int l = 0; l < 4; ++l)
    for (int h = 0; h < 2; ++h) {
      const ToyHead got = coded.head(l, h), was = full.head(l, h);
      for (size_t i = 0; i < was.k.size(); ++i)
        sum += std::pow(got.k[i] - was.k[i], 2) + std::pow(got.v[i] - was.v[i], 2);
    }
  return std::sqrt(sum);
}

TEST(Formats, OutliersBesideTheCodesLeaveTheOthersTheirBits) {
  for (const std::string spec : {"full:cache=q8", "kivi:bits=4", "kivi:bits=2,group=32",
                                 "kivi:bits=3,keys=rows", "minikv:budget=1.0,bits=4"}) {
    const double with = error(spec + ",outliers=1%"), without = error(spec);
    EXPECT_LT(with, 0.7 * without) << spec;
    EXPECT_GT(with, 0) << spec;
  }
}

TEST(Formats, ARotationSpreadsOutliersOverTheRow) {
  for (const std::string spec : {"full:cache=q8", "kivi:bits=4,keys=rows"})
    EXPECT_LT(error(spec + ",rotate=hadamard"), 0.8 * error(spec)) << spec;
  for (const std::string spec :
       {"kivi:bits=4", "tiers:f16=0.2,q4=0.8,q2=0,page=32", "full:cache=e4m3"}) {
    ToyPrompt turned(spec + ",rotate=hadamard"), full("full");
    for (ToyPrompt* p : {&turned, &full}) {
      p->prefill(256);
      p->decode(3);
    }
    double sum = 0, size = 0;
    for (size_t i = 0; i < full.outputs().size(); ++i) {
      sum += std::pow(turned.outputs()[i] - full.outputs()[i], 2);
      size += std::pow(full.outputs()[i], 2);
    }
    EXPECT_LT(std::sqrt(sum / size), 0.2) << spec;
    EXPECT_TRUE(turned.policy().store.basis) << spec;
  }
}

TEST(Formats, TakeAHundredthOfTheNumbersMore) {
  ToyPrompt with("kivi:outliers=1%"), without("kivi");
  for (ToyPrompt* p : {&with, &without}) p->prefill(640);
  // Ten pages of 64 x 16 numbers on each side of eight heads: 11 of 4 bytes, and 16 before them.
  const size_t pages = 2 * 8 * 10;
  EXPECT_EQ(with.store().bytes().sealed - without.store().bytes().sealed, pages * 64);
}

TEST(Formats, ValuesAndTheLowestLayersMayHaveAnother) {
  const auto policy = make_policy("full:cache=q8,value_cache=e4m3,first_cache=2:f16", toy_shape());
  ASSERT_EQ(policy->store.layers.size(), 4u);
  EXPECT_EQ(policy->store.layers[1], (PageFormats{Quant::f16, Quant::f16}));
  EXPECT_EQ(policy->store.layers[2], (PageFormats{Quant::q8_keys, Quant::fp8_e4m3}));
  ToyPrompt mixed("full:cache=q8,value_cache=e4m3,first_cache=2:f16"), full("full"),
      eight("full:cache=q8"), floats("full:cache=e4m3");
  for (ToyPrompt* p : {&mixed, &full, &eight, &floats}) p->prefill(200);
  EXPECT_EQ(mixed.head(1, 0), full.head(1, 0));
  EXPECT_EQ(mixed.head(2, 1).k, eight.head(2, 1).k);
  EXPECT_EQ(mixed.head(3, 0).v, floats.head(3, 0).v);
  for (const char* spec : {"kivi:first=2:q8", "minikv:first=1:8,bits=4,value_bits=2",
                           "turboquant:first=2:8,residual=0"}) {
    ToyPrompt prompt(spec);
    prompt.prefill(300);
    prompt.decode(40);
    EXPECT_EQ(prompt.policy().store.layers.size(), 4u) << spec;
    EXPECT_NE(prompt.policy().store.layers[0], prompt.policy().store.layers[3]) << spec;
  }
}

TEST(Formats, BytesOfABudgetCountEveryLayersFormat) {
  const KvShape shape = toy_shape();
  const auto rows = [&](const std::string& spec) { return make_policy(spec, shape)->session_rows; };
  const int two = rows("snapkv:budget=1MiB+kivi:bits=2"),
            eight = rows("snapkv:budget=1MiB+kivi:bits=8"),
            half = rows("snapkv:budget=1MiB+kivi:bits=2,first=2:8");
  EXPECT_LT(eight, half);
  EXPECT_LT(half, two);
  for (const char* spec : {"snapkv:budget=300KiB+kivi:bits=2,first=2:8",
                           "snapkv:budget=300KiB,cache=q8,first_cache=3:f16"}) {
    ToyPrompt prompt(spec);
    prompt.prefill(4000);
    EXPECT_LE(prompt.store().bytes().total(), size_t{300} << 10) << spec;
    EXPECT_GT(prompt.store().bytes().total(), size_t{240} << 10) << spec;
  }
}

TEST(Formats, SayWhatDoesNotGoTogether) {
  EXPECT_EQ(answer("full:rotate=hadamard"),
            "full: 'rotate' must be none where rows stay as they are");
  EXPECT_EQ(answer("full:outliers=1%"),
            "full: 'outliers' must be none where rows are not stored in codes (cache=q8, kivi)");
  EXPECT_EQ(answer("full:cache=q8,outliers=2%"),
            "full: 'outliers' must be one of none|1%, not '2%'");
  EXPECT_EQ(answer("kivi:value_cache=q8"), "kivi: 'value_cache' must be one of same, not 'q8'");
  EXPECT_EQ(answer("kivi:first_cache=2:q8"),
            "kivi: 'first_cache' must be left out beside a method that codes rows; 'first' is its "
            "own");
  EXPECT_EQ(answer("full:first_cache=2"),
            "full: 'first_cache' must be layers and a format, as in 2:q8, with a format of "
            "f16|bf16|f32|q8|e4m3|e5m2");
  EXPECT_EQ(answer("adakv:outliers=1%,cache=q8,budget=0.1,rotate=hadamard"),
            "ok: adakv:budget=0.1,cache=q8,rotate=hadamard,outliers=1%");
}

}  // namespace
}  // namespace pith::test

// KIVI: what is stored follows the paper's rule, to the number, and attention reads it.
#include <algorithm>
#include <cmath>
#include <utility>

#include "gtest/gtest.h"
#include "support/spec_sentences.h"
#include "support/toy_prompt.h"
#include "tensor/half.h"

namespace pith::test {
namespace {

float as_half(float x) {
  return half_to_float(float_to_half(x));
}

// A number of a group between `low` and `high`, coded by the paper's formula in float64.
float coded(float x, float low, float high, int bits) {
  const double levels = (1 << bits) - 1;
  const double step = as_half(static_cast<float>((high - low) / levels));
  if (step == 0) return low;
  const double code = std::clamp(std::nearbyint((x - low) / step), 0.0, levels);
  return static_cast<float>(low + step * code);
}

// What the head of `full` becomes: keys in groups of `group` rows per channel, values in groups of
// `group` channels (here all 16) per row; rows from `sealed` on stay.
ToyHead paper(const ToyHead& plain, int bits, int group, int sealed) {
  ToyHead out = plain;
  const auto at = [](int row, int d) { return static_cast<size_t>(row * 16 + d); };
  for (int first = 0; first < sealed; first += group)
    for (int d = 0; d < 16; ++d) {
      float low = plain.k[at(first, d)], high = low;
      for (int r = first; r < first + group; ++r) {
        low = std::min(low, plain.k[at(r, d)]);
        high = std::max(high, plain.k[at(r, d)]);
      }
      for (int r = first; r < first + group; ++r)
        out.k[at(r, d)] = coded(plain.k[at(r, d)], low, high, bits);
    }
  for (int r = 0; r < sealed; ++r) {
    const auto [low, high] = std::minmax_element(&plain.v[at(r, 0)], &plain.v[at(r, 0)] + 16);
    for (int d = 0; d < 16; ++d) out.v[at(r, d)] = coded(plain.v[at(r, d)], *low, *high, bits);
  }
  return out;
}

// A code may fall to either side of a tie: a step then, in a few numbers of thousands.
void expect_alike(const std::vector<float>& got, const std::vector<float>& expected,
                  const std::string& what) {
  ASSERT_EQ(got.size(), expected.size()) << what;
  size_t off = 0;
  for (size_t i = 0; i < got.size(); ++i) off += std::abs(got[i] - expected[i]) > 1e-5f;
  EXPECT_LE(off, got.size() / 1000) << what;
}

TEST(Kivi, CodesKeysPerChannelAndValuesPerRowAsThePaperDoes) {
  for (const int bits : {2, 3, 4, 6, 8})
    for (const int group : {32, 64, 128}) {
      const std::string spec =
          "kivi:bits=" + std::to_string(bits) + ",group=" + std::to_string(group);
      ToyPrompt prompt(spec), full("full");
      for (ToyPrompt* p : {&prompt, &full}) {
        p->prefill(200);
        p->decode(90);
      }
      const int sealed = 290 / group * group;
      for (int l = 0; l < 4; ++l)
        for (int h = 0; h < 2; ++h) {
          const ToyHead got = prompt.head(l, h),
                        expected = paper(full.head(l, h), bits, group, sealed);
          EXPECT_EQ(std::as_const(prompt.store()).at(l, h).sealed_rows(), sealed);
          EXPECT_EQ(got.positions, expected.positions);
          expect_alike(got.k, expected.k, spec);
          expect_alike(got.v, expected.v, spec);
        }
    }
}

TEST(Kivi, LeavesTheResidualPlain) {
  ToyPrompt prompt("kivi:bits=2,group=32,residual=128"), full("full");
  for (ToyPrompt* p : {&prompt, &full}) p->prefill(300);
  for (int step = 0; step < 70; ++step) {
    const HeadCache& head = std::as_const(prompt.store()).at(1, 1);
    const int plain = head.rows() - head.sealed_rows();
    EXPECT_GE(plain, 128);
    EXPECT_LT(plain, 128 + 32);
    const ToyHead got = prompt.head(1, 1), all = full.head(1, 1);
    const auto first = static_cast<size_t>(head.sealed_rows()) * 16;
    EXPECT_TRUE(std::equal(got.k.begin() + static_cast<std::ptrdiff_t>(first), got.k.end(),
                           all.k.begin() + static_cast<std::ptrdiff_t>(first)));
    for (ToyPrompt* p : {&prompt, &full}) p->decode(1);
  }
}

TEST(Kivi, OfSixteenBitsIsFull) {
  for (const char* cache : {"f16", "bf16", "f32"}) {
    const std::string format = std::string("cache=") + cache;
    ToyPrompt prompt("kivi:bits=16,residual=32," + format), full("full:page=64," + format);
    for (ToyPrompt* p : {&prompt, &full}) {
      p->prefill(300);
      p->decode(20);
    }
    EXPECT_EQ(prompt.heads(), full.heads());
    EXPECT_EQ(prompt.outputs(), full.outputs());
    EXPECT_EQ(prompt.store().bytes().total(), full.store().bytes().total());
  }
}

TEST(Kivi, MoreBitsAreNearerToFull) {
  ToyPrompt full("full");
  full.prefill(500);
  full.decode(1);
  double before = 1e9;
  for (const char* bits : {"2", "3", "4", "6", "8"}) {
    ToyPrompt prompt(std::string("kivi:group=32,bits=") + bits);
    prompt.prefill(500);
    prompt.decode(1);
    double error = 0;
    for (size_t i = 0; i < full.outputs().size(); ++i)
      error += std::pow(prompt.outputs()[i] - full.outputs()[i], 2);
    EXPECT_LT(error, before * 0.5) << bits;
    before = error;
  }
}

TEST(Kivi, KeepsWhatASelectionKeepsInAShareOfItsBytes) {
  for (const std::string selection :
       {"snapkv:budget=256", "h2o:budget=256,form=prompt",
        "streaming_llm:budget=256,reduce_every=0", "tova:budget=256"}) {
    ToyPrompt plain(selection), both(selection + "+kivi:bits=2,group=32"),
        turned("kivi:bits=2,group=32+" + selection);
    for (ToyPrompt* p : {&plain, &both, &turned}) p->prefill(600);
    for (int l = 0; l < 4; ++l)
      for (int h = 0; h < 2; ++h) {
        EXPECT_EQ(both.kept(l, h), plain.kept(l, h)) << selection;
        EXPECT_EQ(turned.kept(l, h), plain.kept(l, h)) << selection;
      }
    // Heads of 16 numbers: the spans of a group are as large as its codes of 2 bits.
    EXPECT_LT(both.store().bytes().sealed, plain.store().bytes().sealed / 2) << selection;
  }
}

TEST(Kivi, SharesThePageOfAReader) {
  const auto policy = make_policy("quest:pages=4+kivi:bits=4", toy_shape());
  EXPECT_EQ(policy->store.page_rows, 16);
  EXPECT_EQ(policy->store.k, Quant::q4_channels);
  EXPECT_EQ(policy->store.v, Quant::q4_groups64);
  EXPECT_EQ(make_policy("kivi:bits=4+quest:pages=4", toy_shape())->store.page_rows, 16);
  EXPECT_EQ(make_policy("kivi:group=128", toy_shape())->store.page_rows, 128);
  EXPECT_EQ(make_policy("kivi:group=128,page=32", toy_shape())->store.page_rows, 32);
}

TEST(Kivi, KeysValuesAndTheLowestLayersMayHaveBitsOfTheirOwn) {
  ToyPrompt apart("kivi:bits=4,value_bits=2,group=32"), first("kivi:bits=2,first=3:8,group=32"),
      eight("kivi:bits=8,group=32"), four("kivi:bits=4,group=32"), two("kivi:bits=2,group=32");
  for (ToyPrompt* p : {&apart, &first, &eight, &four, &two}) p->prefill(200);
  EXPECT_EQ(apart.head(1, 0).k, four.head(1, 0).k);
  EXPECT_EQ(apart.head(1, 0).v, two.head(1, 0).v);
  EXPECT_EQ(first.head(2, 1), eight.head(2, 1));
  EXPECT_EQ(first.head(3, 1), two.head(3, 1));
  for (ToyPrompt* p : {&first, &apart}) p->decode(40);
}

// A channel far larger than the others costs all of them their bits where a row shares a step.
TEST(Kivi, ARotationSpreadsOutliersOfRows) {
  ToyPrompt plain("kivi:keys=rows,bits=4,group=32"),
      turned("kivi:keys=rows,bits=4,group=32,rotate=hadamard"), full("full");
  for (ToyPrompt* p : {&plain, &turned, &full}) {
    p->plant = [](int, Cube, Cube k, Cube v) {
      for (int64_t h = 0; h < 2; ++h)
        for (int64_t r = 0; r < k.dim[1]; ++r) k[h].row(r)[5] = v[h].row(r)[3] = 30;
    };
    p->prefill(256);
    p->decode(1);
  }
  const auto error = [&](const ToyPrompt& p) {
    const ToyHead got = p.head(2, 0), was = full.head(2, 0);
    double sum = 0;
    for (size_t i = 0; i < 256 * 16; ++i)
      if (i % 16 != 5) sum += std::pow(got.k[i] - was.k[i], 2);
    return std::sqrt(sum);
  };
  EXPECT_LT(error(turned), 0.6 * error(plain));
}

TEST(Kivi, RefusesWhatItHasNoCodesFor) {
  for (const char* first : {"2", "8", "2:5", ":8", "x:8", "99999:8"})
    EXPECT_EQ(answer(std::string("kivi:first=") + first),
              "kivi: 'first' must be layers and bits, as in 2:8, with bits of 2|3|4|6|8|16|q8");

  EXPECT_EQ(answer("kivi:bits=5"), "kivi: 'bits' must be one of 2|3|4|6|8|16, not '5'");
  EXPECT_EQ(answer("kivi:group=16"), "kivi: 'group' must be one of 32|64|128, not '16'");
  EXPECT_EQ(answer("full:cache=q8+kivi"), "full: 'cache' must be one of f16|bf16|f32, not 'q8'");
}

}  // namespace
}  // namespace pith::test

// TurboQuant: rows are coded one by one behind a rotation, keys and values in bits of their own,
// and the newest stay as they are.
#include <algorithm>
#include <cmath>
#include <utility>

#include "gtest/gtest.h"
#include "support/spec_sentences.h"
#include "support/toy_prompt.h"

namespace pith::test {
namespace {

KvShape shape_of_long_rows() {
  return {.layers = 2, .query_heads = 4, .heads = 2, .dim = 64, .width = 32};
}

double distance(const std::vector<float>& a, const std::vector<float>& b, size_t from, size_t to) {
  double sum = 0, size = 0;
  for (size_t i = from; i < to; ++i) {
    sum += std::pow(a[i] - b[i], 2);
    size += std::pow(b[i], 2);
  }
  return std::sqrt(sum / size);
}

TEST(Turboquant, LeavesTheNewestRowsPlainAndCodesTheOthers) {
  ToyPrompt prompt("turboquant"), full("full");
  for (ToyPrompt* p : {&prompt, &full}) {
    p->prefill(400);
    p->decode(10);
  }
  const HeadCache& head = std::as_const(prompt.store()).at(1, 1);
  EXPECT_EQ(head.rows() - head.sealed_rows(), 128 + (410 - 128) % 32);
  const ToyHead got = prompt.head(1, 1), was = full.head(1, 1);
  const auto sealed = static_cast<size_t>(head.sealed_rows()) * 16;
  EXPECT_TRUE(std::equal(got.k.begin() + static_cast<std::ptrdiff_t>(sealed), got.k.end(),
                         was.k.begin() + static_cast<std::ptrdiff_t>(sealed)));
  const double keys = distance(got.k, was.k, 0, sealed), values = distance(got.v, was.v, 0, sealed);
  EXPECT_GT(keys, 1e-4);
  EXPECT_LT(keys, 0.02);
  EXPECT_GT(values, 3 * keys) << "keys have more bits";
}

// Without a rotation the step of a row is as large as its largest number asks for.
TEST(Turboquant, CostsTheSameWhateverARowHolds) {
  const KvShape shape = shape_of_long_rows();
  const auto error = [&](const std::string& spec, bool outliers) {
    ToyPrompt coded(spec, shape), full("full", shape);
    for (ToyPrompt* p : {&coded, &full}) {
      p->plant = [&](int, Cube, Cube k, Cube v) {
        for (int64_t h = 0; outliers && h < 2; ++h)
          for (int64_t r = 0; r < k.dim[1]; ++r) {
            // The same length, most of it in two channels.
            for (float& x : k[h].row(r)) x *= 0.2f;
            k[h].row(r)[7] = v[h].row(r)[3] = 10;
          }
      };
      p->prefill(320);
    }
    const ToyHead got = coded.head(1, 0), was = full.head(1, 0);
    double sum = 0;
    for (size_t i = 0; i < 192 * 64; ++i) sum += std::pow(got.k[i] - was.k[i], 2);
    double size = 0;
    for (size_t i = 0; i < 192 * 64; ++i) size += std::pow(was.k[i], 2);
    return std::sqrt(sum / size);
  };
  const double alike = error("turboquant:bits=4", false);
  EXPECT_LT(error("turboquant:bits=4", true), 1.3 * alike);
  EXPECT_LT(2 * error("turboquant:bits=4", true), error("turboquant:bits=4,rotate=none", true));
}

// The figures of its departure: even steps over 32 or 64 normal numbers, in 4 bits.
TEST(Turboquant, IsAsNearAsItSaysForNormalNumbers) {
  const KvShape shape = shape_of_long_rows();
  ToyPrompt coded("turboquant:bits=4,value_bits=4", shape), full("full", shape);
  for (ToyPrompt* p : {&coded, &full}) p->prefill(640);
  double keys = 0, values = 0, of_keys = 0, of_values = 0;
  for (int h = 0; h < 2; ++h) {
    const ToyHead got = coded.head(0, h), was = full.head(0, h);
    for (size_t i = 0; i < 512 * 64; ++i) {
      keys += std::pow(got.k[i] - was.k[i], 2);
      of_keys += std::pow(was.k[i], 2);
      values += std::pow(got.v[i] - was.v[i], 2);
      of_values += std::pow(was.v[i], 2);
    }
  }
  EXPECT_NEAR(keys / of_keys, 0.006, 0.0015);
  EXPECT_NEAR(values / of_values, 0.009, 0.002);
}

TEST(Turboquant, TakesTheBytesOfItsCodes) {
  const KvShape shape = shape_of_long_rows();
  ToyPrompt prompt("turboquant", shape);
  prompt.prefill(128 + 320);
  // Ten pages of 32 rows: keys 6 bits and a step and a least number for 32, values 4 and 64.
  const size_t keys = 32 * 64 * 6 / 8 + 32 * 2 * 4, values = 32 * 64 * 4 / 8 + 32 * 4;
  EXPECT_EQ(prompt.store().bytes().sealed,
            4 * 10 * (PagePool::page_cost(keys) + PagePool::page_cost(values)));
}

TEST(Turboquant, SaysWhatDoesNotGoTogether) {
  EXPECT_EQ(answer("turboquant:bits=5"), "turboquant: 'bits' must be one of 2|3|4|6|8|16, not '5'");
  EXPECT_EQ(answer("turboquant:bits=16,value_bits=16"),
            "turboquant: 'rotate' must be none where rows stay as they are");
  EXPECT_EQ(answer("turboquant+kivi"), "both 'turboquant' and 'kivi' bring a store");
  EXPECT_EQ(answer("snapkv:budget=0.1+turboquant:rotate=none,bits=4"),
            "ok: snapkv:budget=0.1,rotate=none+turboquant:bits=4");
}

}  // namespace
}  // namespace pith::test

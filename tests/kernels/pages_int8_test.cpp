// Pages of 8-bit codes: how far decoded rows may lie from what was coded, and how far scores and
// sums over codes may lie from those over the decoded page. Bounds are the ones of
// pages_int8.inl.h.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <gtest/gtest.h>
#include <limits>
#include <string>
#include <vector>

#include "kernels/table.h"
#include "support/attention_oracle.h"
#include "support/kernel_helpers.h"
#include "support/kernel_tables.h"

namespace pith {
namespace {

using test::Guarded;
using test::normal_numbers;

constexpr int kKeyColumns = 32;  // share a scale; a value has one

class Int8Pages : public test::OnATable {
 protected:
  const PageKernels& keys() const { return page(Quant::q8_keys); }
  const PageKernels& values() const { return page(Quant::q8_values); }
};

struct Page {
  Page(const PageKernels& kernels, const std::vector<float>& x, int rows, int dim)
      : bytes(kernels.bytes(rows, dim)), decoded(x.size() + 1, 7) {
    kernels.encode(x.data(), dim, rows, dim, bytes.data(), 0);
    intact = bytes.guards_stand();
    kernels.decode(bytes.data(), 0, rows, dim, decoded.data());
    intact = intact && decoded.back() == 7;
    decoded.pop_back();
  }
  Guarded<std::byte> bytes;
  std::vector<float> decoded;
  bool intact = false;
};

// Where x lies among the numbers that share a scale: their largest size.
float largest(const std::vector<float>& x, int row, int dim, int column, int together) {
  const int first = column / together * together, last = std::min(dim, first + together);
  float most = 0;
  for (int d = first; d < last; ++d)
    most = std::max(most, std::abs(x[static_cast<size_t>(row * dim + d)]));
  return most;
}

void expect_within_half_a_step(const PageKernels& kernels, const std::vector<float>& x, int rows,
                               int dim, int together) {
  const Page page(kernels, x, rows, dim);
  ASSERT_TRUE(page.intact);
  for (int r = 0; r < rows; ++r)
    for (int d = 0; d < dim; ++d) {
      const auto at = static_cast<size_t>(r * dim + d);
      const double most = largest(x, r, dim, d, together);
      ASSERT_LE(std::abs(static_cast<double>(page.decoded[at]) - x[at]), most / 253 + 0x1p-119)
          << "row " << r << " column " << d << " of " << dim;
    }
}

TEST_P(Int8Pages, DecodedRowsLieWithinHalfAStepForEveryDimAndCount) {
  for (int dim = 8; dim <= 256; dim += 8)
    for (const int rows : {1, 2, 15, 16, 17, 32}) {
      const auto x = normal_numbers(static_cast<size_t>(rows * dim), static_cast<uint64_t>(dim), 3);
      expect_within_half_a_step(keys(), x, rows, dim, kKeyColumns);
      expect_within_half_a_step(values(), x, rows, dim, dim);
    }
  for (const int dim : {1, 3, 33, 67}) {  // ranks of a basis
    const auto x = normal_numbers(static_cast<size_t>(19 * dim), 2);
    expect_within_half_a_step(keys(), x, 19, dim, kKeyColumns);
    expect_within_half_a_step(values(), x, 19, dim, dim);
  }
}

TEST_P(Int8Pages, AnySizeOfNumbersKeepsTheBound) {
  const int dim = 64, rows = 9;
  for (const float size :
       {0.0f, 1e-45f, 1e-40f, 0x1p-126f, 0x1p-119f, 1e-30f, 1e-7f, 1.0f, 6e4f, 1e30f, 0x1p126f}) {
    std::vector<float> x = normal_numbers(static_cast<size_t>(rows * dim), 4);
    for (float& value : x) value = std::clamp(value, -1.9f, 1.9f) * size;
    expect_within_half_a_step(keys(), x, rows, dim, kKeyColumns);
    expect_within_half_a_step(values(), x, rows, dim, dim);
    std::vector<float> constant(x.size(), -size);
    expect_within_half_a_step(keys(), constant, rows, dim, kKeyColumns);
    expect_within_half_a_step(values(), constant, rows, dim, dim);
    std::vector<float> outlier = normal_numbers(x.size(), 5, size * 1e-3f);
    for (int r = 0; r < rows; ++r) outlier[static_cast<size_t>(r * dim + 5 * r)] = size;
    expect_within_half_a_step(keys(), outlier, rows, dim, kKeyColumns);
    expect_within_half_a_step(values(), outlier, rows, dim, dim);
  }
}

TEST_P(Int8Pages, WhateverComesInFiniteNumbersComeOut) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const int dim = 40;
  for (const float odd : {kInf, -kInf, std::numeric_limits<float>::quiet_NaN(), 3.4e38f}) {
    std::vector<float> x = normal_numbers(static_cast<size_t>(3 * dim), 1);
    x[45] = odd;
    for (const PageKernels* kernels : {&keys(), &values()}) {
      const Page page(*kernels, x, 3, dim);
      for (const float y : page.decoded) ASSERT_TRUE(std::isfinite(y)) << odd;
    }
  }
}

TEST_P(Int8Pages, CodingADecodedRowAgainChangesNothing) {
  for (const int dim : {8, 64, 80, 128})
    for (uint64_t seed = 1; seed < 40; ++seed) {
      const int rows = 16;
      const auto x = normal_numbers(static_cast<size_t>(rows * dim), seed,
                                    std::exp2(static_cast<float>(seed) - 20));
      for (const PageKernels* kernels : {&keys(), &values()}) {
        const Page once(*kernels, x, rows, dim);
        const Page twice(*kernels, once.decoded, rows, dim);
        ASSERT_EQ(once.decoded, twice.decoded) << "dim " << dim << " seed " << seed;
      }
    }
}

TEST_P(Int8Pages, APageFillsRowByRowAndIsReadFromAnyRow) {
  for (const int dim : {24, 64})
    for (const PageKernels* kernels : {&keys(), &values()}) {
      const int rows = 37, stride = dim + 5;
      const auto x = normal_numbers(static_cast<size_t>(rows * stride), 3);
      const size_t bytes = kernels->bytes(rows, dim);
      std::vector<std::byte> whole(bytes), apart(bytes, std::byte{0xee});
      kernels->encode(x.data(), stride, rows, dim, whole.data(), 0);
      for (int r = 0; r < rows; r += 5)
        kernels->encode(x.data() + r * stride, stride, std::min(5, rows - r), dim, apart.data(), r);
      EXPECT_EQ(apart, whole);
      std::vector<float> all(static_cast<size_t>(rows * dim)), some(static_cast<size_t>(9 * dim));
      kernels->decode(whole.data(), 0, rows, dim, all.data());
      kernels->decode(whole.data(), 13, 9, dim, some.data());
      EXPECT_TRUE(std::equal(some.begin(), some.end(), all.begin() + 13 * dim));
    }
}

TEST_P(Int8Pages, ScoresAreThoseOfTheDecodedPageWithinTheQuerysRounding) {
  for (int dim = 8; dim <= 256; dim += 8)
    for (const int heads : {1, 2, 3, 4, 5, 8})
      for (const int rows : {1, 16, 31, 32}) {
        if (dim > 80 && heads != dim / 8 % 8 + 1) continue;
        SCOPED_TRACE(::testing::Message()
                     << "dim " << dim << " heads " << heads << " rows " << rows);
        const auto x = normal_numbers(static_cast<size_t>(rows * dim), 5);
        const auto q = normal_numbers(static_cast<size_t>(heads * dim), 6);
        Page page(keys(), x, rows, dim);
        Guarded<float> prepared(keys().query_floats(heads, dim));
        keys().prepare(q.data(), heads, dim, prepared.data());
        ASSERT_TRUE(prepared.guards_stand());
        const int stride = rows + 3;
        std::vector<float> out(static_cast<size_t>(heads * stride), 77);
        keys().score(page.bytes.data(), rows, dim, prepared.data(), heads, out.data(), stride);
        for (int h = 0; h < heads; ++h) {
          const auto first = q.begin() + h * dim;
          const double step =
              std::abs(*std::max_element(
                  first, first + dim, [](float a, float b) { return std::abs(a) < std::abs(b); })) /
              32767.0;
          for (int r = 0; r < stride; ++r) {
            const float got = out[static_cast<size_t>(h * stride + r)];
            if (r >= rows) {
              ASSERT_EQ(got, 77) << "behind the rows";
              continue;
            }
            double dot = 0, size = 0, reach = 0;
            for (int d = 0; d < dim; ++d) {
              const double k = page.decoded[static_cast<size_t>(r * dim + d)];
              dot += k * q[static_cast<size_t>(h * dim + d)];
              size += std::abs(k * q[static_cast<size_t>(h * dim + d)]);
              reach += std::abs(k);
            }
            ASSERT_NEAR(got, dot, reach * step / 2 + 1e-6 * size) << "head " << h << " row " << r;
          }
        }
      }
}

TEST_P(Int8Pages, SumsAreThoseOfTheDecodedPageWithinTheWeightsRounding) {
  for (int dim = 8; dim <= 256; dim += 8)
    for (const int heads : {1, 2, 3, 4, 5, 8})
      for (const int rows : {1, 16, 31, 64}) {
        if (dim > 80 && heads != dim / 8 % 8 + 1) continue;
        SCOPED_TRACE(::testing::Message()
                     << "dim " << dim << " heads " << heads << " rows " << rows);
        const auto x = normal_numbers(static_cast<size_t>(rows * dim), 5);
        Page page(values(), x, rows, dim);
        const int stride = rows + 2;
        const auto p = normal_numbers(static_cast<size_t>(heads * stride), 8);
        const auto start = normal_numbers(static_cast<size_t>(heads * dim + 16), 9);
        std::vector<float> acc = start;
        values().accumulate(page.bytes.data(), rows, dim, p.data(), stride, heads, acc.data());
        for (int h = 0; h < heads; ++h) {
          // A weight is rounded after the row's scale went into it: to half a step of the largest
          // product, which meets codes of up to 127.
          double most = 0;
          for (int r = 0; r < rows; ++r)
            most = std::max(most,
                            std::abs(static_cast<double>(p[static_cast<size_t>(h * stride + r)])) *
                                largest(page.decoded, r, dim, 0, dim));
          for (int d = 0; d < dim; ++d) {
            const auto at = static_cast<size_t>(h * dim + d);
            double sum = start[at], size = std::abs(start[at]);
            for (int r = 0; r < rows; ++r) {
              const double term = static_cast<double>(p[static_cast<size_t>(h * stride + r)]) *
                                  page.decoded[static_cast<size_t>(r * dim + d)];
              sum += term;
              size += std::abs(term);
            }
            ASSERT_NEAR(acc[at], sum, rows * most / 65534 + 1e-6 * size);
          }
        }
        for (size_t i = static_cast<size_t>(heads * dim); i < acc.size(); ++i)
          ASSERT_EQ(acc[i], start[i]) << "behind the heads";
      }
}

TEST_P(Int8Pages, ManySmallWeightsBesideALargeOneAreNotLost) {
  const int dim = 64, rows = 64;
  const std::vector<float> ones(static_cast<size_t>(rows * dim), 1);
  Page page(values(), ones, rows, dim);
  std::vector<float> p(rows, 1e-3f), acc(dim);
  p[7] = 1;
  values().accumulate(page.bytes.data(), rows, dim, p.data(), rows, 1, acc.data());
  for (const float x : acc) EXPECT_NEAR(x, 1.063, 0.001);
}

TEST_P(Int8Pages, AHeadAloneGivesTheSameBitsAsAmongOthersAndWeightsOfNothingAddNothing) {
  const int dim = 72, heads = 7, rows = 29;
  const auto x = normal_numbers(static_cast<size_t>(rows * dim), 1);
  const auto q = normal_numbers(static_cast<size_t>(heads * dim), 2);
  const auto p = normal_numbers(static_cast<size_t>(heads * rows), 3);
  Page k(keys(), x, rows, dim), v(values(), x, rows, dim);
  std::vector<float> prepared(keys().query_floats(heads, dim)),
      one_query(keys().query_floats(1, dim));
  keys().prepare(q.data(), heads, dim, prepared.data());
  std::vector<float> scores(static_cast<size_t>(heads * rows)), one_score(rows);
  std::vector<float> sums(static_cast<size_t>(heads * dim));
  keys().score(k.bytes.data(), rows, dim, prepared.data(), heads, scores.data(), rows);
  values().accumulate(v.bytes.data(), rows, dim, p.data(), rows, heads, sums.data());
  for (int h = 0; h < heads; ++h) {
    keys().prepare(q.data() + h * dim, 1, dim, one_query.data());
    keys().score(k.bytes.data(), rows, dim, one_query.data(), 1, one_score.data(), rows);
    EXPECT_TRUE(std::equal(one_score.begin(), one_score.end(), scores.begin() + h * rows));
    std::vector<float> one(static_cast<size_t>(dim));
    values().accumulate(v.bytes.data(), rows, dim, p.data() + h * rows, rows, 1, one.data());
    EXPECT_TRUE(std::equal(one.begin(), one.end(), sums.begin() + h * dim));
  }
  const std::vector<float> nothing(static_cast<size_t>(heads * rows));
  std::vector<float> before = sums;
  values().accumulate(v.bytes.data(), rows, dim, nothing.data(), rows, heads, sums.data());
  EXPECT_EQ(sums, before);
}

INSTANTIATE_TEST_SUITE_P(Tables, Int8Pages, ::testing::ValuesIn(test::tables_here()),
                         test::name_of_table);

}  // namespace
}  // namespace pith

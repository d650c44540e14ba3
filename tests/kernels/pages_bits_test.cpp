// Pages of few-bit codes: how far decoded numbers may lie from what was coded, and how far scores
// and sums over codes may lie from those over the decoded page. Bounds are the ones of
// pages_bits.inl.h, computed here from the numbers alone, in float64.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <gtest/gtest.h>
#include <limits>
#include <string>
#include <vector>

#include "kernels/table.h"
#include "support/attention_oracle.h"
#include "support/kernel_helpers.h"
#include "support/kernel_tables.h"
#include "tensor/half.h"

namespace pith {
namespace {

using test::Guarded;
using test::normal_numbers;

struct Format {
  Quant quant;
  int bits, group;  // columns that share a step; 0: all rows of a column do
  bool keys;
  int levels() const { return (1 << bits) - 1; }
};
constexpr Format kFormats[] = {
    {Quant::q2_channels, 2, 0, true},     {Quant::q3_channels, 3, 0, true},
    {Quant::q4_channels, 4, 0, true},     {Quant::q6_channels, 6, 0, true},
    {Quant::q8_channels, 8, 0, true},     {Quant::q2_rows, 2, 32, true},
    {Quant::q3_rows, 3, 32, true},        {Quant::q4_rows, 4, 32, true},
    {Quant::q6_rows, 6, 32, true},        {Quant::q8_rows, 8, 32, true},
    {Quant::q2_groups32, 2, 32, false},   {Quant::q2_groups64, 2, 64, false},
    {Quant::q2_groups128, 2, 128, false}, {Quant::q3_groups32, 3, 32, false},
    {Quant::q3_groups64, 3, 64, false},   {Quant::q3_groups128, 3, 128, false},
    {Quant::q4_groups32, 4, 32, false},   {Quant::q4_groups64, 4, 64, false},
    {Quant::q4_groups128, 4, 128, false}, {Quant::q6_groups32, 6, 32, false},
    {Quant::q6_groups64, 6, 64, false},   {Quant::q6_groups128, 6, 128, false},
    {Quant::q8_groups32, 8, 32, false},   {Quant::q8_groups64, 8, 64, false},
    {Quant::q8_groups128, 8, 128, false}};

class BitsPages : public test::OnATable {
 protected:
  const PageKernels& kernels(const Format& f) const { return page(f.quant); }

  std::vector<float> prepared(const Format& f, const std::vector<float>& q, int heads,
                              int dim) const {
    return test::prepared(kernels(f), q, heads, dim);
  }
};

struct Rows {
  int rows, dim;
  std::vector<float> x;
  Rows(int rows, int dim, std::vector<float> x) : rows(rows), dim(dim), x(std::move(x)) {}
  Rows(int rows, int dim, uint64_t seed, float spread = 1)
      : Rows(rows, dim, normal_numbers(static_cast<size_t>(rows * dim), seed, spread)) {}
  float at(int r, int d) const { return x[static_cast<size_t>(r * dim + d)]; }
};

struct Page {
  Page(const PageKernels& kernels, const Rows& given)
      : bytes(kernels.bytes(given.rows, given.dim), std::byte{0xee}),
        decoded(given.rows, given.dim, std::vector<float>(given.x.size() + 1, 7)) {
    kernels.encode(given.x.data(), given.dim, given.rows, given.dim, bytes.data(), 0);
    kernels.decode(bytes.data(), 0, given.rows, given.dim, decoded.x.data());
    intact = bytes.guards_stand() && decoded.x.back() == 7;
    decoded.x.pop_back();
  }
  Guarded<std::byte> bytes;
  Rows decoded;
  bool intact = false;
};

// What the numbers that share a step with number (row, column) are like.
struct Reach {
  double least, step, bound;
  Reach(const Format& f, const Rows& given, int row, int column) {
    double low = std::numeric_limits<double>::infinity(), high = -low;
    const auto take = [&](double x) {
      x = std::clamp(x, -65504.0, 65504.0);
      low = std::min(low, x);
      high = std::max(high, x);
    };
    if (f.group == 0) {
      for (int r = 0; r < given.rows; ++r) take(given.at(r, column));
    } else {
      const int first = column / f.group * f.group;
      for (int d = first; d < std::min(given.dim, first + f.group); ++d) take(given.at(row, d));
    }
    const double off = std::abs(low) * 0x1p-11 + 0x1p-25;  // of the least, as f16
    least = std::abs(low) + off;
    step = (high - low + off) / f.levels() * (1 + 0x1p-11) + 0x1p-25;
    bound = std::max({step / 2, off, f.levels() * 0x1p-25}) * (1 + 1e-4) +
            (std::abs(low) + std::abs(high)) * 0x1p-23;
  }
};

void expect_bounded(const Format& f, const PageKernels& kernels, const Rows& given) {
  SCOPED_TRACE(::testing::Message() << f.bits << " bits, group " << f.group << ", rows "
                                    << given.rows << ", dim " << given.dim);
  const Page page(kernels, given);
  ASSERT_TRUE(page.intact);
  for (int r = 0; r < given.rows; ++r)
    for (int d = 0; d < given.dim; ++d) {
      const double x = std::clamp(static_cast<double>(given.at(r, d)), -65504.0, 65504.0);
      ASSERT_LE(std::abs(page.decoded.at(r, d) - x), Reach(f, given, r, d).bound)
          << "row " << r << " column " << d << " is " << x;
    }
}

TEST_P(BitsPages, DecodedNumbersLieWithinHalfAStepForEveryDimAndCount) {
  for (const Format& f : kFormats) {
    for (const int dim : {8, 16, 24, 64, 72, 128, 256})
      for (const int rows : {8, 16, 32, 128}) {
        if (rows * dim > 8192) continue;
        expect_bounded(f, kernels(f), Rows(rows, dim, static_cast<uint64_t>(dim + rows), 3));
      }
    for (const int dim : {1, 3, 33, 67, 300})  // ranks of a basis, and heads wider than a block
      for (const int rows : {1, 9, 19}) expect_bounded(f, kernels(f), Rows(rows, dim, 2));
  }
}

TEST_P(BitsPages, AnySizeOfNumbersKeepsTheBound) {
  const int dim = 72, rows = 17;
  for (const Format& f : kFormats)
    for (const float size : {0.0f, 1e-45f, 1e-40f, 0x1p-26f, 0x1p-24f, 1e-5f, 1e-3f, 1.0f, 300.0f,
                             6e4f, 1e6f, 1e30f}) {
      Rows numbers(rows, dim, 4);
      for (float& value : numbers.x) value = std::clamp(value, -1.9f, 1.9f) * size;
      expect_bounded(f, kernels(f), numbers);
      expect_bounded(f, kernels(f), Rows(rows, dim, std::vector<float>(numbers.x.size(), -size)));
      Rows shifted(rows, dim, 5, size * 1e-3f);  // far from zero for what they span
      for (float& value : shifted.x) value += size;
      expect_bounded(f, kernels(f), shifted);
      Rows outliers(rows, dim, 6, size * 1e-3f);
      for (int r = 0; r < rows; ++r) outliers.x[static_cast<size_t>(r * dim + 3 * r)] = size;
      expect_bounded(f, kernels(f), outliers);
    }
}

TEST_P(BitsPages, EqualHalvesComeBackAsTheyWere) {
  for (const Format& f : kFormats)
    for (const float value : {0.0f, 1.0f, -3.14062f, 65504.0f, -0x1p-24f}) {
      const Rows given(32, 64, std::vector<float>(32 * 64, half_to_float(float_to_half(value))));
      EXPECT_EQ(Page(kernels(f), given).decoded.x, given.x) << f.bits << " bits, " << value;
    }
}

TEST_P(BitsPages, WhateverComesInFiniteNumbersComeOut) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (const Format& f : kFormats)
    for (const float odd : {kInf, -kInf, std::numeric_limits<float>::quiet_NaN(), 3.4e38f}) {
      Rows given(9, 40, 1);
      given.x[45] = odd;
      for (const float y : Page(kernels(f), given).decoded.x) ASSERT_TRUE(std::isfinite(y)) << odd;
    }
}

TEST_P(BitsPages, CodingADecodedPageAgainChangesNothing) {
  for (const Format& f : kFormats)
    for (const int dim : {8, 64, 80})
      for (uint64_t seed = 1; seed < 12; ++seed) {
        Rows given(32, dim, seed, std::exp2(static_cast<float>(seed) - 7));
        for (float& x : given.x) x = half_to_float(float_to_half(x));  // as open pages hold them
        const Page once(kernels(f), given), twice(kernels(f), once.decoded);
        ASSERT_EQ(once.decoded.x, twice.decoded.x)
            << f.bits << " bits, group " << f.group << " dim " << dim << " seed " << seed;
      }
}

TEST_P(BitsPages, EveryTableWritesTheSameBytes) {
  const KernelTable& scalar = kernels_named("scalar");
  for (const Format& f : kFormats)
    for (const int dim : {3, 40, 64, 128}) {
      const Rows given(25, dim, 3);
      Page mine(kernels(f), given);
      Page defined(scalar.page[static_cast<int>(f.quant)], given);
      ASSERT_TRUE(std::ranges::equal(mine.bytes.span(), defined.bytes.span()))
          << f.bits << " bits, group " << f.group << ", dim " << dim;
    }
}

TEST_P(BitsPages, APageIsReadFromAnyRowAndCodedWithAnyStride) {
  for (const Format& f : kFormats) {
    const int rows = 37, dim = 40, stride = dim + 5;
    const auto x = normal_numbers(static_cast<size_t>(rows * stride), 3);
    Rows packed(rows, dim, 1);
    for (int r = 0; r < rows; ++r)
      std::copy_n(x.begin() + r * stride, dim, packed.x.begin() + r * dim);
    const Page page(kernels(f), packed);
    std::vector<std::byte> strided(kernels(f).bytes(rows, dim));
    kernels(f).encode(x.data(), stride, rows, dim, strided.data(), 0);
    std::vector<float> some(static_cast<size_t>(9 * dim));
    kernels(f).decode(strided.data(), 13, 9, dim, some.data());
    EXPECT_TRUE(std::equal(some.begin(), some.end(), page.decoded.x.begin() + 13 * dim));
  }
}

TEST_P(BitsPages, ScoresAreThoseOfTheDecodedPageWithinTheQuerysRounding) {
  for (const Format& f : kFormats) {
    if (!f.keys) continue;
    for (const int dim : {1, 8, 24, 64, 67, 128, 300})
      for (const int heads : {1, 2, 3, 4, 5, 8})
        for (const int rows : {1, 16, 31, 64}) {
          if (dim > 8 && heads != dim / 8 % 5 + 1) continue;
          SCOPED_TRACE(::testing::Message()
                       << f.bits << " bits, dim " << dim << " heads " << heads << " rows " << rows);
          const Rows given(rows, dim, 5);
          const auto q = normal_numbers(static_cast<size_t>(heads * dim), 6);
          Page page(kernels(f), given);
          const int stride = rows + 3;
          std::vector<float> out(static_cast<size_t>(heads * stride), 77);
          kernels(f).score(page.bytes.data(), rows, dim, prepared(f, q, heads, dim).data(), heads,
                           out.data(), stride);
          for (int r = 0; r < rows; ++r) {
            std::vector<Reach> reach;
            for (int d = 0; d < dim; ++d) reach.emplace_back(f, given, r, d);
            for (int h = 0; h < heads; ++h) {
              double dot = 0, size = 0, largest = 0, steps = 0;
              for (int d = 0; d < dim; ++d) {
                const double y = q[static_cast<size_t>(h * dim + d)];
                const Reach& at = reach[static_cast<size_t>(d)];
                dot += y * page.decoded.at(r, d);
                size += std::abs(y) * (at.least + at.step * f.levels());
                // Rounded are products with the step of a column, or queries alone.
                largest = std::max(largest, std::abs(y) * (f.group == 0 ? at.step : 1));
                steps += f.group == 0 ? 1 : at.step;
              }
              ASSERT_NEAR(out[static_cast<size_t>(h * stride + r)], dot,
                          largest / 65534 * f.levels() * steps + 1e-6 * size)
                  << "head " << h << " row " << r;
            }
          }
          for (int h = 0; h < heads; ++h)
            for (int r = rows; r < stride; ++r)
              ASSERT_EQ(out[static_cast<size_t>(h * stride + r)], 77) << "behind the rows";
        }
  }
}

TEST_P(BitsPages, SumsAreThoseOfTheDecodedPageWithinTheWeightsRounding) {
  for (const Format& f : kFormats) {
    if (f.keys) continue;
    for (const int dim : {1, 8, 24, 64, 67, 128, 300})
      for (const int heads : {1, 2, 3, 4, 5, 8})
        for (const int rows : {1, 16, 31, 64, 100}) {
          if (dim > 8 && heads != dim / 8 % 5 + 1) continue;
          SCOPED_TRACE(::testing::Message() << f.bits << " bits, group " << f.group << ", dim "
                                            << dim << " heads " << heads << " rows " << rows);
          const Rows given(rows, dim, 5);
          Page page(kernels(f), given);
          const int stride = rows + 2;
          const auto p = normal_numbers(static_cast<size_t>(heads * stride), 8);
          const auto start = normal_numbers(static_cast<size_t>(heads * dim + 16), 9);
          std::vector<float> acc = start;
          kernels(f).accumulate(page.bytes.data(), rows, dim, p.data(), stride, heads, acc.data());
          for (int d = 0; d < dim; ++d) {
            std::vector<Reach> reach;
            for (int r = 0; r < rows; ++r) reach.emplace_back(f, given, r, d);
            for (int h = 0; h < heads; ++h) {
              const auto at = static_cast<size_t>(h * dim + d);
              double sum = start[at], size = std::abs(start[at]), largest = 0;
              for (int r = 0; r < rows; ++r) {
                const double w = p[static_cast<size_t>(h * stride + r)];
                const Reach& one = reach[static_cast<size_t>(r)];
                sum += w * page.decoded.at(r, d);
                size += std::abs(w) * (one.least + one.step * f.levels());
                largest = std::max(largest, std::abs(w) * one.step);
              }
              ASSERT_NEAR(acc[at], sum, rows * largest / 65534 * f.levels() + 1e-6 * size)
                  << "head " << h << " column " << d;
            }
          }
          for (size_t i = static_cast<size_t>(heads * dim); i < acc.size(); ++i)
            ASSERT_EQ(acc[i], start[i]) << "behind the heads";
        }
  }
}

TEST_P(BitsPages, AHeadAloneGivesTheSameBitsAsAmongOthersAndWeightsOfNothingAddNothing) {
  const int dim = 72, heads = 7, rows = 29;
  const auto q = normal_numbers(static_cast<size_t>(heads * dim), 2);
  const auto p = normal_numbers(static_cast<size_t>(heads * rows), 3);
  for (const Format& f : kFormats) {
    Page page(kernels(f), Rows(rows, dim, 1));
    if (f.keys) {
      std::vector<float> scores(static_cast<size_t>(heads * rows)), one(rows);
      kernels(f).score(page.bytes.data(), rows, dim, prepared(f, q, heads, dim).data(), heads,
                       scores.data(), rows);
      for (int h = 0; h < heads; ++h) {
        const std::vector<float> query(q.begin() + h * dim, q.begin() + (h + 1) * dim);
        kernels(f).score(page.bytes.data(), rows, dim, prepared(f, query, 1, dim).data(), 1,
                         one.data(), rows);
        EXPECT_TRUE(std::equal(one.begin(), one.end(), scores.begin() + h * rows)) << f.bits;
      }
      continue;
    }
    std::vector<float> sums(static_cast<size_t>(heads * dim));
    kernels(f).accumulate(page.bytes.data(), rows, dim, p.data(), rows, heads, sums.data());
    for (int h = 0; h < heads; ++h) {
      std::vector<float> one(static_cast<size_t>(dim));
      kernels(f).accumulate(page.bytes.data(), rows, dim, p.data() + h * rows, rows, 1, one.data());
      EXPECT_TRUE(std::equal(one.begin(), one.end(), sums.begin() + h * dim)) << f.bits;
    }
    const std::vector<float> nothing(static_cast<size_t>(heads * rows));
    const std::vector<float> before = sums;
    kernels(f).accumulate(page.bytes.data(), rows, dim, nothing.data(), rows, heads, sums.data());
    EXPECT_EQ(sums, before) << f.bits;
  }
}

TEST_P(BitsPages, TakeTheBytesThatTheFormatPromises) {
  for (const Format& f : kFormats) {
    const int rows = 64, dim = 128, shared = f.group == 0 ? dim : rows * dim / f.group;
    EXPECT_EQ(kernels(f).bytes(rows, dim),
              static_cast<size_t>(rows * dim * f.bits / 8 + 4 * shared))
        << f.bits << " bits, group " << f.group;
  }
}

INSTANTIATE_TEST_SUITE_P(Tables, BitsPages, ::testing::ValuesIn(test::tables_here()),
                         test::name_of_table);

}  // namespace
}  // namespace pith

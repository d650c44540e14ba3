// Products of weights with coded activations. The oracle codes activations, and weights of 16 bits,
// by the rules of docs/numerics.md and sums in double precision.
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
#include "tensor/codec.h"

namespace pith {
namespace {

using test::Guarded;
using test::random_weights;
using test::uniform_floats;

constexpr DType kCoded[] = {DType::q8_0,   DType::q4_0,   DType::q4_1, DType::q5_0, DType::q5_1,
                            DType::q2_k,   DType::q3_k,   DType::q4_k, DType::q5_k, DType::q6_k,
                            DType::iq4_nl, DType::iq4_xs, DType::f16,  DType::bf16};

bool is_half(DType dtype) {
  return dtype == DType::f16 || dtype == DType::bf16;
}

using Codes = test::OnATable;

struct Case {
  DType dtype;
  int64_t cols, rows, m, x_stride;
  std::vector<std::byte> weights;  // one byte of nothing, then the rows
  std::vector<float> x;            // one float of nothing, then the rows

  Case(DType dtype, int64_t cols, int64_t rows, int64_t m, Random& random)
      : dtype(dtype), cols(cols), rows(rows), m(m), x_stride(cols + 3) {
    set_weights(random_weights(dtype, rows, cols, random));
    x = uniform_floats(static_cast<size_t>(1 + m * x_stride), -1, 1, random);
  }
  void set_weights(std::vector<std::byte> w) {
    weights = std::move(w);
    weights.insert(weights.begin(), std::byte{});
  }
  const std::byte* w() const { return weights.data() + 1; }
  const float* row(int64_t i) const { return x.data() + 1 + i * x_stride; }
  float* row(int64_t i) { return x.data() + 1 + i * x_stride; }

  // Activation rows [i, i + count) times weight rows [r, r + row_count): [count, rows].
  std::vector<float> run(const KernelTable& table, int64_t i, int64_t count, int64_t r,
                         int64_t row_count) const {
    constexpr float kUntouched = -77;
    Guarded<std::byte> coded(table.coded_bytes(dtype, count, cols));
    table.code_activations(dtype, row(i), x_stride, count, cols, coded.data());
    EXPECT_TRUE(coded.guards_stand()) << "written outside the codes";
    Guarded<float> out(static_cast<size_t>(count * rows), kUntouched);
    Guarded<float> scratch(table.coded_scratch(), NAN);
    table.matmul_coded(
        {dtype, w(), cols, r, row_count, coded.data(), count, out.data(), rows, scratch.data()});
    EXPECT_TRUE(out.guards_stand()) << "written outside the results";
    EXPECT_TRUE(scratch.guards_stand()) << "written outside the scratch memory";
    for (int64_t a = 0; a < count; ++a)
      for (int64_t b = 0; b < rows; ++b) {
        const bool asked = b >= r && b < r + row_count;
        EXPECT_EQ(out.span()[static_cast<size_t>(a * rows + b)] == kUntouched, !asked)
            << "result " << a << ", " << b;
      }
    return {out.span().begin(), out.span().end()};
  }
  std::vector<float> run(const KernelTable& table) const { return run(table, 0, m, 0, rows); }

  std::vector<float> decoded(int64_t r) const {
    std::vector<float> values(static_cast<size_t>(cols));
    decode_row(dtype, w() + static_cast<size_t>(r) * row_bytes(dtype, cols), cols, values.data());
    return values;
  }
};

// What the codes of a row stand for, and the scale of each block of 32.
struct CodedRow {
  std::vector<double> value;
  std::vector<double> scale;

  CodedRow(const float* x, int64_t cols, float codes) {
    for (int64_t b = 0; b < cols; b += 32) {
      float most = 0;
      for (int64_t k = b; k < b + 32; ++k) most = std::max(most, std::fabs(x[k]));
      const float unit = std::max(most / codes, std::numeric_limits<float>::min());
      const float inverse = 1.0f / unit;
      scale.push_back(unit);
      for (int64_t k = b; k < b + 32; ++k)
        value.push_back(static_cast<double>(std::nearbyint(x[k] * inverse)) * unit);
    }
  }
};

// What the codes of weights stand for, and the scale of each block of 32; weights in blocks are
// met as they are.
struct MetWeights {
  std::vector<double> value;
  std::vector<double> scale;

  MetWeights(DType dtype, const std::vector<float>& w)
      : value(w.begin(), w.end()), scale(w.size() / 32) {
    if (!is_half(dtype)) return;
    for (size_t b = 0; b < w.size(); b += 32) {
      float most = 0x1p-110f;
      for (size_t k = b; k < b + 32; ++k) most = std::max(most, std::fabs(w[k]));
      const float inverse = 8191.0f / most, unit = most * (1.0f / 8191.0f);
      scale[b / 32] = unit;
      for (size_t k = b; k < b + 32; ++k)
        value[k] = std::nearbyint(double{w[k]} * double{inverse}) * unit;
    }
  }
};

// Sums of integers are exact, so what is left are the roundings of one scale and one addition per
// block (two with a minimum). A block's part of the scale and that of the minimum may each be some
// times larger than their sum.
void expect_products(const Case& c, const std::vector<float>& out) {
  std::vector<CodedRow> coded;
  for (int64_t i = 0; i < c.m; ++i)
    coded.emplace_back(c.row(i), c.cols, is_half(c.dtype) ? 8191.0f : 127.0f);
  for (int64_t r = 0; r < c.rows; ++r) {
    const std::vector<float> w = c.decoded(r);
    const MetWeights met(c.dtype, w);
    for (int64_t i = 0; i < c.m; ++i) {
      const CodedRow& x = coded[static_cast<size_t>(i)];
      double sum = 0, size = 0, off = 0, exact = 0;
      for (size_t b = 0; b < w.size(); b += 32) {
        double largest = 0;
        for (size_t k = b; k < b + 32; ++k) largest = std::max(largest, double{std::fabs(w[k])});
        for (size_t k = b; k < b + 32; ++k) {
          sum += x.value[k] * met.value[k];
          exact += double{c.row(i)[k]} * double{w[k]};
          size += std::fabs(x.value[k]) * 6 * largest;
          off += 0.5 * x.scale[b / 32] * std::fabs(w[k]);
          off += 0.5 * met.scale[b / 32] * std::fabs(x.value[k]);
        }
      }
      const double rounding = (static_cast<double>(w.size()) / 32 + 4) * 0x1p-24 * size + 1e-37;
      const double got = out[static_cast<size_t>(i * c.rows + r)];
      ASSERT_NEAR(got, sum, rounding) << "activation row " << i << ", weight row " << r;
      ASSERT_NEAR(got, exact, 1.00001 * off + rounding)
          << "activation row " << i << ", weight row " << r;
    }
  }
}

std::vector<int64_t> widths(DType dtype) {
  if (traits(dtype).block_elements <= 32) return {32, 96, 512, 544, 1056};
  return {256, 768, 1280};
}

TEST_P(Codes, GiveTheSumsOfTheRuleForEveryFormatAndOddShapes) {
  Random random(1);
  const int64_t rows[] = {1, 2, 5, 8, 9, 15, 16, 17, 31, 33, 37};
  const int64_t batches[] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  for (const DType dtype : kCoded)
    for (const int64_t cols : widths(dtype))
      for (const int64_t row_count : rows) {
        const int64_t m = batches[random.below(std::size(batches))];
        SCOPED_TRACE(::testing::Message() << traits(dtype).name << " cols " << cols << " rows "
                                          << row_count << " m " << m);
        const Case c(dtype, cols, row_count, m, random);
        expect_products(c, c.run(table()));
        if (HasFailure()) return;
      }
}

TEST_P(Codes, LargeBatchesGiveTheSumsToo) {
  Random random(2);
  for (const DType dtype : {DType::q8_0, DType::q4_k, DType::q6_k}) {
    SCOPED_TRACE(::testing::Message() << traits(dtype).name);
    const Case c(dtype, 1280, 21, 70, random);
    expect_products(c, c.run(table()));
  }
}

TEST_P(Codes, TakeSubnormalHugeAndZeroActivations) {
  Random random(3);
  for (const DType dtype : kCoded) {
    SCOPED_TRACE(::testing::Message() << traits(dtype).name);
    Case c(dtype, 512, 9, 5, random);
    const float sizes[] = {0.0f, 0x1p-149f, 0x1p-130f, 0x1p-120f, 0x1p100f};
    for (int64_t i = 0; i < c.m; ++i)
      for (int64_t k = 0; k < c.cols; ++k) {
        const float size = sizes[static_cast<size_t>(i)];
        c.row(i)[k] = k / 32 % 3 == 1 ? 0.0f : size * std::round(4 * c.row(i)[k]);
      }
    expect_products(c, c.run(table()));
    if (HasFailure()) return;
  }
}

TEST_P(Codes, TheLargestCodesDoNotOverflow) {
  Random random(4);
  for (const DType dtype : kCoded) {
    if (is_half(dtype)) continue;  // below
    for (const auto code : {std::byte{0}, std::byte{0x7f}, std::byte{0x80}, std::byte{0xff}})
      for (const float sign : {1.0f, -1.0f}) {
        SCOPED_TRACE(::testing::Message() << traits(dtype).name << " code "
                                          << static_cast<int>(code) << " sign " << sign);
        Case c(dtype, 512, 9, 3, random);
        c.set_weights(test::uniform_weights(dtype, c.rows, c.cols, code));
        std::fill(c.x.begin(), c.x.end(), sign);
        expect_products(c, c.run(table()));
        if (HasFailure()) return;
      }
  }
}

void set_weight(Case& c, int64_t row, int64_t column, float value) {
  encode_row(c.dtype, &value, 1,
             c.weights.data() + 1 + static_cast<size_t>(2 * (row * c.cols + column)));
}

TEST_P(Codes, TheLargestHalvesDoNotOverflow) {
  Random random(4);
  for (const DType dtype : {DType::f16, DType::bf16})
    for (const float size : {65504.0f, -65504.0f, 0.0f, 6e-8f}) {
      Case c(dtype, 512, 9, 3, random);
      for (int64_t r = 0; r < c.rows; ++r)
        for (int64_t k = 0; k < c.cols; ++k) set_weight(c, r, k, size);
      std::fill(c.x.begin(), c.x.end(), 1.0f);
      expect_products(c, c.run(table()));
      if (HasFailure()) return;
    }
}

TEST_P(Codes, AHalfThatIsNotFiniteIsSeenInItsRowOnly) {
  Random random(8);
  for (const DType dtype : {DType::f16, DType::bf16})
    for (const float odd :
         {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()})
      for (const int64_t column : {0, 1, 33, 511}) {
        Case c(dtype, 512, 19, 5, random);
        const std::vector<float> before = c.run(table());
        set_weight(c, 7, column, odd);
        const std::vector<float> after = c.run(table());
        for (size_t i = 0; i < after.size(); ++i)
          if (i % 19 == 7)
            EXPECT_TRUE(std::isnan(after[i])) << traits(dtype).name << " " << i;
          else
            EXPECT_EQ(after[i], before[i]) << traits(dtype).name << " " << i;
      }
}

bool same_bits(float a, float b) {
  return std::memcmp(&a, &b, sizeof a) == 0;
}

TEST_P(Codes, AResultHasTheSameBitsWhateverElseIsInTheCall) {
  Random random(5);
  for (const DType dtype : kCoded) {
    const int64_t rows = 37, m = 70;
    const Case c(dtype, 1280, rows, m, random);
    const std::vector<float> whole = c.run(table());
    const auto same = [&](int64_t i, int64_t count, int64_t r, int64_t row_count) {
      const std::vector<float> part = c.run(table(), i, count, r, row_count);
      for (int64_t a = 0; a < count; ++a)
        for (int64_t b = r; b < r + row_count; ++b)
          if (!same_bits(part[static_cast<size_t>(a * rows + b)],
                         whole[static_cast<size_t>((i + a) * rows + b)]))
            return false;
      return true;
    };
    for (int64_t count = 1; count <= 40; count += count < 10 ? 1 : 6)
      for (const int64_t i : {int64_t{0}, m - count})
        EXPECT_TRUE(same(i, count, 0, rows))
            << traits(dtype).name << ": " << count << " rows of activations from " << i;
    for (const auto& [r, row_count] : {std::pair{0, 1}, {5, 6}, {30, 7}, {36, 1}, {3, 33}})
      EXPECT_TRUE(same(2, 5, r, row_count))
          << traits(dtype).name << ": weight rows " << r << " to " << r + row_count;
  }
}

TEST_P(Codes, HaveTheBitsOfTheScalarTable) {
  const KernelTable& scalar = kernels_named("scalar");
  Random random(6);
  for (const DType dtype : kCoded) {
    Case c(dtype, 1280, 19, 7, random);
    for (int64_t k = 0; k < c.cols; ++k) {
      c.row(1)[k] *= 0x1p-128f;
      c.row(2)[k] = std::exp(20 * c.row(2)[k]);
      c.row(3)[k] = k % 7 == 0 ? c.row(3)[k] : 0;
    }
    const std::vector<float> a = c.run(table()), b = c.run(scalar);
    for (size_t i = 0; i < a.size(); ++i)
      ASSERT_TRUE(same_bits(a[i], b[i]))
          << traits(dtype).name << " number " << i << ": " << a[i] << " and " << b[i];
  }
}

TEST_P(Codes, WhatIsNotFiniteStaysInItsRowAndIsSeen) {
  Random random(7);
  for (const DType dtype : {DType::q8_0, DType::q4_1, DType::q6_k})
    for (const float odd :
         {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
          std::numeric_limits<float>::quiet_NaN()}) {
      Case c(dtype, 512, 17, 6, random);
      const std::vector<float> before = c.run(table());
      c.row(2)[511] = odd;
      c.row(5)[0] = odd;
      const std::vector<float> after = c.run(table());
      for (size_t i = 0; i < after.size(); ++i) {
        const size_t row = i / 17;
        if (row == 2 || row == 5)
          EXPECT_TRUE(std::isnan(after[i])) << traits(dtype).name << " " << i;
        else
          EXPECT_EQ(after[i], before[i]) << traits(dtype).name << " " << i;
      }
    }
}

TEST_P(Codes, EmptyMatricesGiveZerosOrNothing) {
  std::vector<float> out(6, 5), scratch(table().coded_scratch());
  const std::byte none{};
  table().matmul_coded({DType::q4_0, &none, 0, 1, 2, &none, 2, out.data(), 3, scratch.data()});
  EXPECT_EQ(out, (std::vector<float>{5, 0, 0, 5, 0, 0}));
  table().matmul_coded({DType::q4_0, &none, 32, 0, 0, &none, 2, out.data(), 3, scratch.data()});
  table().matmul_coded({DType::q4_0, &none, 32, 0, 1, &none, 0, out.data(), 3, scratch.data()});
  EXPECT_EQ(out, (std::vector<float>{5, 0, 0, 5, 0, 0}));
}

INSTANTIATE_TEST_SUITE_P(Tables, Codes, ::testing::ValuesIn(test::tables_here()),
                         test::name_of_table);

}  // namespace
}  // namespace pith

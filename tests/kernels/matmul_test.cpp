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
#include "tensor/half.h"

namespace pith {
namespace {

using test::Guarded;
using test::kDTypes;
using test::random_weights;
using test::uniform_floats;

using Matmul = test::OnATable;

// A matrix whose rows start at an odd address, activations, and a matrix of results that is wider
// than the rows asked for.
struct Case {
  DType dtype;
  int64_t cols, rows, m, x_stride;
  std::vector<std::byte> weights;  // one byte of nothing, then the rows
  std::vector<float> x;            // one float of nothing, then the rows

  Case(DType dtype, int64_t cols, int64_t rows, int64_t m, Random& random)
      : dtype(dtype), cols(cols), rows(rows), m(m), x_stride(cols + 3) {
    weights = random_weights(dtype, rows, cols, random);
    weights.insert(weights.begin(), std::byte{});
    x = uniform_floats(static_cast<size_t>(1 + m * x_stride), -1, 1, random);
  }
  const std::byte* w() const { return weights.data() + 1; }
  const float* row(int64_t i) const { return x.data() + 1 + i * x_stride; }

  // Activation rows [i, i + count) times weight rows [r, r + row_count): [count, rows].
  std::vector<float> run(const KernelTable& table, int64_t i, int64_t count, int64_t r,
                         int64_t row_count) const {
    constexpr float kUntouched = -77;
    Guarded<float> out(static_cast<size_t>(count * rows), kUntouched);
    Guarded<float> scratch(table.matmul_scratch(cols), NAN);
    table.matmul({dtype, w(), cols, r, row_count, row(i), x_stride, count, out.data(), rows,
                  scratch.data()});
    EXPECT_TRUE(out.guards_stand()) << "written outside the results";
    for (int64_t a = 0; a < count; ++a)
      for (int64_t b = 0; b < rows; ++b) {
        const bool asked = b >= r && b < r + row_count;
        EXPECT_EQ(out.span()[static_cast<size_t>(a * rows + b)] == kUntouched, !asked)
            << "result " << a << ", " << b;
      }
    return {out.span().begin(), out.span().end()};
  }
  std::vector<float> run(const KernelTable& table) const { return run(table, 0, m, 0, rows); }
};

// Exact products, and the bound that holds for float sums in any order with blocks of 512 columns.
void expect_products(const Case& c, const std::vector<float>& out) {
  std::vector<float> decoded(static_cast<size_t>(c.cols));
  for (int64_t r = 0; r < c.rows; ++r) {
    decode_row(c.dtype, c.w() + static_cast<size_t>(r) * row_bytes(c.dtype, c.cols), c.cols,
               decoded.data());
    for (int64_t i = 0; i < c.m; ++i) {
      double sum = 0, size = 0;
      for (int64_t k = 0; k < c.cols; ++k) {
        const double product = double{decoded[static_cast<size_t>(k)]} * double{c.row(i)[k]};
        sum += product;
        size += std::fabs(product);
      }
      ASSERT_NEAR(out[static_cast<size_t>(i * c.rows + r)], sum, 4e-6 * size + 1e-30)
          << "activation row " << i << ", weight row " << r;
    }
  }
}

std::vector<int64_t> widths(DType dtype) {
  switch (traits(dtype).block_elements) {
    case 1:
      return {1, 7, 8, 15, 33, 100, 513, 1030};
    case 32:
      return {32, 96, 512, 544, 1056};
    default:
      return {256, 768, 1280};
  }
}

TEST_P(Matmul, EqualsTheSumsOfDecodedRowsForEveryFormatAndOddShapes) {
  Random random(1);
  const int64_t rows[] = {1, 2, 3, 4, 5, 7, 31, 33, 37}, batches[] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  for (const DType dtype : kDTypes)
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

TEST_P(Matmul, LargeBatchesEqualTheSumsToo) {
  Random random(2);
  for (const DType dtype : {DType::f32, DType::q8_0, DType::q4_k})
    for (const int64_t m : {64, 260}) {
      SCOPED_TRACE(::testing::Message() << traits(dtype).name << " m " << m);
      const Case c(dtype, dtype == DType::f32 ? 1030 : 1280, 37, m, random);
      expect_products(c, c.run(table()));
    }
}

TEST_P(Matmul, AResultHasTheSameBitsWhateverElseIsInTheCall) {
  Random random(3);
  for (const DType dtype : kDTypes) {
    const int64_t cols = traits(dtype).block_elements == 1 ? 1037 : 1280, rows = 37, m = 64;
    const Case c(dtype, cols, rows, m, random);
    const std::vector<float> whole = c.run(table());
    const auto same = [&](const std::vector<float>& part, int64_t i, int64_t count, int64_t r,
                          int64_t row_count) {
      for (int64_t a = 0; a < count; ++a)
        for (int64_t b = r; b < r + row_count; ++b)
          if (std::memcmp(&part[static_cast<size_t>(a * rows + b)],
                          &whole[static_cast<size_t>((i + a) * rows + b)], sizeof(float)) != 0)
            return false;
      return true;
    };
    for (const int64_t count : {1, 2, 3, 4, 5, 8, 9, 13})
      for (const int64_t i : {int64_t{0}, int64_t{17}, m - count})
        EXPECT_TRUE(same(c.run(table(), i, count, 0, rows), i, count, 0, rows))
            << traits(dtype).name << ": " << count << " rows of activations from " << i;
    for (const int64_t count : {int64_t{1}, int64_t{4}, m})
      for (const auto& [r, row_count] : {std::pair{0, 1}, {5, 6}, {30, 7}, {36, 1}, {3, 33}})
        EXPECT_TRUE(same(c.run(table(), 0, count, r, row_count), 0, count, r, row_count))
            << traits(dtype).name << ": weight rows " << r << " to " << r + row_count;
  }
}

TEST_P(Matmul, AgreesWithTheScalarTable) {
  const KernelTable& scalar = kernels_named("scalar");
  Random random(4);
  for (const DType dtype : kDTypes) {
    const Case c(dtype, traits(dtype).block_elements == 1 ? 531 : 768, 13, 6, random);
    const std::vector<float> a = c.run(table()), b = c.run(scalar);
    for (size_t i = 0; i < a.size(); ++i)
      ASSERT_NEAR(a[i], b[i], 3e-5) << traits(dtype).name << " number " << i;
  }
}

TEST_P(Matmul, NothingIsFlushedToZero) {
  // 2^-140 is a subnormal float, 2^-20 a subnormal half.
  for (const int64_t m : {1, 7}) {
    const std::vector<float> w(64, 0x1p-140f), x(static_cast<size_t>(m) * 64, 0.5f);
    std::vector<float> out(static_cast<size_t>(m)), scratch(table().matmul_scratch(64));
    table().matmul({DType::f32, reinterpret_cast<const std::byte*>(w.data()), 64, 0, 1, x.data(),
                    64, m, out.data(), 1, scratch.data()});
    for (const float y : out) EXPECT_EQ(y, 0x1p-135f);
    std::vector<uint16_t> half(64, float_to_half(0x1p-20f));
    table().matmul({DType::f16, reinterpret_cast<const std::byte*>(half.data()), 64, 0, 1, x.data(),
                    64, m, out.data(), 1, scratch.data()});
    for (const float y : out) EXPECT_EQ(y, 0x1p-15f);
  }
}

TEST_P(Matmul, InfinityStaysInTheRowItCameFrom) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (const int64_t m : {3, 9}) {
    const std::vector<float> w(5 * 40, 1.0f);
    std::vector<float> x(static_cast<size_t>(m) * 40, 1.0f);
    x[40 + 39] = kInf;  // the last number of the second row
    x[2 * 40] = -kInf;
    std::vector<float> out(static_cast<size_t>(m) * 5), scratch(table().matmul_scratch(40));
    table().matmul({DType::f32, reinterpret_cast<const std::byte*>(w.data()), 40, 0, 5, x.data(),
                    40, m, out.data(), 5, scratch.data()});
    for (size_t i = 0; i < out.size(); ++i)
      EXPECT_EQ(out[i], i / 5 == 1 ? kInf : i / 5 == 2 ? -kInf : 40.0f) << i;
  }
}

TEST_P(Matmul, EmptyMatricesGiveZerosOrNothing) {
  const std::vector<float> x(8, 1);
  std::vector<float> out(6, 5), scratch(table().matmul_scratch(0) + 1);
  const std::byte none{};
  table().matmul({DType::f32, &none, 0, 1, 2, x.data(), 0, 2, out.data(), 3, scratch.data()});
  EXPECT_EQ(out, (std::vector<float>{5, 0, 0, 5, 0, 0}));
  table().matmul({DType::f32, &none, 4, 0, 0, x.data(), 4, 2, out.data(), 3, scratch.data()});
  table().matmul({DType::f32, &none, 4, 0, 1, x.data(), 4, 0, out.data(), 3, scratch.data()});
  EXPECT_EQ(out, (std::vector<float>{5, 0, 0, 5, 0, 0}));
}

class Dequantise : public Matmul {};

TEST_P(Dequantise, GivesTheNumbersOfTheDefinition) {
  Random random(5);
  for (const DType dtype : kDTypes)
    for (const int64_t blocks : {1, 2, 3, 5, 37}) {
      const int64_t n = blocks * traits(dtype).block_elements;
      std::vector<std::byte> w = random_weights(dtype, 1, n, random);
      w.insert(w.begin(), std::byte{});
      std::vector<float> expected(static_cast<size_t>(n));
      decode_row(dtype, w.data() + 1, n, expected.data());
      Guarded<float> out(static_cast<size_t>(n));
      table().dequantise(dtype, w.data() + 1, n, out.data());
      ASSERT_TRUE(out.guards_stand()) << traits(dtype).name;
      for (size_t i = 0; i < expected.size(); ++i)
        ASSERT_EQ(out.span()[i], expected[i]) << traits(dtype).name << " number " << i;
    }
}

TEST_P(Dequantise, TakesAnyBitPattern) {
  Random random(6);
  for (const DType dtype : kDTypes)
    for (int round = 0; round < 200; ++round) {
      const int64_t n = 3 * traits(dtype).block_elements;
      std::vector<std::byte> w(row_bytes(dtype, n));
      for (std::byte& b : w) b = static_cast<std::byte>(random.next());
      std::vector<float> expected(static_cast<size_t>(n)), out(expected);
      decode_row(dtype, w.data(), n, expected.data());
      table().dequantise(dtype, w.data(), n, out.data());
      for (size_t i = 0; i < out.size(); ++i)
        ASSERT_TRUE(out[i] == expected[i] || (std::isnan(out[i]) && std::isnan(expected[i])))
            << traits(dtype).name << ": " << out[i] << " is not " << expected[i];
    }
}

TEST_P(Dequantise, EveryHalfIsReadExactly) {
  for (uint32_t bits = 0; bits < 0x10000; bits += 16) {
    uint16_t half[16];
    float f16[16], bf16[16];
    for (uint32_t i = 0; i < 16; ++i) half[i] = static_cast<uint16_t>(bits + i);
    table().dequantise(DType::f16, reinterpret_cast<const std::byte*>(half), 16, f16);
    table().dequantise(DType::bf16, reinterpret_cast<const std::byte*>(half), 16, bf16);
    for (int i = 0; i < 16; ++i) {
      const float a = half_to_float(half[i]), b = bf16_to_float(half[i]);
      if (std::isnan(a)) {
        ASSERT_TRUE(std::isnan(f16[i])) << half[i];
      } else {
        ASSERT_EQ(std::memcmp(&a, &f16[i], 4), 0) << half[i];
      }
      if (!std::isnan(b)) {
        ASSERT_EQ(std::memcmp(&b, &bf16[i], 4), 0) << half[i];
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Tables, Matmul, ::testing::ValuesIn(test::tables_here()),
                         test::name_of_table);
INSTANTIATE_TEST_SUITE_P(Tables, Dequantise, ::testing::ValuesIn(test::tables_here()),
                         test::name_of_table);

}  // namespace
}  // namespace pith

#include <algorithm>
#include <cmath>
#include <cstring>
#include <gtest/gtest.h>
#include <string>
#include <vector>

#include "kernels/table.h"
#include "support/attention_oracle.h"
#include "support/kernel_tables.h"
#include "tensor/half.h"

namespace pith {
namespace {

using test::normal_numbers;

constexpr std::byte kGuardByte{0xa5};
constexpr size_t kGuards = 64;

struct Format {
  const char* name;
  Quant quant;
  size_t bytes;            // of a number
  float (*stored)(float);  // what a number becomes
};
// The number nearest to x that a sign, `mantissa` bits and 7 less of them as exponent can be, ties
// to the even code.
template <int Mantissa, int Codes>
float nearest_of(float x) {
  static const std::vector<double> sizes = [] {
    std::vector<double> all;  // ascending
    for (int code = 0; code < Codes; ++code) {
      const int exponent = code >> Mantissa, fraction = code & ((1 << Mantissa) - 1);
      const int power = std::max(exponent, 1) - (Mantissa == 3 ? 7 : 15) - Mantissa;
      all.push_back(std::ldexp(fraction + (exponent > 0 ? 1 << Mantissa : 0), power));
    }
    return all;
  }();
  const double size = std::abs(static_cast<double>(x));
  const auto above = std::ranges::lower_bound(sizes, size);
  if (above == sizes.end()) return std::copysign(static_cast<float>(sizes.back()), x);
  size_t code = static_cast<size_t>(above - sizes.begin());
  if (code > 0) {
    const double up = sizes[code] - size, down = size - sizes[code - 1];
    if (down < up || (down == up && code % 2 == 1)) --code;
  }
  return std::copysign(static_cast<float>(sizes[code]), x);
}

constexpr Format kFormats[] = {
    {"f32", Quant::f32, 4, [](float x) { return x; }},
    {"f16", Quant::f16, 2, [](float x) { return half_to_float(float_to_half(x)); }},
    {"bf16", Quant::bf16, 2, [](float x) { return bf16_to_float(float_to_bf16(x)); }},
    {"e4m3", Quant::fp8_e4m3, 1, nearest_of<3, 0x7f>},
    {"e5m2", Quant::fp8_e5m2, 1, nearest_of<2, 0x7c>},
};

class Pages : public test::OnATable {
 protected:
  using OnATable::page;
  const PageKernels& page(const Format& f) const { return page(f.quant); }
};

// A page with guard bytes behind it.
struct GuardedPage {
  std::vector<std::byte> bytes;
  GuardedPage(const PageKernels& kernels, int rows, int dim)
      : bytes(kernels.bytes(rows, dim) + kGuards, kGuardByte) {}
  std::byte* data() { return bytes.data(); }
  bool guards_stand() const {
    return std::all_of(bytes.end() - kGuards, bytes.end(),
                       [](std::byte b) { return b == kGuardByte; });
  }
};

TEST_P(Pages, RowsComeBackAsStoredForEveryDimAndCount) {
  for (const Format& f : kFormats)
    for (int dim = 8; dim <= 256; dim += 8)
      for (const int rows : {1, 2, 15, 32}) {
        SCOPED_TRACE(::testing::Message() << f.name << " dim " << dim << " rows " << rows);
        const size_t n = static_cast<size_t>(rows) * static_cast<size_t>(dim);
        const std::vector<float> x = normal_numbers(n, static_cast<uint64_t>(dim), 3);
        GuardedPage page(this->page(f), rows, dim);
        ASSERT_EQ(page.bytes.size() - kGuards, n * f.bytes);
        this->page(f).encode(x.data(), dim, rows, dim, page.data(), 0);
        ASSERT_TRUE(page.guards_stand());
        std::vector<float> back(n + 16, 7);
        this->page(f).decode(page.data(), 0, rows, dim, back.data());
        for (size_t i = 0; i < n; ++i) ASSERT_EQ(back[i], f.stored(x[i])) << "number " << i;
        for (size_t i = n; i < back.size(); ++i) ASSERT_EQ(back[i], 7) << "behind the rows";
      }
}

TEST_P(Pages, APageFillsRowByRowFromStridedMemory) {
  for (const Format& f : kFormats)
    for (const int dim : {8, 24, 72}) {
      const int rows = 32, stride = dim + 11;
      const std::vector<float> x = normal_numbers(static_cast<size_t>(rows * stride), 3);
      GuardedPage apart(page(f), rows, dim), whole(page(f), rows, dim);
      page(f).encode(x.data(), stride, rows, dim, whole.data(), 0);
      for (int r = 0; r < rows; r += 5) {
        std::vector<std::byte> before = apart.bytes;
        const int count = std::min(5, rows - r);
        page(f).encode(x.data() + r * stride, stride, count, dim, apart.data(), r);
        // Rows that are already there stay as they are, and rows to come are untouched.
        const size_t bytes = page(f).bytes(1, dim), at = static_cast<size_t>(r) * bytes;
        const size_t end = at + static_cast<size_t>(count) * bytes;
        ASSERT_EQ(std::memcmp(before.data(), apart.data(), at), 0);
        ASSERT_EQ(std::memcmp(before.data() + end, apart.data() + end, before.size() - end), 0);
      }
      EXPECT_EQ(apart.bytes, whole.bytes);
      std::vector<float> one(static_cast<size_t>(dim));
      page(f).decode(whole.data(), 17, 1, dim, one.data());
      for (int d = 0; d < dim; ++d)
        EXPECT_EQ(one[static_cast<size_t>(d)], f.stored(x[static_cast<size_t>(17 * stride + d)]));
    }
}

TEST_P(Pages, HalvesRoundToNearestAndKeepTheirExtremes) {
  const Format& f = kFormats[1];
  const std::vector<float> x = {0.0f,     -0.0f,    65504.0f, 70000.0f, 1e-8f,    6e-8f,
                                -6.1e-5f, 1.0f,     2049.0f,  2051.0f,  65519.9f, -65520.0f,
                                0x1p-24f, 0x1p-25f, 0.1f,     -3e38f};
  std::vector<std::byte> page(this->page(f).bytes(1, 16));
  this->page(f).encode(x.data(), 16, 1, 16, page.data(), 0);
  for (size_t i = 0; i < x.size(); ++i) {
    uint16_t half = 0;
    std::memcpy(&half, page.data() + 2 * i, 2);
    EXPECT_EQ(half, float_to_half(x[i])) << x[i];
  }
}

TEST_P(Pages, Bf16RoundsToNearestAndKeepsItsExtremes) {
  const Format& f = kFormats[2];
  const std::vector<float> x = {0.0f,   -0.0f,     3.4e38f,   -3e38f,    1e-40f, 1e-45f,
                                257.0f, 259.0f,    INFINITY,  -INFINITY, NAN,    -NAN,
                                0.1f,   0x1.01p0f, 0x1.03p0f, 1e30f};
  std::vector<std::byte> page(this->page(f).bytes(1, 16));
  this->page(f).encode(x.data(), 16, 1, 16, page.data(), 0);
  for (size_t i = 0; i < x.size(); ++i) {
    uint16_t half = 0;
    std::memcpy(&half, page.data() + 2 * i, 2);
    EXPECT_EQ(half, float_to_bf16(x[i])) << x[i];
  }
}

TEST_P(Pages, ScoresAreDotProductsWithTheStoredRows) {
  for (const Format& f : kFormats)
    for (int dim = 8; dim <= 256; dim += 8)
      for (const int heads : {1, 2, 3, 4, 5, 7, 8})
        for (const int rows : {1, 3, 8, 31}) {
          if (dim > 80 && heads != dim / 8 % 8 + 1) continue;
          SCOPED_TRACE(::testing::Message()
                       << f.name << " dim " << dim << " heads " << heads << " rows " << rows);
          const auto n = static_cast<size_t>(rows * dim);
          const std::vector<float> x = normal_numbers(n, 5);
          const std::vector<float> q = normal_numbers(static_cast<size_t>(heads * dim), 6);
          std::vector<std::byte> page(this->page(f).bytes(rows, dim));
          this->page(f).encode(x.data(), dim, rows, dim, page.data(), 0);
          const int stride = rows + 3;
          std::vector<float> out(static_cast<size_t>(heads * stride), 77);
          this->page(f).score(page.data(), rows, dim, q.data(), heads, out.data(), stride);
          for (int h = 0; h < heads; ++h)
            for (int r = 0; r < stride; ++r) {
              const float got = out[static_cast<size_t>(h * stride + r)];
              if (r >= rows) {
                ASSERT_EQ(got, 77) << "behind the rows";
                continue;
              }
              double dot = 0, size = 0;
              for (int d = 0; d < dim; ++d) {
                const double term = static_cast<double>(q[static_cast<size_t>(h * dim + d)]) *
                                    f.stored(x[static_cast<size_t>(r * dim + d)]);
                dot += term;
                size += std::abs(term);
              }
              ASSERT_NEAR(got, dot, 1e-6 * size) << "head " << h << " row " << r;
            }
        }
}

TEST_P(Pages, SumsAreOfTheStoredRows) {
  for (const Format& f : kFormats)
    for (int dim = 8; dim <= 256; dim += 8)
      for (const int heads : {1, 2, 3, 4, 5, 7, 8})
        for (const int rows : {1, 3, 31}) {
          if (dim > 80 && heads != dim / 8 % 8 + 1) continue;
          SCOPED_TRACE(::testing::Message()
                       << f.name << " dim " << dim << " heads " << heads << " rows " << rows);
          const std::vector<float> x = normal_numbers(static_cast<size_t>(rows * dim), 5);
          std::vector<std::byte> page(this->page(f).bytes(rows, dim));
          this->page(f).encode(x.data(), dim, rows, dim, page.data(), 0);
          const int stride = rows + 2;
          const std::vector<float> p = normal_numbers(static_cast<size_t>(heads * stride), 8);
          const std::vector<float> start = normal_numbers(static_cast<size_t>(heads * dim + 16), 9);
          std::vector<float> acc = start;
          this->page(f).accumulate(page.data(), rows, dim, p.data(), stride, heads, acc.data());
          for (int h = 0; h < heads; ++h)
            for (int d = 0; d < dim; ++d) {
              const auto at = static_cast<size_t>(h * dim + d);
              double sum = start[at], size = std::abs(start[at]);
              for (int r = 0; r < rows; ++r) {
                const double term = static_cast<double>(p[static_cast<size_t>(h * stride + r)]) *
                                    f.stored(x[static_cast<size_t>(r * dim + d)]);
                sum += term;
                size += std::abs(term);
              }
              ASSERT_NEAR(acc[at], sum, 1e-6 * size);
            }
          for (size_t i = static_cast<size_t>(heads * dim); i < acc.size(); ++i)
            ASSERT_EQ(acc[i], start[i]) << "behind the heads";
        }
}

TEST_P(Pages, AHeadOrARowAloneGivesTheSameBitsAsAmongOthers) {
  for (const Format& f : kFormats)
    for (const int dim : {24, 64, 72}) {
      const int heads = 7, rows = 29;
      const std::vector<float> x = normal_numbers(static_cast<size_t>(rows * dim), 1);
      const std::vector<float> q = normal_numbers(static_cast<size_t>(heads * dim), 2);
      const std::vector<float> p = normal_numbers(static_cast<size_t>(heads * rows), 3);
      std::vector<std::byte> page(this->page(f).bytes(rows, dim));
      this->page(f).encode(x.data(), dim, rows, dim, page.data(), 0);
      std::vector<float> scores(static_cast<size_t>(heads * rows));
      std::vector<float> sums(static_cast<size_t>(heads * dim));
      this->page(f).score(page.data(), rows, dim, q.data(), heads, scores.data(), rows);
      this->page(f).accumulate(page.data(), rows, dim, p.data(), rows, heads, sums.data());
      for (int h = 0; h < heads; ++h) {
        for (int r = 0; r < rows; ++r) {
          float one = 0;
          this->page(f).score(page.data() + static_cast<size_t>(r) * this->page(f).bytes(1, dim), 1,
                              dim, q.data() + h * dim, 1, &one, 1);
          ASSERT_EQ(one, scores[static_cast<size_t>(h * rows + r)]);
        }
        std::vector<float> one(static_cast<size_t>(dim));
        for (int r = 0; r < rows; ++r)
          this->page(f).accumulate(
              page.data() + static_cast<size_t>(r) * this->page(f).bytes(1, dim), 1, dim,
              p.data() + h * rows + r, 1, 1, one.data());
        for (int d = 0; d < dim; ++d)
          ASSERT_EQ(one[static_cast<size_t>(d)], sums[static_cast<size_t>(h * dim + d)]);
      }
    }
}

INSTANTIATE_TEST_SUITE_P(Tables, Pages, ::testing::ValuesIn(test::tables_here()),
                         test::name_of_table);

}  // namespace
}  // namespace pith

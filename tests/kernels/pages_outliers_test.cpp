// Pages of codes with a list of outliers: which numbers are in it, how near all of them come back,
// and that queries and weights meet them. What lies out is found again here, in float64.
#include <algorithm>
#include <cmath>
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
  Quant base;
  int bits, group;  // columns that share a step; 0: all rows of a column do
  bool keys, middle;
  Quant quant() const { return with_outliers(base); }
};

std::vector<Format> formats(int dim) {
  std::vector<Format> all = {{Quant::q8_keys, 8, 32, true, false},
                             {Quant::q8_values, 8, dim, false, false}};
  constexpr int kBits[] = {2, 3, 4, 6, 8}, kGroups[] = {32, 64, 128};
  for (int b = 0; b < 5; ++b) {
    const auto at = [&](Quant first, int i) {
      return static_cast<Quant>(static_cast<int>(first) + i);
    };
    all.push_back({at(Quant::q2_channels, b), kBits[b], 0, true, true});
    all.push_back({at(Quant::q2_rows, b), kBits[b], 32, true, true});
    for (int g = 0; g < 3; ++g)
      all.push_back({at(Quant::q2_groups32, 3 * b + g), kBits[b], kGroups[g], false, true});
  }
  return all;
}

struct Rows {
  int rows, dim;
  std::vector<float> x;
  float at(int r, int d) const { return x[static_cast<size_t>(r * dim + d)]; }
};

// Numbers of which about a hundredth are `far` times as large.
Rows with_far_ones(int rows, int dim, uint64_t seed, float size, float far) {
  Rows given{rows, dim, normal_numbers(static_cast<size_t>(rows * dim), seed, size)};
  const auto picks = normal_numbers(given.x.size(), seed + 77);
  for (size_t i = 0; i < given.x.size(); ++i)
    if (std::abs(picks[i]) > 2.6f) given.x[i] *= far;
  return given;
}

struct Page {
  Page(const PageKernels& kernels, const Rows& given)
      : bytes(kernels.bytes(given.rows, given.dim), std::byte{0xee}),
        decoded{given.rows, given.dim, std::vector<float>(given.x.size() + 1, 7)} {
    kernels.encode(given.x.data(), given.dim, given.rows, given.dim, bytes.data(), 0);
    kernels.decode(bytes.data(), 0, given.rows, given.dim, decoded.x.data());
    intact = bytes.guards_stand() && decoded.x.back() == 7;
    decoded.x.pop_back();
  }
  Guarded<std::byte> bytes;
  Rows decoded;
  bool intact = false;
};

double within_half(float x) {
  return std::isnan(x) ? -65504.0 : std::clamp(static_cast<double>(x), -65504.0, 65504.0);
}

// How far out each number lies among those it shares a step with, and what the others reach.
class Judged {
 public:
  Judged(const Format& f, const Rows& given) : f_(f), given_(given), out_(given.x.size()) {
    groups_.resize(static_cast<size_t>(f.group == 0 ? given.dim : given.rows * across()));
    each([&](Group& g, double x, double&) { g.middle += x, ++g.numbers; });
    for (Group& g : groups_) g.middle = f.middle ? g.middle / g.numbers : 0;
    each([&](Group& g, double x, double&) { g.distance += std::abs(x - g.middle) / g.numbers; });
    each([&](Group& g, double x, double& out) {
      out = g.distance > 0 ? std::abs(x - g.middle) / g.distance : 0;
    });
    std::vector<double> sorted = out_;
    std::ranges::sort(sorted, std::greater());
    const size_t most = (sorted.size() + 99) / 100;
    limit_ = most < sorted.size() ? sorted[most] : kInf;
    each([&](Group& g, double x, double& out) {
      if (!(out > limit_ * (1 + 1e-5))) g.take(x);  // beyond doubt, whatever float rounds
    });
    for (Group& g : groups_) g.empty = g.low > g.high;
    each([&](Group& g, double x, double&) {
      if (g.empty) g.take(x);
    });
  }
  // How far number (r, d) may read back from what it was; and how large its code and step may be.
  double bound(int r, int d, double& size) const {
    const Group& g = groups_[group_of(r, d)];
    const double most = std::max(std::abs(g.low), std::abs(g.high));
    const int levels = (1 << f_.bits) - 1;
    const double off = std::abs(g.low) * 0x1p-11 + 0x1p-25;
    const double step =
        f_.middle ? (g.high - g.low + off) / levels * (1 + 0x1p-11) + 0x1p-25 : most / 126;
    const double coded = f_.middle ? std::max({step / 2, off, levels * 0x1p-25}) * (1 + 1e-4)
                                   : most / 253 + 0x1p-119;
    const double x = within_half(given_.at(r, d));
    const double beyond = std::max({0.0, x - g.high, g.low - x}) + coded;
    const bool maybe_out = out_[static_cast<size_t>(r * given_.dim + d)] > limit_ * (1 - 1e-5);
    size = most + step + beyond;
    return std::max(coded, maybe_out ? beyond * 0x1p-11 + 0x1p-24 : 0) + size * 0x1p-22;
  }

 private:
  static constexpr double kInf = std::numeric_limits<double>::infinity();
  struct Group {
    double middle = 0, distance = 0, low = kInf, high = -kInf;
    int numbers = 0;
    bool empty = false;
    void take(double x) {
      low = std::min(low, x);
      high = std::max(high, x);
    }
  };
  int across() const { return (given_.dim + f_.group - 1) / f_.group; }
  size_t group_of(int r, int d) const {
    return static_cast<size_t>(f_.group == 0 ? d : r * across() + d / f_.group);
  }
  template <class F>
  void each(const F& f) {
    for (int r = 0; r < given_.rows; ++r)
      for (int d = 0; d < given_.dim; ++d)
        f(groups_[group_of(r, d)], within_half(given_.at(r, d)),
          out_[static_cast<size_t>(r * given_.dim + d)]);
  }

  Format f_;
  const Rows& given_;
  std::vector<Group> groups_;
  std::vector<double> out_;
  double limit_ = 0;
};

class OutlierPages : public test::OnATable {
 protected:
  const PageKernels& kernels(const Format& f) const { return page(f.quant()); }
  const PageKernels& base(const Format& f) const { return page(f.base); }
  std::vector<float> prepared(const Format& f, const std::vector<float>& q, int heads,
                              int dim) const {
    return test::prepared(kernels(f), q, heads, dim);
  }
};

void expect_bounded(const Format& f, const PageKernels& kernels, const Rows& given) {
  SCOPED_TRACE(::testing::Message() << "format " << static_cast<int>(f.base) << ", rows "
                                    << given.rows << ", dim " << given.dim);
  const Page page(kernels, given);
  ASSERT_TRUE(page.intact);
  const Judged judged(f, given);
  for (int r = 0; r < given.rows; ++r)
    for (int d = 0; d < given.dim; ++d) {
      double size;
      ASSERT_LE(std::abs(page.decoded.at(r, d) - within_half(given.at(r, d))),
                judged.bound(r, d, size))
          << "row " << r << " column " << d << " is " << given.at(r, d);
    }
}

TEST_P(OutlierPages, NumbersComeBackWithinTheStepOfThoseThatAreNotFarOut) {
  for (const int dim : {8, 24, 64, 67, 128})
    for (const int rows : {1, 9, 16, 32, 65}) {
      if (rows * dim > 4096) continue;
      for (const Format& f : formats(dim)) {
        expect_bounded(f, kernels(f),
                       with_far_ones(rows, dim, static_cast<uint64_t>(rows + dim), 2, 50));
        expect_bounded(f, kernels(f), with_far_ones(rows, dim, 3, 1, 1));
      }
    }
}

TEST_P(OutlierPages, AnySizeOfNumbersKeepsTheBound) {
  const int dim = 72, rows = 17;
  for (const Format& f : formats(dim))
    for (const float size : {0.0f, 1e-45f, 1e-40f, 0x1p-26f, 1e-5f, 1.0f, 300.0f, 3e4f, 1e30f}) {
      expect_bounded(f, kernels(f), with_far_ones(rows, dim, 4, size * 0.01f, 100));
      expect_bounded(f, kernels(f),
                     {rows, dim, std::vector<float>(static_cast<size_t>(rows * dim), -size)});
      Rows shifted = with_far_ones(rows, dim, 5, size * 1e-3f, 1);
      for (float& x : shifted.x) x += size;
      expect_bounded(f, kernels(f), shifted);
    }
}

TEST_P(OutlierPages, AHundredthOfTheNumbersNoLongerCostsTheOthersTheirBits) {
  const int dim = 64, rows = 64;
  for (const Format& f : formats(dim)) {
    const Rows given = with_far_ones(rows, dim, 8, 1, 60);
    const Page with(kernels(f), given), without(base(f), given);
    const auto error = [&](const Page& page) {
      double sum = 0;
      for (size_t i = 0; i < given.x.size(); ++i)
        sum += std::pow(page.decoded.x[i] - given.x[i], 2);
      return std::sqrt(sum);
    };
    EXPECT_LT(error(with), 0.5 * error(without)) << "format " << static_cast<int>(f.base);
  }
}

TEST_P(OutlierPages, WhateverComesInFiniteNumbersComeOut) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (const Format& f : formats(40))
    for (const float odd : {kInf, -kInf, std::numeric_limits<float>::quiet_NaN(), 3.4e38f}) {
      Rows given = with_far_ones(9, 40, 1, 1, 1);
      given.x[45] = odd;
      for (const float y : Page(kernels(f), given).decoded.x) ASSERT_TRUE(std::isfinite(y)) << odd;
    }
}

TEST_P(OutlierPages, EveryTableWritesTheSameBytes) {
  const KernelTable& scalar = kernels_named("scalar");
  for (const int dim : {3, 40, 64})
    for (const Format& f : formats(dim)) {
      const Rows given = with_far_ones(25, dim, 3, 1, 30);
      Page mine(kernels(f), given), defined(scalar.page[static_cast<int>(f.quant())], given);
      ASSERT_TRUE(std::ranges::equal(mine.bytes.span(), defined.bytes.span()))
          << "format " << static_cast<int>(f.base) << ", dim " << dim;
    }
}

TEST_P(OutlierPages, APageIsReadFromAnyRowAndCodedWithAnyStride) {
  for (const Format& f : formats(40)) {
    const int rows = 37, dim = 40, stride = dim + 5;
    const Rows wide = with_far_ones(rows, stride, 3, 1, 30);
    Rows packed{rows, dim, std::vector<float>(static_cast<size_t>(rows * dim))};
    for (int r = 0; r < rows; ++r)
      std::copy_n(wide.x.begin() + r * stride, dim, packed.x.begin() + r * dim);
    const Page page(kernels(f), packed);
    std::vector<std::byte> strided(kernels(f).bytes(rows, dim));
    kernels(f).encode(wide.x.data(), stride, rows, dim, strided.data(), 0);
    std::vector<float> some(static_cast<size_t>(9 * dim));
    kernels(f).decode(strided.data(), 13, 9, dim, some.data());
    EXPECT_TRUE(std::equal(some.begin(), some.end(), page.decoded.x.begin() + 13 * dim));
  }
}

// The codes are met as in pages without a list (their own tests hold them to it); here the whole.
TEST_P(OutlierPages, ScoresAndSumsAreThoseOfTheDecodedPage) {
  for (const int dim : {1, 24, 67, 300})
    for (const int heads : {1, 3, 4})
      for (const int rows : {1, 31, 64}) {
        if (dim > 24 && heads != (rows + dim) % 3 + 2) continue;
        const Rows given = with_far_ones(rows, dim, 5, 1, 40);
        for (const Format& f : formats(dim)) {
          SCOPED_TRACE(::testing::Message() << "format " << static_cast<int>(f.base) << ", dim "
                                            << dim << " heads " << heads << " rows " << rows);
          Page page(kernels(f), given);
          const Judged judged(f, given);
          std::vector<double> sizes(given.x.size());
          for (int r = 0; r < rows; ++r)
            for (int d = 0; d < dim; ++d)
              judged.bound(r, d, sizes[static_cast<size_t>(r * dim + d)]);
          std::vector<double> row_sizes;  // the largest of each row
          for (auto row = sizes.begin(); row != sizes.end(); row += dim)
            row_sizes.push_back(*std::max_element(row, row + dim));
          const int stride = rows + 3;
          if (f.keys) {
            const auto q = normal_numbers(static_cast<size_t>(heads * dim), 6);
            std::vector<float> out(static_cast<size_t>(heads * stride), 77);
            kernels(f).score(page.bytes.data(), rows, dim, prepared(f, q, heads, dim).data(), heads,
                             out.data(), stride);
            for (int h = 0; h < heads; ++h)
              for (int r = 0; r < stride; ++r) {
                if (r >= rows) {
                  ASSERT_EQ(out[static_cast<size_t>(h * stride + r)], 77) << "behind the rows";
                  continue;
                }
                double dot = 0, size = 0, largest = 0, most = 0;
                for (int d = 0; d < dim; ++d) {
                  const double y = q[static_cast<size_t>(h * dim + d)];
                  const double one = sizes[static_cast<size_t>(r * dim + d)];
                  dot += y * page.decoded.at(r, d);
                  size += std::abs(y) * one;
                  largest = std::max(largest, std::abs(y));
                  most = std::max(most, one);
                }
                ASSERT_NEAR(out[static_cast<size_t>(h * stride + r)], dot,
                            2 * dim * largest * most / 32767 + 1e-6 * size)
                    << "head " << h << " row " << r;
              }
            continue;
          }
          const auto p = normal_numbers(static_cast<size_t>(heads * stride), 8);
          std::vector<float> acc(static_cast<size_t>(heads * dim + 16), 3);
          kernels(f).accumulate(page.bytes.data(), rows, dim, p.data(), stride, heads, acc.data());
          for (int h = 0; h < heads; ++h)
            for (int d = 0; d < dim; ++d) {
              double sum = 3, size = 3, most = 0;
              for (int r = 0; r < rows; ++r) {
                const double w = p[static_cast<size_t>(h * stride + r)];
                sum += w * page.decoded.at(r, d);
                most = std::max(most, std::abs(w) * row_sizes[static_cast<size_t>(r)]);
                size += std::abs(w) * sizes[static_cast<size_t>(r * dim + d)];
              }
              ASSERT_NEAR(acc[static_cast<size_t>(h * dim + d)], sum,
                          2 * rows * most / 32767 + 1e-6 * size)
                  << "head " << h << " column " << d;
            }
          for (size_t i = static_cast<size_t>(heads * dim); i < acc.size(); ++i)
            ASSERT_EQ(acc[i], 3) << "behind the heads";
        }
      }
}

TEST_P(OutlierPages, TakeAHundredthOfTheNumbersBesideTheCodes) {
  for (const Format& f : formats(64)) {
    // A count and places, 41 numbers of 2 + 2 bytes, in whole steps of 16.
    EXPECT_EQ(kernels(f).bytes(64, 64), base(f).bytes(64, 64) + (16 + 41 * 4 + 15) / 16 * 16);
    EXPECT_EQ(kernels(f).bytes(1024, 128),
              base(f).bytes(1024, 128) + (16 + 1311 * 6 + 15) / 16 * 16);
    EXPECT_EQ(kernels(f).prepare != nullptr, base(f).prepare != nullptr);
  }
}

// Places of 32 bits.
TEST_P(OutlierPages, LargePagesAreLikeSmallOnes) {
  const int rows = 600, dim = 128;
  for (const Format& f : {formats(dim)[0], formats(dim)[1], formats(dim)[2], formats(dim)[4]}) {
    const Rows given = with_far_ones(rows, dim, 8, 1, 60);
    Page page(kernels(f), given);
    ASSERT_TRUE(page.intact);
    size_t far = 0, met = 0;
    for (size_t i = 0; i < given.x.size(); ++i)
      if (std::abs(given.x[i]) > 100) {
        ++far;
        met += std::abs(page.decoded.x[i] - given.x[i]) < 0.1f;
      }
    ASSERT_GT(far, 50u);
    EXPECT_EQ(met, far) << "format " << static_cast<int>(f.base);
  }
}

INSTANTIATE_TEST_SUITE_P(Tables, OutlierPages, ::testing::ValuesIn(test::tables_here()),
                         test::name_of_table);

}  // namespace
}  // namespace pith

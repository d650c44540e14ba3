// What every kernel table promises of the functions that meet activations number by number. The
// oracle is double precision from <cmath>; matmul, attention and pages have files of their own.
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
using test::uniform_floats;

constexpr float kInf = std::numeric_limits<float>::infinity();

using Kernels = test::OnATable;

// Every count up to more than two vectors of the widest target, and a few long ones.
std::vector<int64_t> counts() {
  std::vector<int64_t> n;
  for (int64_t i = 1; i <= 40; ++i) n.push_back(i);
  n.insert(n.end(), {64, 100, 333, 1000});
  return n;
}

// In units of the last place of a float as large as `want`.
double ulps(float got, double want) {
  const float size = std::max(std::fabs(static_cast<float>(want)), 0x1p-126f);
  const double unit = double{std::nextafter(size, kInf)} - double{size};
  return std::fabs(double{got} - want) / unit;
}

double silu(double x) {
  return x / (1 + std::exp(-x));
}
double gelu_erf(double x) {
  return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
}
double gelu_tanh(double x) {
  // (1 + tanh(y)) / 2 without the cancellation of that form for negative y
  const double y = std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x);
  return x / (1 + std::exp(-2 * y));
}

TEST_P(Kernels, RmsNormScalesToUnitMeanSquare) {
  Random random(1);
  for (const int64_t n : counts()) {
    const size_t size = static_cast<size_t>(n);
    const std::vector<float> x = uniform_floats(size, -3, 3, random);
    const std::vector<float> gain = uniform_floats(size, 0, 2, random);
    Guarded<float> out(size);
    table().rms_norm(x.data(), gain.data(), 1e-5f, n, out.data());
    ASSERT_TRUE(out.guards_stand()) << n;
    double square = 0;
    for (const float v : x) square += double{v} * double{v};
    const double scale = 1 / std::sqrt(square / static_cast<double>(n) + 1e-5);
    for (size_t i = 0; i < size; ++i)
      ASSERT_NEAR(out.span()[i], x[i] * scale * gain[i], 3e-6) << n << ", number " << i;
  }
}

TEST_P(Kernels, LayerNormCentresAndScales) {
  Random random(2);
  for (const int64_t n : counts())
    for (const bool with_bias : {false, true}) {
      const size_t size = static_cast<size_t>(n);
      const std::vector<float> x = uniform_floats(size, 50, 60, random);  // far from the mean 0
      const std::vector<float> gain = uniform_floats(size, 0, 2, random);
      const std::vector<float> bias = uniform_floats(size, -1, 1, random);
      Guarded<float> out(size);
      table().layer_norm(x.data(), gain.data(), with_bias ? bias.data() : nullptr, 1e-5f, n,
                         out.data());
      ASSERT_TRUE(out.guards_stand()) << n;
      double mean = 0, variance = 0;
      for (const float v : x) mean += v;
      mean /= static_cast<double>(n);
      for (const float v : x) variance += (v - mean) * (v - mean);
      const double scale = 1 / std::sqrt(variance / static_cast<double>(n) + 1e-5);
      for (size_t i = 0; i < size; ++i)
        // The mean is right to a few units of 60; a single number deviates by nothing else.
        ASSERT_NEAR(out.span()[i], (x[i] - mean) * scale * gain[i] + (with_bias ? bias[i] : 0),
                    n == 1 ? 1e-3 : 5e-5 * (1 + scale))
            << n << ", number " << i;
    }
}

TEST_P(Kernels, NormsMayWriteOverTheirInput) {
  Random random(3);
  const std::vector<float> x = uniform_floats(77, -1, 1, random), gain(77, 1.5f), bias(77, 0.25f);
  std::vector<float> apart(77), over = x;
  table().rms_norm(x.data(), gain.data(), 1e-6f, 77, apart.data());
  table().rms_norm(over.data(), gain.data(), 1e-6f, 77, over.data());
  EXPECT_EQ(apart, over);
  over = x;
  table().layer_norm(x.data(), gain.data(), bias.data(), 1e-6f, 77, apart.data());
  table().layer_norm(over.data(), gain.data(), bias.data(), 1e-6f, 77, over.data());
  EXPECT_EQ(apart, over);
}

TEST_P(Kernels, RotationTurnsPairsAndLeavesTheRestAlone) {
  Random random(4);
  for (const bool half_split : {false, true})
    for (int pairs = 0; pairs <= 40; ++pairs) {
      const size_t size = static_cast<size_t>(2 * pairs) + 5;
      const std::vector<float> x = uniform_floats(size, -1, 1, random);
      std::vector<float> c(static_cast<size_t>(pairs)), s(c);
      for (size_t i = 0; i < c.size(); ++i) {
        const double angle = 6.3 * random.uniform();
        c[i] = static_cast<float>(std::cos(angle)), s[i] = static_cast<float>(std::sin(angle));
      }
      Guarded<float> head(size);
      std::copy(x.begin(), x.end(), head.data());
      table().rotate(head.data(), c.data(), s.data(), pairs, half_split);
      ASSERT_TRUE(head.guards_stand());
      std::vector<double> want(x.begin(), x.end());
      for (int i = 0; i < pairs; ++i) {
        const size_t a = static_cast<size_t>(half_split ? i : 2 * i);
        const size_t b = static_cast<size_t>(half_split ? i + pairs : 2 * i + 1);
        const size_t at = static_cast<size_t>(i);
        want[a] = double{x[a]} * c[at] - double{x[b]} * s[at];
        want[b] = double{x[a]} * s[at] + double{x[b]} * c[at];
      }
      for (size_t i = 0; i < size; ++i)
        ASSERT_NEAR(head.span()[i], want[i], 2e-7) << pairs << " pairs, number " << i;
    }
}

TEST_P(Kernels, ActivationsEqualTheirDefinitionsAndMayWriteOverTheirInput) {
  Random random(5);
  for (const int64_t n : counts()) {
    const size_t size = static_cast<size_t>(n);
    const std::vector<float> x = uniform_floats(size, -8, 8, random);
    const std::vector<float> up = uniform_floats(size, -2, 2, random);
    Guarded<float> silu_out(size), tanh_out(size), erf_out(size);
    table().silu_mul(x.data(), up.data(), n, silu_out.data());
    table().gelu_mul(x.data(), up.data(), n, tanh_out.data());
    table().gelu(x.data(), n, erf_out.data());
    ASSERT_TRUE(silu_out.guards_stand() && tanh_out.guards_stand() && erf_out.guards_stand());
    std::vector<float> over = x;
    table().silu_mul(over.data(), up.data(), n, over.data());
    for (size_t i = 0; i < size; ++i) {
      ASSERT_NEAR(silu_out.span()[i], silu(x[i]) * up[i], 2e-6) << n << ", number " << i;
      ASSERT_NEAR(tanh_out.span()[i], gelu_tanh(x[i]) * up[i], 2e-6) << n << ", number " << i;
      ASSERT_NEAR(erf_out.span()[i], gelu_erf(x[i]), 1e-6) << n << ", number " << i;
      ASSERT_EQ(over[i], silu_out.span()[i]);
    }
  }
}

TEST_P(Kernels, ActivationsOfHugeNumbersAreZeroOrTheNumber) {
  const std::vector<float> x = {-1e30f, -1e4f, -100, 100, 1e4f, 1e30f, 0.0f}, one(7, 1.0f);
  std::vector<float> out(7);
  const auto expect = [&](const char* name) {
    for (size_t i = 0; i < 3; ++i) EXPECT_NEAR(out[i], 0, 1e-30) << name << " of " << x[i];
    for (size_t i = 3; i < 7; ++i) EXPECT_EQ(out[i], x[i]) << name;
  };
  table().silu_mul(x.data(), one.data(), 7, out.data());
  expect("silu");
  table().gelu_mul(x.data(), one.data(), 7, out.data());
  expect("gelu, tanh form");
  table().gelu(x.data(), 7, out.data());
  expect("gelu");
}

TEST_P(Kernels, AddDotAndMaxMeetEveryNumberOnce) {
  Random random(6);
  for (const int64_t n : counts()) {
    const size_t size = static_cast<size_t>(n);
    const std::vector<float> a = uniform_floats(size, -1, 1, random);
    const std::vector<float> b = uniform_floats(size, -9, -8, random);
    Guarded<float> into(size);
    std::copy(b.begin(), b.end(), into.data());
    table().add(a.data(), n, into.data());
    ASSERT_TRUE(into.guards_stand());
    double sum = 0;
    for (size_t i = 0; i < size; ++i) {
      ASSERT_EQ(into.span()[i], a[i] + b[i]);
      sum += double{a[i]} * double{b[i]};
    }
    ASSERT_NEAR(table().dot(a.data(), b.data(), n), sum, 1e-6 * 9 * static_cast<double>(n)) << n;
    // All negative: what lies behind the row, or a zero lane, must not win.
    ASSERT_EQ(table().max(b.data(), n), *std::max_element(b.begin(), b.end())) << n;
  }
  EXPECT_EQ(table().max(nullptr, 0), -kInf);
  EXPECT_EQ(table().dot(nullptr, nullptr, 0), 0);
}

TEST_P(Kernels, EveryPositionCanHoldTheMaximum) {
  for (const int64_t n : {1, 7, 8, 9, 16, 17, 31, 40})
    for (int64_t at = 0; at < n; ++at) {
      std::vector<float> x(static_cast<size_t>(n), -kInf);
      EXPECT_EQ(table().max(x.data(), n), -kInf);
      x[static_cast<size_t>(at)] = -3;
      EXPECT_EQ(table().max(x.data(), n), -3) << at << " of " << n;
    }
}

TEST_P(Kernels, ExponentialsAreRightToOneAndAHalfUnits) {
  // 400,000 arguments from where the result vanishes to where it leaves the floats.
  std::vector<float> x, e;
  for (int i = 0; i < 400000; ++i) x.push_back(-104.5f + 193.2f * static_cast<float>(i) / 400000);
  e = x;
  const float total = table().exp_minus_max(e.data(), static_cast<int64_t>(e.size()), 0);
  EXPECT_TRUE(std::isfinite(total) || total == kInf);
  double worst = 0;
  float at = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double want = std::exp(double{x[i]});
    if (want > std::numeric_limits<float>::max()) continue;
    if (const double u = ulps(e[i], want); u > worst) worst = u, at = x[i];
  }
  EXPECT_LT(worst, 1.5) << "at " << at;
}

TEST_P(Kernels, ExponentialsSumToWhatTheyWrite) {
  Random random(7);
  for (const int64_t n : counts()) {
    const size_t size = static_cast<size_t>(n);
    const std::vector<float> x = uniform_floats(size, -20, 5, random);
    Guarded<float> e(size);
    std::copy(x.begin(), x.end(), e.data());
    const float sum = table().exp_minus_max(e.data(), n, 5);
    ASSERT_TRUE(e.guards_stand());
    double want = 0;
    for (size_t i = 0; i < size; ++i) {
      ASSERT_LT(ulps(e.span()[i], std::exp(double{x[i] - 5})), 1.5) << x[i];
      want += e.span()[i];
    }
    ASSERT_NEAR(sum, want, 1e-6 * want + 1e-30) << n;
  }
}

TEST_P(Kernels, MaskedLogitsWeighNothing) {
  for (const int64_t n : {1, 5, 8, 19}) {
    std::vector<float> x(static_cast<size_t>(n), -kInf);
    EXPECT_EQ(table().exp_minus_max(x.data(), n, 2), 0) << n;
    for (const float e : x) EXPECT_EQ(e, 0);
    // A row of which nothing may be seen: its maximum is -inf, and -inf - -inf is no number.
    std::fill(x.begin(), x.end(), -kInf);
    EXPECT_EQ(table().exp_minus_max(x.data(), n, -kInf), 0) << n;
    for (const float e : x) EXPECT_EQ(e, 0);
    std::fill(x.begin(), x.end(), -kInf);
    x.back() = 2;
    EXPECT_EQ(table().exp_minus_max(x.data(), n, 2), 1) << n;
    EXPECT_EQ(x.back(), 1);
  }
  EXPECT_EQ(table().exp_minus_max(nullptr, 0, 0), 0);
}

TEST_P(Kernels, SoftcapIsAScaledHyperbolicTangent) {
  std::vector<float> x;
  for (int i = -100000; i <= 100000; ++i) x.push_back(static_cast<float>(i) * 1e-4f);
  x.insert(x.end(), {0.0f, 1e-30f, -1e-30f, 1e-20f, 30, -30, 1e30f, -1e30f, kInf, -kInf});
  std::vector<float> y = x;
  table().softcap(y.data(), static_cast<int64_t>(y.size()), 1);
  double worst = 0;
  float at = 0;
  for (size_t i = 0; i < x.size(); ++i)
    if (const double u = ulps(y[i], std::tanh(double{x[i]})); u > worst) worst = u, at = x[i];
  EXPECT_LT(worst, 2) << "at " << at;
  Random random(8);
  for (const int64_t n : counts()) {
    const std::vector<float> logits = uniform_floats(static_cast<size_t>(n), -200, 200, random);
    Guarded<float> capped(logits.size());
    std::copy(logits.begin(), logits.end(), capped.data());
    table().softcap(capped.data(), n, 50);
    ASSERT_TRUE(capped.guards_stand());
    for (size_t i = 0; i < logits.size(); ++i)
      ASSERT_NEAR(capped.span()[i], 50 * std::tanh(double{logits[i]} / 50), 2e-5) << n;
  }
}

TEST_P(Kernels, GeluKeepsItsRelativeErrorInTheTail) {
  std::vector<float> x, tail;
  for (int i = 0; i <= 60000; ++i) x.push_back(-6 + static_cast<float>(i) * 2e-4f);
  tail = x;
  table().gelu(tail.data(), static_cast<int64_t>(tail.size()), tail.data());
  for (size_t i = 0; i < x.size(); ++i) {
    const double want = gelu_erf(x[i]);
    ASSERT_NEAR(tail[i], want, 4e-6 * std::fabs(want)) << x[i];
  }
}

TEST_P(Kernels, ANumberDoesNotDependOnWhereInTheRowItStands) {
  // The last few of a row take the path of part vectors, others that of whole ones.
  Random random(9);
  const std::vector<float> x = uniform_floats(40, -5, 5, random);
  const std::vector<float> up = uniform_floats(40, -5, 5, random);
  const auto check = [&](const char* name, auto function) {
    std::vector<float> whole(40);
    function(x.data(), up.data(), 40, whole.data());
    for (int64_t first = 0; first < 40; ++first)
      for (int64_t n = 1; first + n <= 40; ++n) {
        std::vector<float> part(static_cast<size_t>(n));
        function(x.data() + first, up.data() + first, n, part.data());
        ASSERT_EQ(std::memcmp(part.data(), whole.data() + first, static_cast<size_t>(n) * 4), 0)
            << name << ": " << n << " numbers from " << first;
      }
  };
  const KernelTable& t = table();
  check("silu_mul",
        [&](const float* a, const float* b, int64_t n, float* out) { t.silu_mul(a, b, n, out); });
  check("gelu_mul",
        [&](const float* a, const float* b, int64_t n, float* out) { t.gelu_mul(a, b, n, out); });
  check("gelu", [&](const float* a, const float*, int64_t n, float* out) { t.gelu(a, n, out); });
  check("softcap", [&](const float* a, const float*, int64_t n, float* out) {
    std::copy(a, a + n, out);
    t.softcap(out, n, 30);
  });
  check("exp", [&](const float* a, const float*, int64_t n, float* out) {
    std::copy(a, a + n, out);
    t.exp_minus_max(out, n, 5);
  });
}

TEST_P(Kernels, AgreeWithTheScalarTable) {
  const KernelTable& scalar = kernels_named("scalar");
  Random random(10);
  const std::vector<float> x = uniform_floats(501, -6, 6, random);
  const std::vector<float> y = uniform_floats(501, -6, 6, random);
  std::vector<float> a(501), b(501);
  const auto same = [&](const char* name) {
    for (size_t i = 0; i < a.size(); ++i)
      ASSERT_NEAR(a[i], b[i], 1e-5 * (1 + std::fabs(b[i]))) << name << ", number " << i;
  };
  table().rms_norm(x.data(), y.data(), 1e-5f, 501, a.data());
  scalar.rms_norm(x.data(), y.data(), 1e-5f, 501, b.data());
  same("rms_norm");
  table().layer_norm(x.data(), y.data(), x.data(), 1e-5f, 501, a.data());
  scalar.layer_norm(x.data(), y.data(), x.data(), 1e-5f, 501, b.data());
  same("layer_norm");
  table().silu_mul(x.data(), y.data(), 501, a.data());
  scalar.silu_mul(x.data(), y.data(), 501, b.data());
  same("silu_mul");
  table().gelu_mul(x.data(), y.data(), 501, a.data());
  scalar.gelu_mul(x.data(), y.data(), 501, b.data());
  same("gelu_mul");
  table().gelu(x.data(), 501, a.data());
  scalar.gelu(x.data(), 501, b.data());
  same("gelu");
  EXPECT_NEAR(table().dot(x.data(), y.data(), 501), scalar.dot(x.data(), y.data(), 501), 1e-2);
  EXPECT_EQ(table().max(x.data(), 501), scalar.max(x.data(), 501));
}

INSTANTIATE_TEST_SUITE_P(Tables, Kernels, ::testing::ValuesIn(test::tables_here()),
                         test::name_of_table);

}  // namespace
}  // namespace pith

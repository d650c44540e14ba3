#include "tensor/codec.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <gtest/gtest.h>
#include <limits>
#include <vector>

#include "base/random.h"
#include "tensor/half.h"

namespace pith {
namespace {

constexpr DType kFormats[] = {DType::f32,  DType::f16,  DType::bf16, DType::q8_0,   DType::q4_0,
                              DType::q4_1, DType::q5_0, DType::q5_1, DType::q2_k,   DType::q3_k,
                              DType::q4_k, DType::q5_k, DType::q6_k, DType::iq4_nl, DType::iq4_xs};

std::vector<float> decoded(DType dtype, const std::vector<uint8_t>& bytes, int64_t n) {
  EXPECT_EQ(bytes.size(), row_bytes(dtype, n));
  std::vector<float> out(static_cast<size_t>(n), -1);
  decode_row(dtype, reinterpret_cast<const std::byte*>(bytes.data()), n, out.data());
  return out;
}

std::vector<std::byte> encoded(DType dtype, const std::vector<float>& x) {
  std::vector<std::byte> row(row_bytes(dtype, static_cast<int64_t>(x.size())));
  encode_row(dtype, x.data(), static_cast<int64_t>(x.size()), row.data());
  return row;
}

std::vector<float> round_trip(DType dtype, const std::vector<float>& x) {
  const std::vector<std::byte> row = encoded(dtype, x);
  std::vector<float> out(x.size());
  decode_row(dtype, row.data(), static_cast<int64_t>(x.size()), out.data());
  return out;
}

std::vector<DType> encodable() {
  std::vector<DType> formats;
  for (const DType f : kFormats)
    if (can_encode(f)) formats.push_back(f);
  return formats;
}

// sqrt(sum (x - y)^2 / sum x^2)
double relative_error(const std::vector<float>& x, const std::vector<float>& y) {
  double error = 0, total = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    error += (double{x[i]} - y[i]) * (double{x[i]} - y[i]);
    total += double{x[i]} * x[i];
  }
  return std::sqrt(error / total);
}

std::vector<float> normals(size_t count, uint64_t seed, float scale) {
  Random random(seed);
  std::vector<float> x(count);
  for (float& v : x) v = scale * random.normal();
  return x;
}

// A block of fixed bytes with sensible scales, and what another implementation makes of it: four
// elements and a checksum over all.
struct Golden {
  DType dtype;
  std::vector<std::pair<int, uint16_t>> halves;  // offset, f16
  float first, seventeenth, middle, last;        // elements 0, 17, count / 2 + 5, count - 1
  double checksum;                               // of (i % 61 + 1) * x[i]
};

TEST(Codec, DecodesBlocksAsOtherImplementationsDo) {
  const Golden goldens[] = {
      {DType::q8_0, {{0, 0x3555}}, 38.9904785f, 20.994873f, 16.9958496f, 34.9914551f, 2218.125},
      {DType::q4_0,
       {{0, 0x3555}},
       -0.999755859f,
       -1.99951172f,
       0.666503906f,
       -2.33276367f,
       70.6494140625},
      {DType::q4_1,
       {{0, 0x3555}, {2, 0xae66}},
       2.23278809f,
       3.89904785f,
       3.5657959f,
       0.899780273f,
       1444.513916015625},
      {DType::q5_0,
       {{0, 0x3555}},
       0.333251953f,
       3.33251953f,
       4.9987793f,
       2.99926758f,
       656.50634765625},
      {DType::q5_1,
       {{0, 0x3555}, {2, 0xae66}},
       6.23181152f,
       3.5657959f,
       7.56481934f,
       6.23181152f,
       2859.501708984375},
      {DType::q2_k,
       {{80, 0x3555}, {82, 0x2e66}},
       10.7973633f,
       1.79956055f,
       0,
       3.46582031f,
       23793.956176757812},
      {DType::q3_k,
       {{108, 0x3555}},
       26.9934082f,
       -2.33276367f,
       19.9951172f,
       -15.9960938f,
       1163.382568359375},
      {DType::q4_k,
       {{0, 0x3555}, {2, 0x2e66}},
       198.118286f,
       161.460571f,
       269.53418f,
       138.299561f,
       808504.76293945312},
      {DType::q5_k,
       {{0, 0x3555}, {2, 0x2e66}},
       491.380005f,
       454.72229f,
       605.452148f,
       166.959229f,
       1607900.2170410156},
      {DType::q6_k,
       {{208, 0x3555}},
       962.764893f,
       277.598877f,
       28.9929199f,
       104.974365f,
       -36350.789794921875},
      {DType::iq4_nl,
       {{0, 0x3555}},
       -11.6638184f,
       -27.6599121f,
       8.33129883f,
       -34.6582031f,
       1101.397705078125},
      {DType::iq4_xs,
       {{0, 0x3555}},
       194.952393f,
       -113.972168f,
       -198.284912f,
       608.518066f,
       -150157.998046875},
  };
  for (const Golden& golden : goldens) {
    const DTypeTraits& format = traits(golden.dtype);
    SCOPED_TRACE(format.name);
    std::vector<uint8_t> bytes(static_cast<size_t>(format.block_bytes));
    for (size_t i = 0; i < bytes.size(); ++i)
      bytes[i] = static_cast<uint8_t>(i * i * 7 + i * 151 + 43);
    for (const auto& [offset, half] : golden.halves) std::memcpy(&bytes[offset], &half, 2);
    const auto count = static_cast<size_t>(format.block_elements);
    const std::vector<float> x = decoded(golden.dtype, bytes, format.block_elements);
    EXPECT_FLOAT_EQ(x[0], golden.first);
    EXPECT_FLOAT_EQ(x[17], golden.seventeenth);
    EXPECT_FLOAT_EQ(x[count / 2 + 5], golden.middle);
    EXPECT_FLOAT_EQ(x[count - 1], golden.last);
    double checksum = 0;
    for (size_t i = 0; i < count; ++i) checksum += static_cast<double>(i % 61 + 1) * x[i];
    EXPECT_NEAR(checksum, golden.checksum, 1e-6 * std::fabs(golden.checksum));
  }
}

TEST(Codec, DecodesABlockOfEachSmallFormatComputedByHand) {
  // d = 2.0 = 0x4000, m = -1.0 = 0xbc00
  std::vector<uint8_t> q8(34);
  q8[1] = 0x40;
  q8[2] = 0x7f;
  q8[33] = 0x80;
  EXPECT_EQ(decoded(DType::q8_0, q8, 32)[0], 254);
  EXPECT_EQ(decoded(DType::q8_0, q8, 32)[31], -256);

  std::vector<uint8_t> q4(18, 0x88);
  q4[0] = 0x00;
  q4[1] = 0x40;
  q4[2] = 0xf0;  // element 0: code 0, element 16: code 15
  EXPECT_EQ(decoded(DType::q4_0, q4, 32)[0], -16);
  EXPECT_EQ(decoded(DType::q4_0, q4, 32)[16], 14);
  EXPECT_EQ(decoded(DType::q4_0, q4, 32)[1], 0);

  std::vector<uint8_t> q51(24);
  q51[1] = 0x40;
  q51[3] = 0xbc;
  q51[4] = 0x02;   // fifth bit of element 1
  q51[7] = 0x80;   // and of element 31
  q51[9] = 0x03;   // element 1: code 3 + 16
  q51[23] = 0xf0;  // element 31: code 15 + 16
  EXPECT_EQ(decoded(DType::q5_1, q51, 32)[0], -1);
  EXPECT_EQ(decoded(DType::q5_1, q51, 32)[1], 37);
  EXPECT_EQ(decoded(DType::q5_1, q51, 32)[31], 61);
}

TEST(Codec, DecodesTheGroupsOfKFormatsComputedByHand) {
  // Q4_K: group 0 has scale 1, min 2; group 5 has scale 0b110001 = 49 and min 0b100011 = 35.
  std::vector<uint8_t> q4k(144);
  q4k[1] = 0x3c;                // d = 1
  q4k[3] = 0x38;                // m = 0.5
  q4k[4 + 0] = 1;               // scale 0
  q4k[4 + 4] = 2;               // min 0
  q4k[4 + 1] = 0xc0;            // top bits of scale 5: 11
  q4k[4 + 5] = 0x80;            // top bits of min 5: 10
  q4k[4 + 9] = 0x31;            // low bits: scale 0001, min 0011
  q4k[16 + 7] = 0x05;           // group 0, element 7
  q4k[16 + 2 * 32 + 9] = 0x60;  // group 5, element 9
  const std::vector<float> x = decoded(DType::q4_k, q4k, 256);
  EXPECT_EQ(x[7], 5 - 1.0f);
  EXPECT_EQ(x[5 * 32 + 9], 49 * 6 - 17.5f);
  EXPECT_EQ(x[5 * 32 + 8], -17.5f);
  EXPECT_EQ(x[40], 0);

  // Q6_K: element 200 is in the second half, at 72 of it: group 12, low byte 64 + 8 above, high
  // byte 32 + 8, third pair of bits.
  std::vector<uint8_t> q6k(210);
  q6k[209] = 0x3c;
  q6k[192 + 12] = 0xfe;  // scale -2
  q6k[64 + 8] = 0x90;
  q6k[128 + 32 + 8] = 0x20;
  EXPECT_EQ(decoded(DType::q6_k, q6k, 256)[200], -2 * (0x29 - 32));
}

TEST(Codec, KnowsWhichFormatsItWrites) {
  EXPECT_EQ(encodable().size(), 11u);
  for (const DType f : {DType::q2_k, DType::q3_k, DType::iq4_nl, DType::iq4_xs})
    EXPECT_FALSE(can_encode(f));
}

struct Bound {
  DType dtype;
  double normal;    // relative error on normal values
  double constant;  // on a constant row
};
constexpr Bound kBounds[] = {
    {DType::f32, 0, 0},         {DType::f16, 2.5e-4, 5e-4}, {DType::bf16, 2e-3, 4e-3},
    {DType::q8_0, 0.006, 5e-4}, {DType::q4_0, 0.084, 5e-4}, {DType::q4_1, 0.073, 5e-4},
    {DType::q5_0, 0.042, 5e-4}, {DType::q5_1, 0.036, 5e-4}, {DType::q4_k, 0.073, 5e-4},
    {DType::q5_k, 0.036, 5e-4}, {DType::q6_k, 0.018, 5e-4},
};

TEST(Codec, RandomRowsComeBackWithinTheErrorOfTheirFormat) {
  for (const Bound& bound : kBounds)
    for (const float scale : {0.02f, 1.0f, 300.0f}) {
      const std::vector<float> x = normals(8192, 3, scale);
      EXPECT_LE(relative_error(x, round_trip(bound.dtype, x)), bound.normal)
          << traits(bound.dtype).name << " at " << scale;
    }
}

TEST(Codec, ConstantRowsComeBackToTheirScalesPrecision) {
  for (const Bound& bound : kBounds)
    for (const float value : {0.7f, -0.3f, 100.0f}) {
      const std::vector<float> x(512, value);
      EXPECT_LE(relative_error(x, round_trip(bound.dtype, x)), bound.constant)
          << traits(bound.dtype).name << " of " << value;
    }
}

TEST(Codec, ZeroRowsStayZero) {
  const std::vector<float> zeros(256, 0.0f);
  for (const DType dtype : encodable())
    for (const float v : round_trip(dtype, zeros)) EXPECT_EQ(v, 0) << traits(dtype).name;
}

TEST(Codec, AnOutlierNeitherOverflowsNorDisappears) {
  for (const DType dtype : encodable()) {
    std::vector<float> x = normals(512, 5, 0.01f);
    x[100] = 50;
    x[300] = -50;
    const std::vector<float> y = round_trip(dtype, x);
    EXPECT_NEAR(y[100], 50, 4) << traits(dtype).name;
    EXPECT_NEAR(y[300], -50, 4) << traits(dtype).name;
    for (const float v : y) EXPECT_TRUE(std::isfinite(v)) << traits(dtype).name;
  }
}

TEST(Codec, HugeRowsSaturateInBlockFormats) {
  for (const DType dtype : encodable()) {
    if (traits(dtype).block_elements == 1) continue;
    for (const float magnitude : {1e6f, 1e12f, std::numeric_limits<float>::max()}) {
      std::vector<float> x(256);
      for (size_t i = 0; i < x.size(); ++i) x[i] = i % 2 == 0 ? magnitude : -magnitude;
      const std::vector<float> y = round_trip(dtype, x);
      for (size_t i = 0; i < x.size(); ++i) {
        EXPECT_TRUE(std::isfinite(y[i])) << traits(dtype).name;
        EXPECT_LE(std::fabs(y[i]), magnitude * 1.2f) << traits(dtype).name;
        // An f16 scale reaches at least 65504 * 7; an f16 offset -65504.
        const float expected = std::min(magnitude, 60000.0f);
        EXPECT_GE(x[i] > 0 ? y[i] : -y[i], 0.5f * expected) << traits(dtype).name << magnitude;
      }
    }
  }
}

TEST(Codec, TinyRowsBecomeSmallNotWrong) {
  for (const DType dtype : encodable()) {
    for (const float magnitude : {1e-6f, 1e-8f, 1e-20f, 1e-40f}) {
      std::vector<float> x(256);
      for (size_t i = 0; i < x.size(); ++i) x[i] = magnitude * (i % 3 == 0 ? -1.0f : 0.5f);
      for (const float v : round_trip(dtype, x)) {
        EXPECT_TRUE(std::isfinite(v)) << traits(dtype).name;
        EXPECT_LE(std::fabs(v), std::max(2 * magnitude, 1.3e-7f)) << traits(dtype).name;
      }
    }
  }
}

TEST(Codec, ValuesOnTheGridOfAFormatComeBackExactly) {
  std::vector<float> x(32);
  for (int i = 0; i < 32; ++i) x[i] = 0.25f * static_cast<float>(i % 16 - 8);
  EXPECT_EQ(round_trip(DType::q4_0, x), x);
  for (int i = 0; i < 32; ++i) x[i] = 0.5f * static_cast<float>(i % 16) + 3;
  EXPECT_EQ(round_trip(DType::q4_1, x), x);
  for (int i = 0; i < 32; ++i) x[i] = 2.0f * static_cast<float>(i - 16);
  EXPECT_EQ(round_trip(DType::q5_0, x), x);
  for (int i = 0; i < 32; ++i) x[i] = 2.0f * static_cast<float>(i) - 7;
  EXPECT_EQ(round_trip(DType::q5_1, x), x);
  for (int i = 0; i < 32; ++i)
    x[i] = 0.125f * static_cast<float>(4 * i - 127 + (i == 31 ? 130 : 0));
  EXPECT_EQ(round_trip(DType::q8_0, x), x);
}

// The usual encoding: the largest magnitude on the lowest level, or minimum and maximum on the
// ends, without any search.
std::vector<float> plain_grid(const std::vector<float>& x, int levels, bool affine) {
  std::vector<float> y(x.size());
  for (size_t b = 0; b < x.size(); b += 32) {
    const auto [low, high] = std::minmax_element(x.begin() + b, x.begin() + b + 32);
    const float extreme = -*low > *high ? *low : *high;
    const float step = affine ? (*high - *low) / static_cast<float>(levels - 1)
                              : extreme / static_cast<float>(-levels / 2);
    const float offset = affine ? *low : extreme;
    for (size_t i = b; i < b + 32; ++i) {
      const float q = std::round((x[i] - offset) / step);
      y[i] = offset + step * std::clamp(q, 0.0f, static_cast<float>(levels - 1));
    }
  }
  return y;
}

TEST(Codec, SearchedScalesBeatThePlainGrid) {
  const std::vector<float> x = normals(8192, 7, 0.05f);
  const struct {
    DType dtype;
    int levels;
    bool affine;
  } cases[] = {{DType::q4_0, 16, false},
               {DType::q5_0, 32, false},
               {DType::q4_1, 16, true},
               {DType::q5_1, 32, true}};
  for (const auto& c : cases)
    EXPECT_LT(relative_error(x, round_trip(c.dtype, x)),
              0.98 * relative_error(x, plain_grid(x, c.levels, c.affine)))
        << traits(c.dtype).name;
}

TEST(Codec, ABlockDoesNotDependOnItsNeighboursNorOnTheRun) {
  const std::vector<float> x = normals(1024, 9, 1.0f);
  for (const DType dtype : encodable()) {
    const std::vector<std::byte> whole = encoded(dtype, x);
    EXPECT_EQ(whole, encoded(dtype, x)) << traits(dtype).name;
    std::vector<std::byte> parts;
    for (size_t i = 0; i < x.size(); i += 256) {
      const std::vector<std::byte> part = encoded(dtype, {x.begin() + i, x.begin() + i + 256});
      parts.insert(parts.end(), part.begin(), part.end());
    }
    EXPECT_EQ(whole, parts) << traits(dtype).name;
  }
}

TEST(Codec, MoreBitsNeverCostAccuracy) {
  const std::vector<float> x = normals(8192, 11, 1.0f);
  const auto error = [&](DType dtype) { return relative_error(x, round_trip(dtype, x)); };
  EXPECT_LT(error(DType::q5_0), error(DType::q4_0));
  EXPECT_LT(error(DType::q5_k), error(DType::q4_k));
  EXPECT_LT(error(DType::q6_k), error(DType::q5_k));
  EXPECT_LT(error(DType::q8_0), error(DType::q6_k));
  EXPECT_LT(error(DType::q4_k), error(DType::q4_0));
}

TEST(Codec, EveryHalfSurvivesTheWayToFloatAndBack) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = half_to_float(half);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(half_to_float(float_to_half(value))));
      continue;
    }
    ASSERT_EQ(float_to_half(value), half);
    ASSERT_EQ(bf16_to_float(float_to_bf16(bf16_to_float(half))), bf16_to_float(half));
  }
  EXPECT_EQ(float_to_half(65519.0f), 0x7bff);  // the largest that does not round to infinity
  EXPECT_EQ(float_to_half(65520.0f), 0x7c00);
  EXPECT_EQ(float_to_half(1 + 0x1p-11f), 0x3c00);  // a tie goes to even
  EXPECT_EQ(float_to_half(1 + 0x1p-11f + 0x1p-20f), 0x3c01);
}

TEST(DType, KnowsItsNamesAndSizes) {
  for (const DType f : kFormats) {
    DType parsed = DType::f32;
    ASSERT_TRUE(parse_dtype(traits(f).name, parsed));
    EXPECT_EQ(parsed, f);
    EXPECT_TRUE(known(static_cast<uint32_t>(f)));
  }
  DType parsed = DType::f32;
  EXPECT_TRUE(parse_dtype("q4_k", parsed));
  EXPECT_EQ(parsed, DType::q4_k);
  EXPECT_FALSE(parse_dtype("Q4_Z", parsed));
  EXPECT_FALSE(known(4));
  EXPECT_FALSE(known(16));
  EXPECT_EQ(row_bytes(DType::q6_k, 512), 420u);
}

}  // namespace
}  // namespace pith

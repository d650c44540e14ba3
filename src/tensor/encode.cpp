#include "tensor/encode.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "tensor/half.h"

namespace pith {
namespace {

constexpr float kLargest = 0x1p30f;    // beyond what any of the formats reaches
constexpr float kSmallest = 0x1p-26f;  // no f16 scale times one level comes closer to it than zero

// A sum in eight parts: a fixed order that the compiler can keep in vector registers.
struct Sum {
  std::array<float, 8> part{};
  float total() const {
    return ((part[0] + part[4]) + (part[2] + part[6])) +
           ((part[1] + part[5]) + (part[3] + part[7]));
  }
};

// A block scaled by a power of two so that its largest magnitude lies in [1, 2): sums of squares
// neither overflow nor vanish. `back` undoes it.
template <int kCount>
struct Values {
  std::array<float, kCount> x;
  std::array<float, kCount> weight;
  float back = 1;
  bool zero = false;

  explicit Values(const float* from) {
    float largest = 0;
    for (int i = 0; i < kCount; ++i) {
      x[i] = std::clamp(from[i], -kLargest, kLargest);
      largest = std::max(largest, std::fabs(x[i]));
    }
    zero = largest < kSmallest;
    if (zero) return;
    const int exponent = std::ilogb(largest);
    const float scale = std::ldexp(1.0f, -exponent);
    back = std::ldexp(1.0f, exponent);
    float squares = 0;
    for (float& v : x) {
      v *= scale;
      squares += v * v;
    }
    const float typical = std::sqrt(squares / kCount);
    for (int i = 0; i < kCount; ++i) weight[i] = typical + std::fabs(x[i]);
  }

  // The f16 nearest to a scale of these values, saturating.
  uint16_t half(float scale) const {
    return float_to_half(std::clamp(scale * back, -65504.0f, 65504.0f));
  }
  // What that f16 means for these values.
  float value(uint16_t half) const { return half_to_float(half) / back; }
};

float square(float x) {
  return x * x;
}

// The level nearest to x * inverse; ties to even. Adding 1.5 * 2^23 leaves no bits for a fraction,
// which vectorises where a call of lrint does not.
float round_level(float x, float inverse, int low, int high) {
  const float inside =
      std::min(std::max(x * inverse, static_cast<float>(low)), static_cast<float>(high));
  return inside + 0x1.8p23f - 0x1.8p23f;
}

int level(float x, float inverse, int low, int high) {
  return static_cast<int>(round_level(x, inverse, low, high));
}

// 0 for a step of 0: everything becomes level 0.
float inverse_of(float step) {
  return step == 0 ? 0 : 1 / step;
}

// The step for x = step * q, q in [low, -low - 1]; either sign.
float fit_symmetric(const float* x, const float* weight, int count, int low) {
  float extreme = 0;
  for (int i = 0; i < count; ++i)
    if (std::fabs(x[i]) > std::fabs(extreme)) extreme = x[i];
  if (std::fabs(extreme) < 0x1p-60f) return 0;
  float best = 0, best_gain = 0;
  for (int turn = -6; turn <= 4; ++turn) {
    // The extreme value falls on `low`, a little beyond it or a little before.
    const float inverse = (static_cast<float>(low) + 0.2f * static_cast<float>(turn)) / extreme;
    Sum wxq, wqq;
    for (int i = 0; i < count; i += 8)
      for (int l = 0; l < 8; ++l) {
        const float q = round_level(x[i + l], inverse, low, -low - 1);
        wxq.part[l] += weight[i + l] * x[i + l] * q;
        wqq.part[l] += weight[i + l] * q * q;
      }
    const float products = wxq.total(), squares = wqq.total();
    if (squares > 0 && products * products > best_gain * squares) {
      best_gain = products * products / squares;
      best = products / squares;
    }
  }
  return best;
}

struct Affine {
  float step = 0, offset = 0;  // x = step * q + offset, step >= 0
};

// q in [0, high]. With `negative_offset` the offset may not be above zero.
Affine fit_affine(const float* x, const float* weight, int count, int high, bool negative_offset) {
  float low = *std::min_element(x, x + count), top = *std::max_element(x, x + count);
  if (negative_offset) low = std::min(low, 0.0f);
  const float span = top - low;
  if (span < 0x1p-60f) return {0, low};
  Sum w, wx;
  for (int i = 0; i < count; i += 8)
    for (int l = 0; l < 8; ++l) {
      w.part[l] += weight[i + l];
      wx.part[l] += weight[i + l] * x[i + l];
    }
  const float sw = w.total(), sx = wx.total();
  Affine best{span / static_cast<float>(high), low};
  float best_error = INFINITY;
  for (int turn = -5; turn <= 5; ++turn) {
    const float inverse = (static_cast<float>(high) + 0.2f * static_cast<float>(turn)) / span;
    Sum wq, wqq, wqx;
    std::array<float, 32> levels;
    for (int i = 0; i < count; i += 8)
      for (int l = 0; l < 8; ++l) {
        const float q = round_level(x[i + l] - low, inverse, 0, high);
        levels[i + l] = q;
        wq.part[l] += weight[i + l] * q;
        wqq.part[l] += weight[i + l] * q * q;
        wqx.part[l] += weight[i + l] * q * x[i + l];
      }
    const float sq = wq.total(), sqq = wqq.total(), sqx = wqx.total();
    const float determinant = sw * sqq - sq * sq;
    if (!(determinant > 0)) continue;
    Affine fit{(sw * sqx - sx * sq) / determinant, (sqq * sx - sq * sqx) / determinant};
    if (negative_offset && fit.offset > 0) fit = {sqx / sqq, 0};
    if (!(fit.step > 0)) continue;
    Sum squares;
    for (int i = 0; i < count; i += 8)
      for (int l = 0; l < 8; ++l)
        squares.part[l] += weight[i + l] * square(fit.step * levels[i + l] + fit.offset - x[i + l]);
    const float error = squares.total();
    if (error < best_error) {
      best_error = error;
      best = fit;
    }
  }
  return best;
}

// Codes of 32 values split into nibbles and, for the 5-bit formats, a fifth bit.
template <class Block>
void put_nibbles(const std::array<int, 32>& codes, Block& block) {
  for (int i = 0; i < 16; ++i)
    block.q[i] = static_cast<uint8_t>((codes[i] & 15) | (codes[i + 16] & 15) << 4);
}

void put_fifth_bits(const std::array<int, 32>& codes, uint8_t* high) {
  for (int i = 0; i < 32; ++i) high[i / 8] |= static_cast<uint8_t>((codes[i] >> 4 & 1) << (i % 8));
}

template <class Block>
std::array<int, 32> encode_symmetric(const float* from, int low, Block& block) {
  std::array<int, 32> codes;
  codes.fill(-low);
  const Values<32> values(from);
  if (values.zero) return codes;
  block.d = values.half(fit_symmetric(values.x.data(), values.weight.data(), 32, low));
  const float inverse = inverse_of(values.value(block.d));
  for (int i = 0; i < 32; ++i) codes[i] = level(values.x[i], inverse, low, -low - 1) - low;
  return codes;
}

template <class Block>
std::array<int, 32> encode_affine(const float* from, int high, Block& block) {
  std::array<int, 32> codes{};
  const Values<32> values(from);
  if (values.zero) return codes;
  const Affine fit = fit_affine(values.x.data(), values.weight.data(), 32, high, false);
  block.d = values.half(fit.step);
  block.m = values.half(fit.offset);
  const float inverse = inverse_of(values.value(block.d)), offset = values.value(block.m);
  for (int i = 0; i < 32; ++i) codes[i] = level(values.x[i] - offset, inverse, 0, high);
  return codes;
}

// The affine K formats: 8 groups of 32 whose steps and offsets are 6-bit multiples of d and m.
struct AffineGroups {
  uint16_t d = 0, m = 0;
  std::array<int, 8> scale{}, min{};
  std::array<uint8_t, 256> codes{};
};

// The error of 32 values under x = step * q - offset with the best q of [0, high].
float group_error(float step, float offset, int high, const float* x, const float* weight) {
  const float inverse = inverse_of(step);
  Sum squares;
  for (int i = 0; i < 32; i += 8)
    for (int l = 0; l < 8; ++l) {
      const float q = round_level(x[i + l] + offset, inverse, 0, high);
      squares.part[l] += weight[i + l] * square(step * q - offset - x[i + l]);
    }
  return squares.total();
}

// Chooses the 6-bit scales and mins for given d and m, next to the wanted ones; returns the error.
float choose_group_scales(const Values<256>& values, const std::array<Affine, 8>& wanted, int high,
                          AffineGroups& out) {
  const float d = values.value(out.d), m = values.value(out.m);
  float total = 0;
  for (int g = 0; g < 8; ++g) {
    const int scale = level(wanted[g].step, inverse_of(d), 0, 63);
    const int min = level(-wanted[g].offset, inverse_of(m), 0, 63);
    float best = INFINITY;
    for (int s = std::max(0, scale - 1); s <= std::min(63, scale + 1); ++s)
      for (int o = std::max(0, min - 1); o <= std::min(63, min + 1); ++o) {
        const float error = group_error(d * static_cast<float>(s), m * static_cast<float>(o), high,
                                        values.x.data() + g * 32, values.weight.data() + g * 32);
        if (error < best) {
          best = error;
          out.scale[g] = s;
          out.min[g] = o;
        }
      }
    total += best;
  }
  return total;
}

void choose_codes(const Values<256>& values, int high, AffineGroups& out) {
  const float d = values.value(out.d), m = values.value(out.m);
  for (int e = 0; e < 256; ++e) {
    const float inverse = inverse_of(d * static_cast<float>(out.scale[e / 32]));
    const float offset = m * static_cast<float>(out.min[e / 32]);
    out.codes[e] = static_cast<uint8_t>(level(values.x[e] + offset, inverse, 0, high));
  }
}

// d and m that suit the chosen scales, mins and codes best.
Affine refit(const Values<256>& values, const AffineGroups& groups) {
  float saa = 0, sab = 0, sbb = 0, sax = 0, sbx = 0;
  for (int e = 0; e < 256; ++e) {
    const float a = static_cast<float>(groups.scale[e / 32] * groups.codes[e]);
    const float b = -static_cast<float>(groups.min[e / 32]);
    const float w = values.weight[e], x = values.x[e];
    saa += w * a * a;
    sab += w * a * b;
    sbb += w * b * b;
    sax += w * a * x;
    sbx += w * b * x;
  }
  if (sbb == 0) return {saa > 0 ? sax / saa : 0, 0};
  if (saa == 0) return {0, sbx / sbb};
  const float determinant = saa * sbb - sab * sab;
  if (!(determinant > 1e-6f * saa * sbb)) return {};
  return {(sax * sbb - sbx * sab) / determinant, (sbx * saa - sax * sab) / determinant};
}

AffineGroups encode_groups(const float* from, int high) {
  AffineGroups best;
  const Values<256> values(from);
  if (values.zero) return best;
  std::array<Affine, 8> wanted;
  float step = 0, min = 0;
  for (int g = 0; g < 8; ++g) {
    wanted[g] = fit_affine(values.x.data() + g * 32, values.weight.data() + g * 32, 32, high, true);
    step = std::max(step, wanted[g].step);
    min = std::max(min, -wanted[g].offset);
  }
  best.d = values.half(step / 63);
  best.m = values.half(min / 63);
  const float error = choose_group_scales(values, wanted, high, best);
  choose_codes(values, high, best);
  // One refit of d and m to the codes gains 1 to 3 % of error; a second one nothing.
  const Affine fit = refit(values, best);
  if (!(fit.step > 0) && !(fit.offset > 0)) return best;
  AffineGroups next = best;
  next.d = values.half(std::max(fit.step, 0.0f));
  next.m = values.half(std::max(fit.offset, 0.0f));
  if (choose_group_scales(values, wanted, high, next) < error) {
    best = next;
    choose_codes(values, high, best);
  }
  return best;
}

void pack_scale_mins(const AffineGroups& groups, uint8_t* scales) {
  for (int g = 0; g < 4; ++g) {
    scales[g] = static_cast<uint8_t>(groups.scale[g] | groups.scale[g + 4] >> 4 << 6);
    scales[g + 4] = static_cast<uint8_t>(groups.min[g] | groups.min[g + 4] >> 4 << 6);
    scales[g + 8] =
        static_cast<uint8_t>((groups.scale[g + 4] & 15) | (groups.min[g + 4] & 15) << 4);
  }
}

// Low nibbles of group 2 j and 2 j + 1 share 32 bytes.
void pack_group_nibbles(const std::array<uint8_t, 256>& codes, uint8_t* q) {
  for (int pair = 0; pair < 4; ++pair)
    for (int i = 0; i < 32; ++i)
      q[pair * 32 + i] =
          static_cast<uint8_t>((codes[pair * 64 + i] & 15) | (codes[pair * 64 + 32 + i] & 15) << 4);
}

}  // namespace

BlockQ80 encode_q8_0(const float* x) {
  BlockQ80 block{};
  const Values<32> values(x);
  if (values.zero) return block;
  float largest = 0;
  for (const float v : values.x) largest = std::max(largest, std::fabs(v));
  block.d = values.half(largest / 127);
  const float inverse = inverse_of(values.value(block.d));
  for (int i = 0; i < 32; ++i)
    block.q[i] = static_cast<int8_t>(level(values.x[i], inverse, -127, 127));
  return block;
}

BlockQ40 encode_q4_0(const float* x) {
  BlockQ40 block{};
  put_nibbles(encode_symmetric(x, -8, block), block);
  return block;
}

BlockQ41 encode_q4_1(const float* x) {
  BlockQ41 block{};
  put_nibbles(encode_affine(x, 15, block), block);
  return block;
}

BlockQ50 encode_q5_0(const float* x) {
  BlockQ50 block{};
  const std::array<int, 32> codes = encode_symmetric(x, -16, block);
  put_nibbles(codes, block);
  put_fifth_bits(codes, block.high);
  return block;
}

BlockQ51 encode_q5_1(const float* x) {
  BlockQ51 block{};
  const std::array<int, 32> codes = encode_affine(x, 31, block);
  put_nibbles(codes, block);
  put_fifth_bits(codes, block.high);
  return block;
}

BlockQ4K encode_q4_k(const float* x) {
  const AffineGroups groups = encode_groups(x, 15);
  BlockQ4K block{};
  block.d = groups.d;
  block.m = groups.m;
  pack_scale_mins(groups, block.scales);
  pack_group_nibbles(groups.codes, block.q);
  return block;
}

BlockQ5K encode_q5_k(const float* x) {
  const AffineGroups groups = encode_groups(x, 31);
  BlockQ5K block{};
  block.d = groups.d;
  block.m = groups.m;
  pack_scale_mins(groups, block.scales);
  pack_group_nibbles(groups.codes, block.q);
  for (int e = 0; e < 256; ++e)
    block.high[e % 32] |= static_cast<uint8_t>((groups.codes[e] >> 4) << (e / 32));
  return block;
}

BlockQ6K encode_q6_k(const float* x) {
  BlockQ6K block{};
  const Values<256> values(x);
  std::array<int, 256> codes;
  codes.fill(32);
  if (!values.zero) {
    std::array<float, 16> steps;
    float extreme = 0;
    for (int g = 0; g < 16; ++g) {
      steps[g] = fit_symmetric(values.x.data() + g * 16, values.weight.data() + g * 16, 16, -32);
      if (std::fabs(steps[g]) > std::fabs(extreme)) extreme = steps[g];
    }
    block.d = values.half(extreme / -128);
    // The second round refits d to what the first one chose.
    for (int round = 0; round < 2; ++round) {
      const float d = values.value(block.d);
      float products = 0, squares = 0;
      for (int g = 0; g < 16; ++g) {
        block.scales[g] = static_cast<int8_t>(level(steps[g], inverse_of(d), -128, 127));
        const float inverse = inverse_of(d * static_cast<float>(block.scales[g]));
        for (int e = g * 16; e < g * 16 + 16; ++e) {
          const int q = level(values.x[e], inverse, -32, 31);
          codes[e] = q + 32;
          const float product = static_cast<float>(block.scales[g] * q);
          products += values.weight[e] * values.x[e] * product;
          squares += values.weight[e] * product * product;
        }
      }
      if (round == 0 && squares > 0) block.d = values.half(products / squares);
    }
  }
  for (int e = 0; e < 256; ++e) {
    const int half = e / 128, within = e % 128;
    block.low[half * 64 + within % 64] |=
        static_cast<uint8_t>((codes[e] & 15) << (4 * (within / 64)));
    block.high[half * 32 + within % 32] |=
        static_cast<uint8_t>((codes[e] >> 4) << (2 * (within / 32)));
  }
  return block;
}

}  // namespace pith

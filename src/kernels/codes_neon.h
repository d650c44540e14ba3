// Products of bytes with NEON, without the dot product instructions that only newer CPUs have.
// codes_scalar.h explains the vocabulary.
//
// Both factors of vmull_s8 are signed, so codes have seven bits at most or are signed, and two
// products fit into 16 bits.
#pragma once

namespace pith {
namespace {
namespace PITH_TARGET {

constexpr bool kSignedBytes = true;
constexpr int code_steps(int) {
  return 8;
}

constexpr bool kCodesHalves = false;

struct Quad {
  int8x8_t v;
  static Quad all(const std::byte* p) {
    int32_t four;
    __builtin_memcpy(&four, p, sizeof four);
    return {vreinterpret_s8_s32(vdup_n_s32(four))};
  }
};

struct Codes {
  int8x16_t v;
  static Codes load(const std::byte* p) { return {vld1q_s8(reinterpret_cast<const int8_t*>(p))}; }
};

inline IVec pair_dot(IVec a, IVec b) {
  const int16x8_t x = vreinterpretq_s16_s32(a.v), y = vreinterpretq_s16_s32(b.v);
  return {vpaddq_s32(vmull_s16(vget_low_s16(x), vget_low_s16(y)), vmull_high_s16(x, y))};
}

struct CodeSum {
  int32x4_t v;
  static CodeSum first(Codes w, Quad a) {
    CodeSum sum{vdupq_n_s32(0)};
    sum.add(w, a);
    return sum;
  }
  void add(Codes w, Quad a) {
    const int16x8_t low = vmull_s8(vget_low_s8(w.v), a.v);
    const int16x8_t high = vmull_s8(vget_high_s8(w.v), a.v);
    v = vpadalq_s16(v, vpaddq_s16(low, high));
  }
  IVec total() const { return {v}; }
  IVec total(IVec pair) const { return {vmulq_s32(v, vshrq_n_s32(pair.v, 16))}; }
};

template <bool Signed>
using SumOf = CodeSum;

constexpr int kRowsAtOnce = 1;
using Source = OneRow;
inline Source source(const std::byte* const* rows, int r) {
  return {rows[r]};
}

template <bool Signed>
inline void spread(const Bytes* low, const Bytes* high, std::byte* to) {
  for (int half = 0; half < 2; ++half) {
    Vec x[4];
    for (int r = 0; r < 4; ++r) x[r] = {vreinterpretq_f32_u8(half == 0 ? low[r].v : high[r].v)};
    transpose(x);
    for (int q = 0; q < 4; ++q) {
      const uint8x16_t codes = vreinterpretq_u8_f32(x[q].v);
      auto* at = reinterpret_cast<uint8_t*>(to) + 16 * (4 * half + q);
      vst1q_u8(at, Signed ? veorq_u8(codes, vdupq_n_u8(128)) : codes);
    }
  }
}

constexpr bool kSpreadsInRegisters = false;

inline IVec words_of(const std::byte* const* rows, size_t offset) {
  int32_t words[IVec::lanes];
  for (int r = 0; r < IVec::lanes; ++r) __builtin_memcpy(words + r, rows[r] + offset, 4);
  return IVec::load(words);
}

inline Vec halves_of(const std::byte* const* rows, size_t offset) {
  alignas(32) uint16_t half[Vec::lanes];
  for (int r = 0; r < Vec::lanes; ++r) __builtin_memcpy(half + r, rows[r] + offset, 2);
  return Vec::load_f16(reinterpret_cast<const std::byte*>(half));
}

// from [lanes][8] to [8] vectors.
inline void across(const float (*from)[8], Vec* to) {
  for (int g = 0; g < 8; ++g) {
    float lane[Vec::lanes];
    for (int r = 0; r < Vec::lanes; ++r) lane[r] = from[r][g];
    to[g] = Vec::load(lane);
  }
}

inline void widen_i16(const std::byte* from, std::byte* to) {
  const int8x16_t bytes = vld1q_s8(reinterpret_cast<const int8_t*>(from));
  vst1q_u8(reinterpret_cast<uint8_t*>(to), vreinterpretq_u8_s16(vmovl_s8(vget_low_s8(bytes))));
  vst1q_u8(reinterpret_cast<uint8_t*>(to) + 16, vreinterpretq_u8_s16(vmovl_high_s8(bytes)));
}

inline void store_i8(std::byte* p, IVec x) {
  const int8x8_t bytes = vmovn_s16(vcombine_s16(vmovn_s32(x.v), vdup_n_s16(0)));
  const int32_t four = vget_lane_s32(vreinterpret_s32_s8(bytes), 0);
  __builtin_memcpy(p, &four, sizeof four);
}

inline Vec fused(Vec a, Vec b, Vec c) {
  return mul_add(a, b, c);
}

}  // namespace PITH_TARGET
}  // namespace
}  // namespace pith

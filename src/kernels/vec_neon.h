// Four floats (aarch64 NEON). vec_scalar.h explains the vocabulary.
#pragma once

#include <arm_neon.h>
#include <cstddef>
#include <cstdint>

namespace pith {
namespace {
namespace PITH_TARGET {

struct Mask {
  uint32x4_t v;
};
inline Mask operator&(Mask a, Mask b) {
  return {vandq_u32(a.v, b.v)};
}
inline Mask operator|(Mask a, Mask b) {
  return {vorrq_u32(a.v, b.v)};
}
inline bool any(Mask m) {
  return vmaxvq_u32(m.v) != 0;
}

constexpr uint32_t kIota[4] = {0, 1, 2, 3};
inline Mask first_lanes(int n) {
  return {vcltq_u32(vld1q_u32(kIota), vdupq_n_u32(static_cast<uint32_t>(n)))};
}

// ---- integers

struct IVec {
  static constexpr int lanes = 4;
  int32x4_t v;
  static IVec zero() { return {vdupq_n_s32(0)}; }
  static IVec all(int32_t x) { return {vdupq_n_s32(x)}; }
  static IVec iota() { return {vreinterpretq_s32_u32(vld1q_u32(kIota))}; }
  static IVec load(const int32_t* p) { return {vld1q_s32(p)}; }
  static IVec load(const std::byte* p) {
    return {vreinterpretq_s32_u8(vld1q_u8(reinterpret_cast<const uint8_t*>(p)))};
  }
  static IVec load_part(const int32_t* p, int n) {
    int32_t x[4] = {};
    __builtin_memcpy(x, p, static_cast<size_t>(n) * 4);
    return load(x);
  }
  static IVec load_u8(const std::byte* p) {
    uint32_t four;
    __builtin_memcpy(&four, p, sizeof four);
    const uint8x8_t bytes = vreinterpret_u8_u32(vdup_n_u32(four));
    return {vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(bytes))))};
  }
  static IVec load_i8(const std::byte* p) {
    uint32_t four;
    __builtin_memcpy(&four, p, sizeof four);
    const int8x8_t bytes = vreinterpret_s8_u32(vdup_n_u32(four));
    return {vmovl_s16(vget_low_s16(vmovl_s8(bytes)))};
  }
  static IVec load_i8_pairs(const std::byte* p) {
    return {vreinterpretq_s32_s16(vmovl_s8(vld1_s8(reinterpret_cast<const int8_t*>(p))))};
  }
};
inline void store(int32_t* p, IVec x) {
  vst1q_s32(p, x.v);
}
inline void store_low16(void* p, IVec x) {
  vst1_s16(static_cast<int16_t*>(p), vmovn_s32(x.v));
}
inline IVec operator+(IVec a, IVec b) {
  return {vaddq_s32(a.v, b.v)};
}
inline IVec operator-(IVec a, IVec b) {
  return {vsubq_s32(a.v, b.v)};
}
inline IVec operator&(IVec a, IVec b) {
  return {vandq_s32(a.v, b.v)};
}
inline IVec operator|(IVec a, IVec b) {
  return {vorrq_s32(a.v, b.v)};
}
template <int Bits>
IVec shift_left(IVec x) {
  return {vshlq_n_s32(x.v, Bits)};
}
template <int Bits>
IVec shift_right(IVec x) {
  return {vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(x.v), Bits))};
}
template <int Bits>
IVec shift_right_signed(IVec x) {
  return {vshrq_n_s32(x.v, Bits)};
}
inline IVec shift_right(IVec x, IVec bits) {
  return {vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(x.v), vnegq_s32(bits.v)))};
}
inline IVec add_pairs(IVec a, IVec b, IVec total) {
  const int16x8_t x = vreinterpretq_s16_s32(a.v), y = vreinterpretq_s16_s32(b.v);
  const int32x4_t low = vmull_s16(vget_low_s16(x), vget_low_s16(y));
  return {vaddq_s32(total.v, vpaddq_s32(low, vmull_high_s16(x, y)))};
}
inline Mask less(IVec a, IVec b) {
  return {vcltq_s32(a.v, b.v)};
}
inline IVec select(Mask m, IVec yes, IVec no) {
  return {vbslq_s32(m.v, yes.v, no.v)};
}

// ---- sixteen bytes, whatever the lanes

struct Bytes {
  uint8x16_t v;
  static Bytes load(const void* p) { return {vld1q_u8(static_cast<const uint8_t*>(p))}; }
  static Bytes all(uint8_t x) { return {vdupq_n_u8(x)}; }
  static Bytes all4(const std::byte* p) {
    uint32_t four;
    __builtin_memcpy(&four, p, sizeof four);
    return {vreinterpretq_u8_u32(vdupq_n_u32(four))};
  }
};
inline Bytes operator&(Bytes a, Bytes b) {
  return {vandq_u8(a.v, b.v)};
}
inline Bytes operator|(Bytes a, Bytes b) {
  return {vorrq_u8(a.v, b.v)};
}
inline Bytes operator-(Bytes a, Bytes b) {
  return {vsubq_u8(a.v, b.v)};
}
inline Bytes shift_right(Bytes x, int bits) {
  return {vshlq_u8(x.v, vdupq_n_s8(static_cast<int8_t>(-bits)))};
}
inline Bytes shift_left(Bytes x, int bits) {
  return {vshlq_u8(x.v, vdupq_n_s8(static_cast<int8_t>(bits)))};
}
inline Bytes equal(Bytes a, Bytes b) {
  return {vceqq_u8(a.v, b.v)};
}
inline Bytes lookup(Bytes table, Bytes index) {
  return {vqtbl1q_u8(table.v, index.v)};
}

// ---- floats

struct Vec {
  static constexpr int lanes = 4;
  float32x4_t v;
  static Vec zero() { return {vdupq_n_f32(0)}; }
  static Vec all(float x) { return {vdupq_n_f32(x)}; }
  static Vec load(const float* p) { return {vld1q_f32(p)}; }
  static Vec load(const std::byte* p) {
    return {vreinterpretq_f32_u8(vld1q_u8(reinterpret_cast<const uint8_t*>(p)))};
  }
  static Vec load_f16(const std::byte* p) {
    return {vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(reinterpret_cast<const uint8_t*>(p))))};
  }
  static Vec all_f16(const std::byte* p) {
    uint16_t half;
    __builtin_memcpy(&half, p, sizeof half);
    return {vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(half)))};
  }
  static Vec load_bf16(const std::byte* p) {
    const uint16x4_t half = vreinterpret_u16_u8(vld1_u8(reinterpret_cast<const uint8_t*>(p)));
    return {vreinterpretq_f32_u32(vshll_n_u16(half, 16))};
  }
  static Vec load_part(const float* p, int n) {
    float x[4] = {};
    __builtin_memcpy(x, p, static_cast<size_t>(n) * 4);
    return load(x);
  }
  static Vec load_part(const std::byte* p, int n) {
    float x[4] = {};
    __builtin_memcpy(x, p, static_cast<size_t>(n) * 4);
    return load(x);
  }
  static Vec load_f16_part(const std::byte* p, int n) {
    std::byte x[8] = {};
    __builtin_memcpy(x, p, static_cast<size_t>(n) * 2);
    return load_f16(x);
  }
  static Vec load_bf16_part(const std::byte* p, int n) {
    std::byte x[8] = {};
    __builtin_memcpy(x, p, static_cast<size_t>(n) * 2);
    return load_bf16(x);
  }
};
inline void store(float* p, Vec x) {
  vst1q_f32(p, x.v);
}
inline void store_part(float* p, int n, Vec x) {
  float y[4];
  store(y, x);
  __builtin_memcpy(p, y, static_cast<size_t>(n) * 4);
}
inline void store_f16(std::byte* p, Vec x) {
  vst1_u8(reinterpret_cast<uint8_t*>(p), vreinterpret_u8_f16(vcvt_f16_f32(x.v)));
}
inline void store_f16_part(std::byte* p, int n, Vec x) {
  std::byte half[8];
  store_f16(half, x);
  __builtin_memcpy(p, half, static_cast<size_t>(n) * 2);
}

inline Vec operator+(Vec a, Vec b) {
  return {vaddq_f32(a.v, b.v)};
}
inline Vec operator-(Vec a, Vec b) {
  return {vsubq_f32(a.v, b.v)};
}
inline Vec operator*(Vec a, Vec b) {
  return {vmulq_f32(a.v, b.v)};
}
inline Vec operator/(Vec a, Vec b) {
  return {vdivq_f32(a.v, b.v)};
}
inline Vec mul_add(Vec a, Vec b, Vec c) {
  return {vfmaq_f32(c.v, a.v, b.v)};
}
// Not vmaxq, which answers NaN whichever operand it is in.
inline Vec max(Vec a, Vec b) {
  return {vbslq_f32(vcgtq_f32(a.v, b.v), a.v, b.v)};
}
inline Vec min(Vec a, Vec b) {
  return {vbslq_f32(vcltq_f32(a.v, b.v), a.v, b.v)};
}
inline Vec abs(Vec x) {
  return {vabsq_f32(x.v)};
}
inline Vec copy_sign(Vec magnitude, Vec sign) {
  return {vbslq_f32(vdupq_n_u32(0x80000000u), sign.v, magnitude.v)};
}

inline Mask less(Vec a, Vec b) {
  return {vcltq_f32(a.v, b.v)};
}
inline Mask equal(Vec a, Vec b) {
  return {vceqq_f32(a.v, b.v)};
}
inline Vec select(Mask m, Vec yes, Vec no) {
  return {vbslq_f32(m.v, yes.v, no.v)};
}

inline Vec to_float(IVec x) {
  return {vcvtq_f32_s32(x.v)};
}
inline IVec bits(Vec x) {
  return {vreinterpretq_s32_f32(x.v)};
}
inline Vec from_bits(IVec x) {
  return {vreinterpretq_f32_s32(x.v)};
}

constexpr float kCodeUnit = 1;
inline Vec code_floats(Bytes x, int i) {
  const int8x16_t codes = vreinterpretq_s8_u8(x.v);
  const int16x8_t half = vmovl_s8(i < 2 ? vget_low_s8(codes) : vget_high_s8(codes));
  return {vcvtq_f32_s32(vmovl_s16(i % 2 == 0 ? vget_low_s16(half) : vget_high_s16(half)))};
}

// (0 + 2) + (1 + 3)
inline float sum(Vec x) {
  const float32x2_t two = vadd_f32(vget_low_f32(x.v), vget_high_f32(x.v));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
inline float largest(Vec x) {
  const Vec two = max(x, {vextq_f32(x.v, x.v, 2)});
  return vgetq_lane_f32(max(two, {vextq_f32(two.v, two.v, 1)}).v, 0);
}

// The same additions for four vectors at once.
inline void sum4(const Vec* x, float* out) {
  float32x2_t two[4];
  for (int i = 0; i < 4; ++i) two[i] = vadd_f32(vget_low_f32(x[i].v), vget_high_f32(x[i].v));
  vst1q_f32(out, vpaddq_f32(vcombine_f32(two[0], two[1]), vcombine_f32(two[2], two[3])));
}

inline void transpose(Vec* x) {
  const float32x4x2_t a = vtrnq_f32(x[0].v, x[1].v), b = vtrnq_f32(x[2].v, x[3].v);
  for (int i = 0; i < 2; ++i) {
    x[i].v = vcombine_f32(vget_low_f32(a.val[i]), vget_low_f32(b.val[i]));
    x[i + 2].v = vcombine_f32(vget_high_f32(a.val[i]), vget_high_f32(b.val[i]));
  }
}

inline float load_half(const std::byte* p) {
  uint16_t half;
  __builtin_memcpy(&half, p, sizeof half);
  return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(half))), 0);
}

inline float square_root(float x) {
  return vgetq_lane_f32(vsqrtq_f32(vdupq_n_f32(x)), 0);
}

}  // namespace PITH_TARGET
}  // namespace
}  // namespace pith

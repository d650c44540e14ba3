// One float: the portable target, and the definition of what every kernel computes. Its results
// are the same bits on every machine, so it uses nothing but + - * / and square roots: no library
// function, and no fused multiply-add (mul_add rounds twice here, once on every other target).
//
// The vocabulary of the *.inl.h kernels; each vec_*.h spells all of it anew:
//   Vec    `lanes` floats       IVec   as many int32       Mask   as many truth values
//   Bytes  sixteen bytes, or sixteens side by side: codes of weights before they are widened
// Loads and stores need no alignment. *_part moves the first n < lanes values only; the lanes
// behind them read as zero. max, min: the second operand where either is NaN.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pith {
namespace {
namespace PITH_TARGET {

struct Mask {
  bool v;
};
inline Mask operator&(Mask a, Mask b) {
  return {a.v && b.v};
}
inline Mask operator|(Mask a, Mask b) {
  return {a.v || b.v};
}
inline bool any(Mask m) {
  return m.v;
}

// ---- integers

struct IVec {
  static constexpr int lanes = 1;
  int32_t v;
  static IVec zero() { return {0}; }
  static IVec all(int32_t x) { return {x}; }
  static IVec iota() { return {0}; }  // 0, 1, 2, ...
  static IVec load(const int32_t* p) { return {*p}; }
  static IVec load(const std::byte* p) {
    IVec x;
    __builtin_memcpy(&x.v, p, sizeof x.v);
    return x;
  }
  static IVec load_part(const int32_t* p, int n) { return {n > 0 ? *p : 0}; }
  static IVec load_u8(const std::byte* p) { return {static_cast<uint8_t>(*p)}; }
  static IVec load_i8(const std::byte* p) { return {static_cast<int8_t>(*p)}; }
  // 2 * lanes signed bytes, two to a lane, each widened to 16 bits; the first is the lower one.
  static IVec load_i8_pairs(const std::byte* p) {
    const uint32_t low = static_cast<uint16_t>(static_cast<int8_t>(p[0]));
    const uint32_t high = static_cast<uint16_t>(static_cast<int8_t>(p[1]));
    return {static_cast<int32_t>(low | high << 16)};
  }
};
inline void store(int32_t* p, IVec x) {
  *p = x.v;
}
// The lower 16 bits of each lane.
inline void store_low16(void* p, IVec x) {
  const uint16_t low = static_cast<uint16_t>(x.v);
  __builtin_memcpy(p, &low, sizeof low);
}
// Arithmetic wraps around.
inline IVec operator+(IVec a, IVec b) {
  return {static_cast<int32_t>(static_cast<uint32_t>(a.v) + static_cast<uint32_t>(b.v))};
}
inline IVec operator-(IVec a, IVec b) {
  return {static_cast<int32_t>(static_cast<uint32_t>(a.v) - static_cast<uint32_t>(b.v))};
}
inline IVec operator&(IVec a, IVec b) {
  return {a.v & b.v};
}
inline IVec operator|(IVec a, IVec b) {
  return {a.v | b.v};
}
template <int Bits>
IVec shift_left(IVec x) {
  return {static_cast<int32_t>(static_cast<uint32_t>(x.v) << Bits)};
}
template <int Bits>
IVec shift_right(IVec x) {  // zeros come in
  return {static_cast<int32_t>(static_cast<uint32_t>(x.v) >> Bits)};
}
template <int Bits>
IVec shift_right_signed(IVec x) {
  return {x.v >> Bits};
}
inline IVec shift_right(IVec x, IVec bits) {  // each lane by its own count, 0 to 31
  return {static_cast<int32_t>(static_cast<uint32_t>(x.v) >> bits.v)};
}
// total + a.low * b.low + a.high * b.high of lanes that hold two signed 16-bit numbers each.
inline IVec add_pairs(IVec a, IVec b, IVec total) {
  const auto low = [](IVec x) { return static_cast<int32_t>(static_cast<int16_t>(x.v)); };
  const auto high = [](IVec x) { return x.v >> 16; };
  return total + IVec{low(a) * low(b)} + IVec{high(a) * high(b)};
}
inline Mask less(IVec a, IVec b) {
  return {a.v < b.v};
}
inline IVec select(Mask m, IVec yes, IVec no) {
  return m.v ? yes : no;
}

// ---- sixteen bytes, whatever the lanes

struct Bytes {
  uint8_t v[16];
  static Bytes load(const void* p) {
    Bytes x;
    __builtin_memcpy(x.v, p, 16);
    return x;
  }
  static Bytes all4(const std::byte* p) {  // four bytes, repeated
    Bytes x;
    for (int i = 0; i < 16; i += 4) __builtin_memcpy(x.v + i, p, 4);
    return x;
  }
  static Bytes all(uint8_t x) {
    Bytes r;
    for (uint8_t& b : r.v) b = x;
    return r;
  }
};
template <class Function>
Bytes each_byte(Bytes a, Bytes b, Function function) {
  for (int i = 0; i < 16; ++i) a.v[i] = static_cast<uint8_t>(function(a.v[i], b.v[i]));
  return a;
}
inline Bytes operator&(Bytes a, Bytes b) {
  return each_byte(a, b, [](int x, int y) { return x & y; });
}
inline Bytes operator|(Bytes a, Bytes b) {
  return each_byte(a, b, [](int x, int y) { return x | y; });
}
inline Bytes operator-(Bytes a, Bytes b) {
  return each_byte(a, b, [](int x, int y) { return x - y; });
}
// Shifts, 0 to 7. What comes in from outside a byte is not defined: mask it away.
inline Bytes shift_right(Bytes x, int bits) {
  return each_byte(x, x, [bits](int a, int) { return a >> bits; });
}
inline Bytes shift_left(Bytes x, int bits) {
  return each_byte(x, x, [bits](int a, int) { return a << bits; });
}
inline Bytes equal(Bytes a, Bytes b) {  // 255 or 0
  return each_byte(a, b, [](int x, int y) { return x == y ? 255 : 0; });
}
inline Bytes lookup(Bytes table, Bytes index) {  // index 0 to 15
  return each_byte(index, index, [&table](int i, int) { return table.v[i]; });
}

// ---- floats

inline uint32_t bits_of(float x) {
  return __builtin_bit_cast(uint32_t, x);
}
inline float float_of(uint32_t x) {
  return __builtin_bit_cast(float, x);
}

inline float half_to_float(uint16_t x) {
  const uint32_t sign = static_cast<uint32_t>(x & 0x8000u) << 16;
  const uint32_t exponent = (x >> 10) & 0x1fu, mantissa = x & 0x3ffu;
  if (exponent == 31) {
    const uint32_t quiet = mantissa ? 0x400000u : 0;  // as the conversion instructions do
    return float_of(sign | 0x7f800000u | (mantissa << 13) | quiet);
  }
  if (exponent == 0)  // zero or subnormal: mantissa * 2^-24, exact
    return float_of(sign | bits_of(static_cast<float>(mantissa) * 0x1p-24f));
  return float_of(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

inline uint16_t float_to_half(float x) {  // to nearest even
  const uint16_t sign = static_cast<uint16_t>((bits_of(x) >> 16) & 0x8000u);
  const uint32_t magnitude = bits_of(x) & 0x7fffffffu;
  if (magnitude > 0x7f800000u)  // NaN, made quiet
    return static_cast<uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x38800000u)  // subnormal: adding 0.5 puts 2^-24 into the last bit and rounds
    return static_cast<uint16_t>(sign | (bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u));
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

struct Vec {
  static constexpr int lanes = 1;
  float v;
  static Vec zero() { return {0}; }
  static Vec all(float x) { return {x}; }
  static Vec load(const float* p) { return {*p}; }
  static Vec load(const std::byte* p) {
    float x;
    __builtin_memcpy(&x, p, sizeof x);
    return {x};
  }
  static Vec load_f16(const std::byte* p) {
    uint16_t x;
    __builtin_memcpy(&x, p, sizeof x);
    return {half_to_float(x)};
  }
  static Vec all_f16(const std::byte* p) { return load_f16(p); }  // one f16 in every lane
  static Vec load_bf16(const std::byte* p) {
    uint16_t x;
    __builtin_memcpy(&x, p, sizeof x);
    return {float_of(static_cast<uint32_t>(x) << 16)};
  }
  static Vec load_part(const float* p, int n) { return {n > 0 ? *p : 0}; }
  static Vec load_part(const std::byte* p, int n) { return n > 0 ? load(p) : zero(); }
  static Vec load_f16_part(const std::byte* p, int n) { return n > 0 ? load_f16(p) : zero(); }
  static Vec load_bf16_part(const std::byte* p, int n) { return n > 0 ? load_bf16(p) : zero(); }
};
inline void store(float* p, Vec x) {
  *p = x.v;
}
inline void store_part(float* p, int n, Vec x) {
  if (n > 0) *p = x.v;
}
inline void store_f16(std::byte* p, Vec x) {
  const uint16_t h = float_to_half(x.v);
  __builtin_memcpy(p, &h, sizeof h);
}
inline void store_f16_part(std::byte* p, int n, Vec x) {
  if (n > 0) store_f16(p, x);
}

inline Vec operator+(Vec a, Vec b) {
  return {a.v + b.v};
}
inline Vec operator-(Vec a, Vec b) {
  return {a.v - b.v};
}
inline Vec operator*(Vec a, Vec b) {
  return {a.v * b.v};
}
inline Vec operator/(Vec a, Vec b) {
  return {a.v / b.v};
}
inline Vec mul_add(Vec a, Vec b, Vec c) {
  return {a.v * b.v + c.v};
}  // a * b + c
inline Vec max(Vec a, Vec b) {
  return {a.v > b.v ? a.v : b.v};
}
inline Vec min(Vec a, Vec b) {
  return {a.v < b.v ? a.v : b.v};
}
inline Vec abs(Vec x) {
  return {float_of(bits_of(x.v) & 0x7fffffffu)};
}
inline Vec copy_sign(Vec magnitude, Vec sign) {  // of a magnitude that is not negative
  return {float_of(bits_of(magnitude.v) | (bits_of(sign.v) & 0x80000000u))};
}

inline Mask less(Vec a, Vec b) {
  return {a.v < b.v};
}
inline Mask equal(Vec a, Vec b) {
  return {a.v == b.v};
}
inline Mask first_lanes(int n) {
  return {n > 0};
}
inline Vec select(Mask m, Vec yes, Vec no) {
  return m.v ? yes : no;
}

inline Vec to_float(IVec x) {
  return {static_cast<float>(x.v)};
}
inline IVec bits(Vec x) {
  return {static_cast<int32_t>(bits_of(x.v))};
}
inline Vec from_bits(IVec x) {
  return {float_of(static_cast<uint32_t>(x.v))};
}

// Signed bytes lanes * i and following as floats, in units of kCodeUnit: a power of two that
// the caller multiplies into his scale.
constexpr float kCodeUnit = 1;
inline Vec code_floats(const Bytes& x, int i) {
  return {static_cast<float>(static_cast<int8_t>(x.v[i]))};
}

// Over the lanes, in a fixed order.
inline float sum(Vec x) {
  return x.v;
}
inline float largest(Vec x) {
  return x.v;
}

// out[i] = sum(x[i]) for four vectors at once, the same bits
inline void sum4(const Vec* x, float* out) {
  for (int i = 0; i < 4; ++i) out[i] = x[i].v;
}

// x[i] lane j becomes x[j] lane i, for `lanes` vectors.
inline void transpose(Vec*) {}

// One f16 as a float.
inline float load_half(const std::byte* p) {
  return Vec::load_f16(p).v;
}

// Square root of one float, correctly rounded.
inline float square_root(float x) {
  return __builtin_sqrtf(x);
}

}  // namespace PITH_TARGET
}  // namespace
}  // namespace pith

// Eight floats (AVX2, FMA, F16C). vec_scalar.h explains the vocabulary.
#pragma once

#include <cstddef>
#include <cstdint>
#include <immintrin.h>

namespace pith {
namespace {
namespace PITH_TARGET {

struct Mask {
  __m256 v;
};
inline Mask operator&(Mask a, Mask b) {
  return {_mm256_and_ps(a.v, b.v)};
}
inline Mask operator|(Mask a, Mask b) {
  return {_mm256_or_ps(a.v, b.v)};
}
inline bool any(Mask m) {
  return _mm256_movemask_ps(m.v) != 0;
}

// ---- integers

// Eight ones in front of eight zeros: the mask of the first n lanes starts at 8 - n.
alignas(32) constexpr int32_t kPart[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
inline __m256i part_mask(int n) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kPart + 8 - n));
}

struct IVec {
  static constexpr int lanes = 8;
  __m256i v;
  static IVec zero() { return {_mm256_setzero_si256()}; }
  static IVec all(int32_t x) { return {_mm256_set1_epi32(x)}; }
  static IVec iota() { return {_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)}; }
  static IVec load(const int32_t* p) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))};
  }
  static IVec load(const std::byte* p) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))};
  }
  static IVec load_part(const int32_t* p, int n) {
    return {_mm256_maskload_epi32(p, part_mask(n))};
  }
  static IVec load_u8(const std::byte* p) {
    return {_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)))};
  }
  static IVec load_i8(const std::byte* p) {
    return {_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)))};
  }
  static IVec load_i8_pairs(const std::byte* p) {
    return {_mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
  }
};
inline void store(int32_t* p, IVec x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.v);
}
inline void store_low16(void* p, IVec x) {
  const __m256i low = _mm256_and_si256(x.v, _mm256_set1_epi32(0xffff));
  _mm_storeu_si128(static_cast<__m128i*>(p),
                   _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1)));
}
inline IVec operator+(IVec a, IVec b) {
  return {_mm256_add_epi32(a.v, b.v)};
}
inline IVec operator-(IVec a, IVec b) {
  return {_mm256_sub_epi32(a.v, b.v)};
}
inline IVec operator&(IVec a, IVec b) {
  return {_mm256_and_si256(a.v, b.v)};
}
inline IVec operator|(IVec a, IVec b) {
  return {_mm256_or_si256(a.v, b.v)};
}
template <int Bits>
IVec shift_left(IVec x) {
  return {_mm256_slli_epi32(x.v, Bits)};
}
template <int Bits>
IVec shift_right(IVec x) {
  return {_mm256_srli_epi32(x.v, Bits)};
}
template <int Bits>
IVec shift_right_signed(IVec x) {
  return {_mm256_srai_epi32(x.v, Bits)};
}
inline IVec shift_right(IVec x, IVec bits) {
  return {_mm256_srlv_epi32(x.v, bits.v)};
}
inline IVec add_pairs(IVec a, IVec b, IVec total) {
  const __m256i products = _mm256_madd_epi16(a.v, b.v);
  // Sums of integers may be reordered, and gcc then keeps all products of a loop before it adds
  // one. Written out, the addition stays where it is and in its register.
  asm("vpaddd %1, %0, %0" : "+x"(total.v) : "x"(products));
  return total;
}
inline Mask less(IVec a, IVec b) {
  return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(b.v, a.v))};
}
inline IVec select(Mask m, IVec yes, IVec no) {
  return {_mm256_blendv_epi8(no.v, yes.v, _mm256_castps_si256(m.v))};
}

// ---- sixteen bytes, whatever the lanes. Both halves of the register hold all of them, so that any
// of them can be shuffled to any lane.

struct Bytes {
  __m256i v;
  static Bytes load(const void* p) {
    return {_mm256_broadcastsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(p)))};
  }
  static Bytes all(uint8_t x) { return {_mm256_set1_epi8(static_cast<char>(x))}; }
  static Bytes all4(const std::byte* p) {
    int32_t four;
    __builtin_memcpy(&four, p, sizeof four);
    return {_mm256_set1_epi32(four)};
  }
};
inline Bytes operator&(Bytes a, Bytes b) {
  return {_mm256_and_si256(a.v, b.v)};
}
inline Bytes operator|(Bytes a, Bytes b) {
  return {_mm256_or_si256(a.v, b.v)};
}
inline Bytes operator-(Bytes a, Bytes b) {
  return {_mm256_sub_epi8(a.v, b.v)};
}
inline Bytes shift_right(Bytes x, int bits) {
  return {_mm256_srl_epi16(x.v, _mm_cvtsi32_si128(bits))};
}
inline Bytes shift_left(Bytes x, int bits) {
  return {_mm256_sll_epi16(x.v, _mm_cvtsi32_si128(bits))};
}
inline Bytes equal(Bytes a, Bytes b) {
  return {_mm256_cmpeq_epi8(a.v, b.v)};
}
inline Bytes lookup(Bytes table, Bytes index) {
  return {_mm256_shuffle_epi8(table.v, index.v)};
}

// ---- floats

struct Vec {
  static constexpr int lanes = 8;
  __m256 v;
  static Vec zero() { return {_mm256_setzero_ps()}; }
  static Vec all(float x) { return {_mm256_set1_ps(x)}; }
  static Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static Vec load(const std::byte* p) {
    return {_mm256_castsi256_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  static Vec load_f16(const std::byte* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
  }
  static Vec all_f16(const std::byte* p) {
    int16_t half;
    __builtin_memcpy(&half, p, sizeof half);
    return {_mm256_cvtph_ps(_mm_set1_epi16(half))};
  }
  static Vec load_bf16(const std::byte* p) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16))};
  }
  static Vec load_part(const float* p, int n) { return {_mm256_maskload_ps(p, part_mask(n))}; }
  static Vec load_part(const std::byte* p, int n) {
    alignas(32) float x[8] = {};
    __builtin_memcpy(x, p, static_cast<size_t>(n) * 4);
    return load(x);
  }
  static Vec load_f16_part(const std::byte* p, int n) {
    std::byte x[16] = {};
    __builtin_memcpy(x, p, static_cast<size_t>(n) * 2);
    return load_f16(x);
  }
  static Vec load_bf16_part(const std::byte* p, int n) {
    std::byte x[16] = {};
    __builtin_memcpy(x, p, static_cast<size_t>(n) * 2);
    return load_bf16(x);
  }
};
inline void store(float* p, Vec x) {
  _mm256_storeu_ps(p, x.v);
}
inline void store_part(float* p, int n, Vec x) {
  _mm256_maskstore_ps(p, part_mask(n), x.v);
}
inline void store_f16(std::byte* p, Vec x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm256_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline void store_f16_part(std::byte* p, int n, Vec x) {
  std::byte half[16];
  store_f16(half, x);
  __builtin_memcpy(p, half, static_cast<size_t>(n) * 2);
}

inline Vec operator+(Vec a, Vec b) {
  return {_mm256_add_ps(a.v, b.v)};
}
inline Vec operator-(Vec a, Vec b) {
  return {_mm256_sub_ps(a.v, b.v)};
}
inline Vec operator*(Vec a, Vec b) {
  return {_mm256_mul_ps(a.v, b.v)};
}
inline Vec operator/(Vec a, Vec b) {
  return {_mm256_div_ps(a.v, b.v)};
}
inline Vec mul_add(Vec a, Vec b, Vec c) {
  return {_mm256_fmadd_ps(a.v, b.v, c.v)};
}
inline Vec max(Vec a, Vec b) {
  return {_mm256_max_ps(a.v, b.v)};
}
inline Vec min(Vec a, Vec b) {
  return {_mm256_min_ps(a.v, b.v)};
}
inline Vec abs(Vec x) {
  return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), x.v)};
}
inline Vec copy_sign(Vec magnitude, Vec sign) {
  return {_mm256_or_ps(magnitude.v, _mm256_and_ps(sign.v, _mm256_set1_ps(-0.0f)))};
}

inline Mask less(Vec a, Vec b) {
  return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)};
}
inline Mask equal(Vec a, Vec b) {
  return {_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ)};
}
inline Mask first_lanes(int n) {
  return {_mm256_castsi256_ps(part_mask(n))};
}
inline Vec select(Mask m, Vec yes, Vec no) {
  return {_mm256_blendv_ps(no.v, yes.v, m.v)};
}

inline Vec to_float(IVec x) {
  return {_mm256_cvtepi32_ps(x.v)};
}
inline IVec bits(Vec x) {
  return {_mm256_castps_si256(x.v)};
}
inline Vec from_bits(IVec x) {
  return {_mm256_castsi256_ps(x.v)};
}

// One shuffle puts a byte at the top of its lane, which is its value times 2^24.
constexpr float kCodeUnit = 0x1p-24f;
alignas(32) constexpr int8_t kTopByte[2][32] = {
    {-1, -1, -1, 0, -1, -1, -1, 1, -1, -1, -1, 2, -1, -1, -1, 3,
     -1, -1, -1, 4, -1, -1, -1, 5, -1, -1, -1, 6, -1, -1, -1, 7},
    {-1, -1, -1, 8,  -1, -1, -1, 9,  -1, -1, -1, 10, -1, -1, -1, 11,
     -1, -1, -1, 12, -1, -1, -1, 13, -1, -1, -1, 14, -1, -1, -1, 15}};
inline Vec code_floats(Bytes x, int i) {
  const __m256i where = _mm256_load_si256(reinterpret_cast<const __m256i*>(kTopByte[i]));
  return {_mm256_cvtepi32_ps(_mm256_shuffle_epi8(x.v, where))};
}

// ((0 + 4) + (2 + 6)) + ((1 + 5) + (3 + 7))
inline float sum(Vec x) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(x.v), _mm256_extractf128_ps(x.v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float largest(Vec x) {
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(x.v), _mm256_extractf128_ps(x.v, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

// The same additions for four vectors at once.
inline void sum4(const Vec* x, float* out) {
  __m128 four[4];
  for (int i = 0; i < 4; ++i)
    four[i] = _mm_add_ps(_mm256_castps256_ps128(x[i].v), _mm256_extractf128_ps(x[i].v, 1));
  // (0 + 2, 1 + 3) of two vectors
  const __m128 a = _mm_add_ps(_mm_movelh_ps(four[0], four[1]), _mm_movehl_ps(four[1], four[0]));
  const __m128 b = _mm_add_ps(_mm_movelh_ps(four[2], four[3]), _mm_movehl_ps(four[3], four[2]));
  _mm_storeu_ps(out, _mm_add_ps(_mm_shuffle_ps(a, b, _MM_SHUFFLE(2, 0, 2, 0)),
                                _mm_shuffle_ps(a, b, _MM_SHUFFLE(3, 1, 3, 1))));
}

inline void transpose(Vec* x) {
  __m256 a[8], b[8];
  for (int i = 0; i < 8; i += 2) {
    a[i] = _mm256_unpacklo_ps(x[i].v, x[i + 1].v);
    a[i + 1] = _mm256_unpackhi_ps(x[i].v, x[i + 1].v);
  }
  for (int i = 0; i < 8; i += 4)
    for (int j = 0; j < 2; ++j) {
      b[i + 2 * j] = _mm256_shuffle_ps(a[i + j], a[i + j + 2], 0x44);
      b[i + 2 * j + 1] = _mm256_shuffle_ps(a[i + j], a[i + j + 2], 0xee);
    }
  for (int i = 0; i < 4; ++i) {
    x[i].v = _mm256_permute2f128_ps(b[i], b[i + 4], 0x20);
    x[i + 4].v = _mm256_permute2f128_ps(b[i], b[i + 4], 0x31);
  }
}

inline float load_half(const std::byte* p) {
  uint16_t half;
  __builtin_memcpy(&half, p, sizeof half);
  return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(half)));
}

inline float square_root(float x) {
  return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x)));
}

}  // namespace PITH_TARGET
}  // namespace
}  // namespace pith

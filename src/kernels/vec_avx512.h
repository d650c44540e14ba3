// Sixteen floats (AVX-512 F, BW, DQ, VL). vec_scalar.h explains the vocabulary.
#pragma once

#include <cstddef>
#include <cstdint>
#include <immintrin.h>

namespace pith {
namespace {
namespace PITH_TARGET {

struct Mask {
  __mmask16 v;
};
inline Mask operator&(Mask a, Mask b) {
  return {static_cast<__mmask16>(a.v & b.v)};
}
inline Mask operator|(Mask a, Mask b) {
  return {static_cast<__mmask16>(a.v | b.v)};
}
inline bool any(Mask m) {
  return m.v != 0;
}
inline Mask first_lanes(int n) {
  return {static_cast<__mmask16>((1u << n) - 1u)};
}

// ---- integers

struct IVec {
  static constexpr int lanes = 16;
  __m512i v;
  static IVec zero() { return {_mm512_setzero_si512()}; }
  static IVec all(int32_t x) { return {_mm512_set1_epi32(x)}; }
  static IVec iota() {
    return {_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)};
  }
  static IVec load(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
  static IVec load(const std::byte* p) { return {_mm512_loadu_si512(p)}; }
  static IVec load_part(const int32_t* p, int n) {
    return {_mm512_maskz_loadu_epi32(first_lanes(n).v, p)};
  }
  static IVec load_u8(const std::byte* p) {
    return {_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
  }
  static IVec load_i8(const std::byte* p) {
    return {_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
  }
  static IVec load_i8_pairs(const std::byte* p) {
    return {_mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
};
inline void store(int32_t* p, IVec x) {
  _mm512_storeu_si512(p, x.v);
}
inline void store_low16(void* p, IVec x) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtepi32_epi16(x.v));
}
inline IVec operator+(IVec a, IVec b) {
  return {_mm512_add_epi32(a.v, b.v)};
}
inline IVec operator-(IVec a, IVec b) {
  return {_mm512_sub_epi32(a.v, b.v)};
}
inline IVec operator&(IVec a, IVec b) {
  return {_mm512_and_si512(a.v, b.v)};
}
inline IVec operator|(IVec a, IVec b) {
  return {_mm512_or_si512(a.v, b.v)};
}
template <int Bits>
IVec shift_left(IVec x) {
  return {_mm512_slli_epi32(x.v, Bits)};
}
template <int Bits>
IVec shift_right(IVec x) {
  return {_mm512_srli_epi32(x.v, Bits)};
}
template <int Bits>
IVec shift_right_signed(IVec x) {
  return {_mm512_srai_epi32(x.v, Bits)};
}
inline IVec shift_right(IVec x, IVec bits) {
  return {_mm512_srlv_epi32(x.v, bits.v)};
}
inline IVec add_pairs(IVec a, IVec b, IVec total) {
  // With the intrinsic g++ 12 copies every sum before it adds to it, and keeps copies in memory.
  asm("vpdpwssd %2, %1, %0" : "+v"(total.v) : "v"(a.v), "v"(b.v));
  return total;
}
inline Mask less(IVec a, IVec b) {
  return {_mm512_cmplt_epi32_mask(a.v, b.v)};
}
inline IVec select(Mask m, IVec yes, IVec no) {
  return {_mm512_mask_blend_epi32(m.v, no.v, yes.v)};
}

// ---- four times sixteen bytes

struct Bytes {
  __m512i v;
  static Bytes load(const void* p) {
    return {_mm512_broadcast_i32x4(_mm_loadu_si128(static_cast<const __m128i*>(p)))};
  }
  static Bytes all(uint8_t x) { return {_mm512_set1_epi8(static_cast<char>(x))}; }
  static Bytes all4(const std::byte* p) {
    int32_t four;
    __builtin_memcpy(&four, p, sizeof four);
    return {_mm512_set1_epi32(four)};
  }
};
inline Bytes operator&(Bytes a, Bytes b) {
  return {_mm512_and_si512(a.v, b.v)};
}
inline Bytes operator|(Bytes a, Bytes b) {
  return {_mm512_or_si512(a.v, b.v)};
}
inline Bytes operator-(Bytes a, Bytes b) {
  return {_mm512_sub_epi8(a.v, b.v)};
}
inline Bytes shift_right(Bytes x, int bits) {
  return {_mm512_srl_epi16(x.v, _mm_cvtsi32_si128(bits))};
}
inline Bytes shift_left(Bytes x, int bits) {
  return {_mm512_sll_epi16(x.v, _mm_cvtsi32_si128(bits))};
}
inline Bytes equal(Bytes a, Bytes b) {
  return {_mm512_movm_epi8(_mm512_cmpeq_epi8_mask(a.v, b.v))};
}
inline Bytes lookup(Bytes table, Bytes index) {
  return {_mm512_shuffle_epi8(table.v, index.v)};
}

// ---- floats

struct Vec {
  static constexpr int lanes = 16;
  __m512 v;
  static Vec zero() { return {_mm512_setzero_ps()}; }
  static Vec all(float x) { return {_mm512_set1_ps(x)}; }
  static Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static Vec load(const std::byte* p) { return {_mm512_loadu_ps(p)}; }
  static Vec load_f16(const std::byte* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  static Vec all_f16(const std::byte* p) {
    int16_t half;
    __builtin_memcpy(&half, p, sizeof half);
    return {_mm512_cvtph_ps(_mm256_set1_epi16(half))};
  }
  static Vec load_bf16(const std::byte* p) {
    return bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static Vec load_part(const float* p, int n) {
    return {_mm512_maskz_loadu_ps(first_lanes(n).v, p)};
  }
  static Vec load_part(const std::byte* p, int n) {
    return {_mm512_maskz_loadu_ps(first_lanes(n).v, p)};
  }
  static Vec load_f16_part(const std::byte* p, int n) {
    return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(n).v, p))};
  }
  static Vec load_bf16_part(const std::byte* p, int n) {
    return bf16(_mm256_maskz_loadu_epi16(first_lanes(n).v, p));
  }

 private:
  static Vec bf16(__m256i half) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
  }
};
inline void store(float* p, Vec x) {
  _mm512_storeu_ps(p, x.v);
}
inline void store_part(float* p, int n, Vec x) {
  _mm512_mask_storeu_ps(p, first_lanes(n).v, x.v);
}
inline void store_f16(std::byte* p, Vec x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline void store_f16_part(std::byte* p, int n, Vec x) {
  _mm256_mask_storeu_epi16(p, first_lanes(n).v,
                           _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

inline Vec operator+(Vec a, Vec b) {
  return {_mm512_add_ps(a.v, b.v)};
}
inline Vec operator-(Vec a, Vec b) {
  return {_mm512_sub_ps(a.v, b.v)};
}
inline Vec operator*(Vec a, Vec b) {
  return {_mm512_mul_ps(a.v, b.v)};
}
inline Vec operator/(Vec a, Vec b) {
  return {_mm512_div_ps(a.v, b.v)};
}
inline Vec mul_add(Vec a, Vec b, Vec c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
inline Vec max(Vec a, Vec b) {
  return {_mm512_max_ps(a.v, b.v)};
}
inline Vec min(Vec a, Vec b) {
  return {_mm512_min_ps(a.v, b.v)};
}
inline Vec abs(Vec x) {
  return {_mm512_andnot_ps(_mm512_set1_ps(-0.0f), x.v)};
}
inline Vec copy_sign(Vec magnitude, Vec sign) {
  return {_mm512_or_ps(magnitude.v, _mm512_and_ps(sign.v, _mm512_set1_ps(-0.0f)))};
}

inline Mask less(Vec a, Vec b) {
  return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)};
}
inline Mask equal(Vec a, Vec b) {
  return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)};
}
inline Vec select(Mask m, Vec yes, Vec no) {
  return {_mm512_mask_blend_ps(m.v, no.v, yes.v)};
}

inline Vec to_float(IVec x) {
  return {_mm512_cvtepi32_ps(x.v)};
}
inline IVec bits(Vec x) {
  return {_mm512_castps_si512(x.v)};
}
inline Vec from_bits(IVec x) {
  return {_mm512_castsi512_ps(x.v)};
}

constexpr float kCodeUnit = 1;
inline Vec code_floats(Bytes x, int) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm512_castsi512_si128(x.v)))};
}

// Halves are added first: lane i with lane i + 8, then i + 4, then i + 2, then i + 1.
inline float sum(Vec x) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float largest(Vec x) {
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

// The same additions for four vectors at once.
inline void sum4(const Vec* x, float* out) {
  __m128 four[4];
  for (int i = 0; i < 4; ++i) {
    const __m256 eight =
        _mm256_add_ps(_mm512_castps512_ps256(x[i].v), _mm512_extractf32x8_ps(x[i].v, 1));
    four[i] = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  }
  // (0 + 2, 1 + 3) of two vectors
  const __m128 a = _mm_add_ps(_mm_movelh_ps(four[0], four[1]), _mm_movehl_ps(four[1], four[0]));
  const __m128 b = _mm_add_ps(_mm_movelh_ps(four[2], four[3]), _mm_movehl_ps(four[3], four[2]));
  _mm_storeu_ps(out, _mm_add_ps(_mm_shuffle_ps(a, b, _MM_SHUFFLE(2, 0, 2, 0)),
                                _mm_shuffle_ps(a, b, _MM_SHUFFLE(3, 1, 3, 1))));
}

inline void transpose(Vec* x) {
  __m512 a[16], b[16];
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_ps(x[i].v, x[i + 1].v);
    a[i + 1] = _mm512_unpackhi_ps(x[i].v, x[i + 1].v);
  }
  for (int i = 0; i < 16; i += 4)
    for (int j = 0; j < 2; ++j) {  // b[i + c]: columns c, c + 4, ... of rows i to i + 3
      b[i + 2 * j] = _mm512_shuffle_ps(a[i + j], a[i + j + 2], 0x44);
      b[i + 2 * j + 1] = _mm512_shuffle_ps(a[i + j], a[i + j + 2], 0xee);
    }
  for (int c = 0; c < 4; ++c) {
    const __m512 p = _mm512_shuffle_f32x4(b[c], b[c + 4], 0x44);       // columns c, c + 4
    const __m512 q = _mm512_shuffle_f32x4(b[c], b[c + 4], 0xee);       // columns c + 8, c + 12
    const __m512 r = _mm512_shuffle_f32x4(b[c + 8], b[c + 12], 0x44);  // of rows 8 to 15
    const __m512 s = _mm512_shuffle_f32x4(b[c + 8], b[c + 12], 0xee);
    x[c].v = _mm512_shuffle_f32x4(p, r, 0x88);
    x[c + 4].v = _mm512_shuffle_f32x4(p, r, 0xdd);
    x[c + 8].v = _mm512_shuffle_f32x4(q, s, 0x88);
    x[c + 12].v = _mm512_shuffle_f32x4(q, s, 0xdd);
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

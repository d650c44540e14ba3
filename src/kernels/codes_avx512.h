// Products of bytes with AVX-512 VNNI: vpdpbusd adds four products in 32 bits, which never
// overflows here. codes_scalar.h explains the vocabulary.
#pragma once

namespace pith {
namespace {
namespace PITH_TARGET {

constexpr bool kSignedBytes = false;
constexpr int code_steps(int) {
  return 8;
}

struct Quad {
  __m512i v;
  static Quad all(const std::byte* p) {
    int32_t four;
    __builtin_memcpy(&four, p, sizeof four);
    return {_mm512_set1_epi32(four)};
  }
};

struct Codes {
  __m512i v;
  static Codes load(const std::byte* p) { return {_mm512_loadu_si512(p)}; }
};

inline IVec pair_dot(IVec a, IVec b) {
  return {_mm512_madd_epi16(a.v, b.v)};
}

struct CodeSum {
  __m512i v;
  static CodeSum first(Codes w, Quad a) {
    CodeSum sum{_mm512_setzero_si512()};
    sum.add(w, a);
    return sum;
  }
  void add(Codes w, Quad a) { v = _mm512_dpbusd_epi32(v, w.v, a.v); }
  IVec total() const { return {v}; }
  IVec total(IVec pair) const { return {_mm512_mullo_epi32(v, _mm512_srai_epi32(pair.v, 16))}; }
};

template <bool Signed>
using SumOf = CodeSum;

constexpr int kRowsAtOnce = 1;
using Source = OneRow;
inline Source source(const std::byte* const* rows, int r) {
  return {rows[r]};
}

// Rows r and r + 8 share a register: two transpositions of 8 x 8 at once.
template <bool Signed>
inline void spread(const Bytes* low, const Bytes* high, std::byte* to) {
  static_assert(!Signed);
  __m512 x[8], a[8], b[8];
  const auto row = [&](int r) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(low[r].v), high[r].v, 1);
  };
  for (int r = 0; r < 8; ++r)
    x[r] = _mm512_castsi512_ps(_mm512_inserti64x4(_mm512_castsi256_si512(row(r)), row(r + 8), 1));
  for (int i = 0; i < 8; i += 2) {
    a[i] = _mm512_unpacklo_ps(x[i], x[i + 1]);
    a[i + 1] = _mm512_unpackhi_ps(x[i], x[i + 1]);
  }
  for (int i = 0; i < 8; i += 4)
    for (int j = 0; j < 2; ++j) {
      b[i + 2 * j] = _mm512_shuffle_ps(a[i + j], a[i + j + 2], 0x44);
      b[i + 2 * j + 1] = _mm512_shuffle_ps(a[i + j], a[i + j + 2], 0xee);
    }
  for (int q = 0; q < 4; ++q) {  // quads q and q + 4 of rows 0 to 3 and 8 to 11, and the others
    const __m512 even = _mm512_shuffle_f32x4(b[q], b[q + 4], 0x88);
    const __m512 odd = _mm512_shuffle_f32x4(b[q], b[q + 4], 0xdd);
    _mm512_storeu_ps(to + 64 * q, _mm512_shuffle_f32x4(even, even, 0xd8));
    _mm512_storeu_ps(to + 64 * (q + 4), _mm512_shuffle_f32x4(odd, odd, 0xd8));
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

inline void widen_i16(const std::byte* from, std::byte* to) {
  _mm256_storeu_si256(
      reinterpret_cast<__m256i*>(to),
      _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
}

inline void store_i8(std::byte* p, IVec x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(x.v));
}

inline Vec fused(Vec a, Vec b, Vec c) {
  return mul_add(a, b, c);
}

}  // namespace PITH_TARGET
}  // namespace
}  // namespace pith

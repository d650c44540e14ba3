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

// vpdpwssd does twice the products of a multiply-add of floats.
constexpr bool kCodesHalves = true;

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
  // Not by the intrinsic, see add_pairs.
  void add(Codes w, Quad a) { asm("vpdpbusd %2, %1, %0" : "+v"(v) : "v"(w.v), "v"(a.v)); }
  IVec total() const { return {v}; }
  IVec total(IVec pair) const { return {_mm512_mullo_epi32(v, _mm512_srai_epi32(pair.v, 16))}; }
};

template <bool Signed>
using SumOf = CodeSum;

// Each quarter of a register has a row of its own.
constexpr int kRowsAtOnce = 4;
struct Source {
  const std::byte *first, *second, *third, *fourth;
  Bytes load(size_t offset) const {
    const auto quarter = [offset](const std::byte* p) {
      return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + offset));
    };
    const __m256i low =
        _mm256_inserti128_si256(_mm256_castsi128_si256(quarter(first)), quarter(second), 1);
    const __m256i high =
        _mm256_inserti128_si256(_mm256_castsi128_si256(quarter(third)), quarter(fourth), 1);
    return {_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1)};
  }
  Bytes all4(size_t offset) const {
    __m512i x = Bytes::all4(first + offset).v;
    x = _mm512_mask_mov_epi32(x, 0x00f0, Bytes::all4(second + offset).v);
    x = _mm512_mask_mov_epi32(x, 0x0f00, Bytes::all4(third + offset).v);
    return {_mm512_mask_mov_epi32(x, 0xf000, Bytes::all4(fourth + offset).v)};
  }
};
inline Source source(const std::byte* const* rows, int r) {
  return {rows[r], rows[r + 4], rows[r + 8], rows[r + 12]};
}

// Quads 0 to 3 of 16 bytes of all rows.
constexpr bool kSpreadsInRegisters = true;
inline void spread(const Bytes* x, Codes* to) {
  const __m512i a = _mm512_unpacklo_epi32(x[0].v, x[1].v);
  const __m512i b = _mm512_unpackhi_epi32(x[0].v, x[1].v);
  const __m512i c = _mm512_unpacklo_epi32(x[2].v, x[3].v);
  const __m512i d = _mm512_unpackhi_epi32(x[2].v, x[3].v);
  to[0].v = _mm512_unpacklo_epi64(a, c);
  to[1].v = _mm512_unpackhi_epi64(a, c);
  to[2].v = _mm512_unpacklo_epi64(b, d);
  to[3].v = _mm512_unpackhi_epi64(b, d);
}

inline Codes nibbles_of(Codes both, bool high) {
  const __m512i x = high ? _mm512_srli_epi16(both.v, 4) : both.v;
  return {_mm512_and_si512(x, _mm512_set1_epi8(15))};
}

// Codes of six bits: nibbles, and above them the `at`-th pair of bits.
inline Codes six_bits_of(Codes both, Codes pairs, int at) {
  const __m512i shifted = at == 0   ? _mm512_slli_epi16(pairs.v, 4)
                          : at == 1 ? _mm512_slli_epi16(pairs.v, 2)
                          : at == 2 ? pairs.v
                                    : _mm512_srli_epi16(pairs.v, 2);
  return {_mm512_or_si512(nibbles_of(both, at >= 2).v,
                          _mm512_and_si512(shifted, _mm512_set1_epi8(0x30)))};
}

template <bool Signed>
inline void spread(const Bytes* low, const Bytes* high, std::byte* to) {
  static_assert(!Signed);
  Codes quads[8];
  spread(low, quads);
  spread(high, quads + 4);
#pragma GCC unroll 8
  for (int q = 0; q < 8; ++q) _mm512_storeu_si512(to + 64 * q, quads[q].v);
}

// Numbers are put into registers one by one: a vector read behind stores of its parts waits for
// them, and gathers are slow on CPUs that are kept from leaking by them.
inline IVec words_of(const std::byte* const* rows, size_t offset) {
  const auto four = [&](int r) {
    const auto word = [&](int i) {
      int32_t x;
      __builtin_memcpy(&x, rows[r + i] + offset, sizeof x);
      return x;
    };
    __m128i x = _mm_cvtsi32_si128(word(0));
    x = _mm_insert_epi32(x, word(1), 1);
    x = _mm_insert_epi32(x, word(2), 2);
    return _mm_insert_epi32(x, word(3), 3);
  };
  const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(four(0)), four(4), 1);
  const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(four(8)), four(12), 1);
  return {_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1)};
}

inline Vec halves_of(const std::byte* const* rows, size_t offset) {
  const auto four = [&](int r) {
    const auto half = [&](int i) {
      int16_t x;
      __builtin_memcpy(&x, rows[r + i] + offset, sizeof x);
      return x;
    };
    __m128i x = _mm_cvtsi32_si128(half(0));
    x = _mm_insert_epi16(x, half(1), 1);
    x = _mm_insert_epi16(x, half(2), 2);
    return _mm_insert_epi16(x, half(3), 3);
  };
  const __m128i low = _mm_unpacklo_epi64(four(0), four(4));
  const __m128i high = _mm_unpacklo_epi64(four(8), four(12));
  return {_mm512_cvtph_ps(_mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1))};
}

// from [lanes][8] to [8] vectors: two transpositions of 8 x 8 at once.
inline void across(const float (*from)[8], Vec* to) {
  __m512 x[8], a[8], b[8];
  for (int r = 0; r < 8; ++r)  // and r + 8
    x[r] = _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(from[r])),
                              _mm256_loadu_ps(from[r + 8]), 1);
  for (int i = 0; i < 8; i += 2) {
    a[i] = _mm512_unpacklo_ps(x[i], x[i + 1]);
    a[i + 1] = _mm512_unpackhi_ps(x[i], x[i + 1]);
  }
  for (int i = 0; i < 8; i += 4)
    for (int j = 0; j < 2; ++j) {  // b[i + c]: columns c and c + 4 of rows i to i + 3, and of i + 8
      b[i + 2 * j] = _mm512_shuffle_ps(a[i + j], a[i + j + 2], 0x44);
      b[i + 2 * j + 1] = _mm512_shuffle_ps(a[i + j], a[i + j + 2], 0xee);
    }
  for (int c = 0; c < 4; ++c) {
    const __m512 first = _mm512_shuffle_f32x4(b[c], b[c + 4], 0x88);
    const __m512 second = _mm512_shuffle_f32x4(b[c], b[c + 4], 0xdd);
    to[c].v = _mm512_shuffle_f32x4(first, first, 0xd8);
    to[c + 4].v = _mm512_shuffle_f32x4(second, second, 0xd8);
  }
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

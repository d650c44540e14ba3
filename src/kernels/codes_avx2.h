// Products of bytes with AVX2. codes_scalar.h explains the vocabulary.
//
// vpmaddubsw adds two products in 16 bits, which holds the sums of some more steps when codes are
// narrow. Codes of eight bits would overflow at once; with their signs they do not, as long as
// every sum is widened at once.
#pragma once

namespace pith {
namespace {
namespace PITH_TARGET {

constexpr bool kSignedBytes = true;
// A step adds two products of a code below 2^bits and 127 at most.
constexpr int code_steps(int bits) {
  const int steps = 32767 / (2 * 127 * ((1 << bits) - 1));
  return steps >= 8 ? 8 : steps >= 4 ? 4 : steps >= 2 ? 2 : 1;
}

constexpr bool kCodesHalves = false;

struct Quad {
  __m256i v;
  static Quad all(const std::byte* p) {
    int32_t four;
    __builtin_memcpy(&four, p, sizeof four);
    return {_mm256_set1_epi32(four)};
  }
};

struct Codes {
  __m256i v;
  static Codes load(const std::byte* p) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))};
  }
};

inline IVec pair_dot(IVec a, IVec b) {
  return {_mm256_madd_epi16(a.v, b.v)};
}

struct CodeSum {
  __m256i v;
  static CodeSum first(Codes w, Quad a) { return {_mm256_maddubs_epi16(w.v, a.v)}; }
  void add(Codes w, Quad a) {
    const __m256i products = _mm256_maddubs_epi16(w.v, a.v);
    // Compilers know that these additions may be done in any order, and g++ 12 first multiplies
    // everything and keeps it in memory: three times slower.
    __asm__("vpaddw %1, %0, %0" : "+x"(v) : "x"(products));
  }
  IVec total() const { return {_mm256_madd_epi16(v, _mm256_set1_epi16(1))}; }
  IVec total(IVec pair) const { return {_mm256_madd_epi16(v, pair.v)}; }
};

// Signed codes of eight bits: the product of their size and the activation with their sign.
struct SignedSum {
  __m256i v;
  static SignedSum first(Codes w, Quad a) {
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w.v), _mm256_sign_epi8(a.v, w.v));
    return {_mm256_madd_epi16(pairs, _mm256_set1_epi16(1))};
  }
  void add(Codes w, Quad a) {
    const __m256i products = first(w, a).v;
    __asm__("vpaddd %1, %0, %0" : "+x"(v) : "x"(products));
  }
  IVec total() const { return {v}; }
};
template <bool Signed>
struct Sums {
  using Type = CodeSum;
};
template <>
struct Sums<true> {
  using Type = SignedSum;
};
template <bool Signed>
using SumOf = typename Sums<Signed>::Type;

inline Codes signed_of(Codes x) {
  return {_mm256_xor_si256(x.v, _mm256_set1_epi8(-128))};
}

// Each half of a register has a row of its own.
constexpr int kRowsAtOnce = 2;
struct Source {
  const std::byte *first, *second;
  Bytes load(size_t offset) const {
    const auto half = [offset](const std::byte* p) {
      return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + offset));
    };
    return {_mm256_inserti128_si256(_mm256_castsi128_si256(half(first)), half(second), 1)};
  }
  Bytes all4(size_t offset) const {
    return {
        _mm256_blend_epi32(Bytes::all4(first + offset).v, Bytes::all4(second + offset).v, 0xf0)};
  }
};
inline Source source(const std::byte* const* rows, int r) {
  return {rows[r], rows[r + 4]};
}

// The same in registers: quads 0 to 3 of 16 bytes of all rows.
constexpr bool kSpreadsInRegisters = true;
inline void spread(const Bytes* x, Codes* to) {
  const __m256i a = _mm256_unpacklo_epi32(x[0].v, x[1].v);
  const __m256i b = _mm256_unpackhi_epi32(x[0].v, x[1].v);
  const __m256i c = _mm256_unpacklo_epi32(x[2].v, x[3].v);
  const __m256i d = _mm256_unpackhi_epi32(x[2].v, x[3].v);
  to[0].v = _mm256_unpacklo_epi64(a, c);
  to[1].v = _mm256_unpackhi_epi64(a, c);
  to[2].v = _mm256_unpacklo_epi64(b, d);
  to[3].v = _mm256_unpackhi_epi64(b, d);
}

inline Codes nibbles_of(Codes both, bool high) {
  const __m256i x = high ? _mm256_srli_epi16(both.v, 4) : both.v;
  return {_mm256_and_si256(x, _mm256_set1_epi8(15))};
}

// Codes of six bits: nibbles, and above them the `at`-th pair of bits.
inline Codes six_bits_of(Codes both, Codes pairs, int at) {
  const __m256i shifted = at == 0   ? _mm256_slli_epi16(pairs.v, 4)
                          : at == 1 ? _mm256_slli_epi16(pairs.v, 2)
                          : at == 2 ? pairs.v
                                    : _mm256_srli_epi16(pairs.v, 2);
  return {_mm256_or_si256(nibbles_of(both, at >= 2).v,
                          _mm256_and_si256(shifted, _mm256_set1_epi8(0x30)))};
}

template <bool Signed>
inline void spread(const Bytes* low, const Bytes* high, std::byte* to) {
  Codes quads[8];
  spread(low, quads);
  spread(high, quads + 4);
#pragma GCC unroll 8
  for (int q = 0; q < 8; ++q)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 32 * q),
                        Signed ? signed_of(quads[q]).v : quads[q].v);
}

inline IVec words_of(const std::byte* const* rows, size_t offset) {
  const auto word = [&](int r) {
    int32_t x;
    __builtin_memcpy(&x, rows[r] + offset, sizeof x);
    return x;
  };
  __m128i x = _mm_cvtsi32_si128(word(0));
  x = _mm_insert_epi32(x, word(1), 1);
  x = _mm_insert_epi32(x, word(2), 2);
  x = _mm_insert_epi32(x, word(3), 3);
  __m128i y = _mm_cvtsi32_si128(word(4));
  y = _mm_insert_epi32(y, word(5), 1);
  y = _mm_insert_epi32(y, word(6), 2);
  y = _mm_insert_epi32(y, word(7), 3);
  return {_mm256_inserti128_si256(_mm256_castsi128_si256(x), y, 1)};
}

inline Vec halves_of(const std::byte* const* rows, size_t offset) {
  const auto half = [&](int r) {
    int16_t x;
    __builtin_memcpy(&x, rows[r] + offset, sizeof x);
    return x;
  };
  __m128i x = _mm_cvtsi32_si128(half(0));
  x = _mm_insert_epi16(x, half(1), 1);
  x = _mm_insert_epi16(x, half(2), 2);
  x = _mm_insert_epi16(x, half(3), 3);
  __m128i y = _mm_cvtsi32_si128(half(4));
  y = _mm_insert_epi16(y, half(5), 1);
  y = _mm_insert_epi16(y, half(6), 2);
  y = _mm_insert_epi16(y, half(7), 3);
  return {_mm256_cvtph_ps(_mm_unpacklo_epi64(x, y))};
}

// from [lanes][8] to [8] vectors.
inline void across(const float (*from)[8], Vec* to) {
  for (int r = 0; r < 8; ++r) to[r] = Vec::load(from[r]);
  transpose(to);
}

inline void widen_i16(const std::byte* from, std::byte* to) {
  _mm256_storeu_si256(
      reinterpret_cast<__m256i*>(to),
      _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
}

inline void store_i8(std::byte* p, IVec x) {
  const __m128i words =
      _mm_packs_epi32(_mm256_castsi256_si128(x.v), _mm256_extracti128_si256(x.v, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
}

inline Vec fused(Vec a, Vec b, Vec c) {
  return mul_add(a, b, c);
}

}  // namespace PITH_TARGET
}  // namespace
}  // namespace pith

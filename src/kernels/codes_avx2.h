// Products of bytes with AVX2. codes_scalar.h explains the vocabulary.
//
// vpmaddubsw adds two products in 16 bits, which holds the sums of some more steps when codes are
// narrow; codes of eight bits would overflow at once, so they are two planes of nibbles.
#pragma once

namespace pith {
namespace {
namespace PITH_TARGET {

constexpr bool kSplitBytes = true;
// A step adds two products of a code below 2^bits and 127 at most.
constexpr int code_steps(int bits) {
  const int steps = 32767 / (2 * 127 * ((1 << bits) - 1));
  return steps >= 8 ? 8 : steps >= 4 ? 4 : steps >= 2 ? 2 : 1;
}

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
  static CodeSum zero() { return {_mm256_setzero_si256()}; }
  void add(Codes w, Quad a) {
    v = _mm256_add_epi16(v, _mm256_maddubs_epi16(w.v, a.v));
    // Compilers know that these additions may be done in any order, and g++ 12 first multiplies
    // everything and keeps it in memory: three times slower.
    __asm__("" : "+x"(v));
  }
  IVec total() const { return {_mm256_madd_epi16(v, _mm256_set1_epi16(1))}; }
  IVec total(IVec pair) const { return {_mm256_madd_epi16(v, pair.v)}; }
};

struct Codes32 {
  __m256i v;
};
inline Codes32 join(Bytes low, Bytes high) {
  return {_mm256_blend_epi32(low.v, high.v, 0xf0)};
}
template <bool Split>
inline void spread(const Codes32* rows, std::byte* to) {
  Vec x[8];
#pragma GCC unroll 8
  for (int r = 0; r < 8; ++r) x[r] = {_mm256_castsi256_ps(rows[r].v)};
  transpose(x);
  const __m256i fifteen = _mm256_set1_epi8(15);
#pragma GCC unroll 8
  for (int q = 0; q < 8; ++q) {
    const __m256i codes = _mm256_castps_si256(x[q].v);
    auto* at = reinterpret_cast<__m256i*>(to + 32 * q);
    if constexpr (Split) {
      _mm256_storeu_si256(at, _mm256_and_si256(codes, fifteen));
      _mm256_storeu_si256(at + 8, _mm256_and_si256(_mm256_srli_epi16(codes, 4), fifteen));
    } else {
      _mm256_storeu_si256(at, codes);
    }
  }
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

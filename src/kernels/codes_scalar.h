// Products of bytes, portable: sums of products of unsigned codes of weights and signed codes of
// activations, which are exact. The other codes_*.h spell the same words for their target:
//   Quad      four signed bytes, the same in every lane    Codes     four unsigned bytes per lane
//   CodeSum   a sum of their products per lane             Source    where codes of rows are read
#pragma once

namespace pith {
namespace {
namespace PITH_TARGET {

// Whether codes of eight bits are met less 128, as signed numbers.
constexpr bool kSignedBytes = false;
// How many additions a sum of codes of so many bits takes without overflow: 8 at most.
constexpr int code_steps(int) {
  return 8;
}

// Whether sums of pairs of 16-bit integers beat sums of floats by enough to code halves for them.
constexpr bool kCodesHalves = false;

struct Quad {
  int8_t v[4];
  static Quad all(const std::byte* p) {
    Quad x;
    __builtin_memcpy(x.v, p, 4);
    return x;
  }
};

struct Codes {
  uint8_t v[4];
  static Codes load(const std::byte* p) {
    Codes x;
    __builtin_memcpy(x.v, p, 4);
    return x;
  }
};

// Two signed 16-bit numbers in each lane: their products, added.
inline IVec pair_dot(IVec a, IVec b) {
  const auto low = [](IVec x) { return static_cast<int32_t>(static_cast<int16_t>(x.v & 0xffff)); };
  return {low(a) * low(b) + (a.v >> 16) * (b.v >> 16)};
}

struct CodeSum {
  int32_t v;
  static CodeSum first(Codes w, Quad a) {
    CodeSum sum{0};
    sum.add(w, a);
    return sum;
  }
  void add(Codes w, Quad a) {
    for (int i = 0; i < 4; ++i) v += w.v[i] * a.v[i];
  }
  IVec total() const { return {v}; }
  // times a number that both halves of a lane of `pair` hold, as 16 bits
  IVec total(IVec pair) const { return {v * (pair.v >> 16)}; }
};
// The sum of signed codes, or of codes.
template <bool Signed>
using SumOf = CodeSum;

// Where codes are read: the blocks of kRowsAtOnce rows, `lanes` / kRowsAtOnce apart.
constexpr int kRowsAtOnce = 1;
using Source = OneRow;
inline Source source(const std::byte* const* rows, int r) {
  return {rows[r]};
}

// The first and the last 16 codes of `lanes` rows to [8][lanes][4]: what Codes::load takes.
template <bool Signed>
inline void spread(const Bytes* low, const Bytes* high, std::byte* to) {
  static_assert(!Signed);
  __builtin_memcpy(to, low[0].v, 16);
  __builtin_memcpy(to + 16, high[0].v, 16);
}

// Whether codes go from rows to lanes in registers.
constexpr bool kSpreadsInRegisters = false;

// The words, and the half-precision numbers, at `offset` of `lanes` rows.
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

// Sixteen signed bytes to 16 bits each.
inline void widen_i16(const std::byte* from, std::byte* to) {
  int16_t wide[16];
  for (int i = 0; i < 16; ++i) wide[i] = static_cast<int8_t>(from[i]);
  __builtin_memcpy(to, wide, sizeof wide);
}

// The low bytes, signed.
inline void store_i8(std::byte* p, IVec x) {
  *p = static_cast<std::byte>(x.v & 0xff);
}

// a * b + c, rounded once as on every other target: the product is exact in a double, and a sum
// rounded to odd there rounds to float as the exact sum would.
inline Vec fused(Vec a, Vec b, Vec c) {
  const double p = static_cast<double>(a.v) * static_cast<double>(b.v);
  const double z = static_cast<double>(c.v), s = p + z;
  const double back = s - p, error = (p - (s - back)) + (z - back);
  uint64_t bits = __builtin_bit_cast(uint64_t, s);
  if (error != 0 && (bits & 1) == 0 && error == error && s - s == 0)
    bits += (error > 0) == (s > 0) ? 1 : static_cast<uint64_t>(-1);
  return {static_cast<float>(__builtin_bit_cast(double, bits))};
}

}  // namespace PITH_TARGET
}  // namespace
}  // namespace pith

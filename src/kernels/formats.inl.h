// Weight blocks to vectors of floats, in registers. tensor/blocks.h has the layouts and
// tensor/codec.cpp the definition; a half-precision scale times a few bits is exact in a float and
// a minimum is added with one rounding, so the values here are the same numbers whether or not
// the target fuses multiply and add.
//
// A format is a struct made from the address of a block, which reads the scales once. `raw` gives
// the first or second half of the g-th 32 codes of a block as unsigned bytes of kBits bits; less
// kOffset they are what scales multiply, and `apply` turns the s-th vector of those 32 (in units of
// kCodeUnit) into weights. Formats whose numbers lie ready have `step`, the s-th vector of weights;
// plain ones also have `part`, for the first n < lanes numbers behind the last group. Where the
// high nibbles of bytes are the codes kHighNibble columns on, `both` gives the bytes; codes of six
// bits also have `pairs`, bytes with their upper two bits in four groups. kElements and kBytes are
// those of a block.
#pragma once

#include "kernels/table.h"
#include "kernels/vec_math.inl.h"
#include "kernels/word.inl.h"
#include "tensor/blocks.h"

namespace pith {
namespace {
namespace PITH_TARGET {

constexpr int kGroup = 32;
constexpr int kHalf = kGroup / 2 / Vec::lanes;  // vectors of half a group

// ---- plain formats: a "block" is 32 numbers

struct FormatF32 {
  static constexpr int kElements = kGroup, kBytes = 4 * kGroup;
  const std::byte* p;
  FormatF32() = default;
  explicit FormatF32(const std::byte* block) : p(block) {}
  Vec step(int s) const { return Vec::load(p + 4 * s * Vec::lanes); }
  static Vec part(const std::byte* p, int n) { return Vec::load_part(p, n); }
};

struct FormatF16 {
  static constexpr int kElements = kGroup, kBytes = 2 * kGroup;
  const std::byte* p;
  FormatF16() = default;
  explicit FormatF16(const std::byte* block) : p(block) {}
  Vec step(int s) const { return Vec::load_f16(p + 2 * s * Vec::lanes); }
  static Vec part(const std::byte* p, int n) { return Vec::load_f16_part(p, n); }
};

struct FormatBf16 {
  static constexpr bool kTopOfFloat = true;
  static constexpr int kElements = kGroup, kBytes = 2 * kGroup;
  const std::byte* p;
  FormatBf16() = default;
  explicit FormatBf16(const std::byte* block) : p(block) {}
  Vec step(int s) const { return Vec::load_bf16(p + 2 * s * Vec::lanes); }
  static Vec part(const std::byte* p, int n) { return Vec::load_bf16_part(p, n); }
};

template <class Format>
constexpr bool kPlain = requires {
  Format::part(nullptr, 0);
};

// ---- helpers of the block formats

template <class Layout, int Elements, int Bits, int Offset>
struct Packed {
  static constexpr int kElements = Elements, kBytes = sizeof(Layout);
  static constexpr int kBits = Bits, kOffset = Offset;
};

// Where `raw` reads: the bytes of one block. The integer kernels have sources of several.
struct OneRow {
  const std::byte* block;
  Bytes load(size_t offset) const { return Bytes::load(block + offset); }
  Bytes all4(size_t offset) const { return Bytes::all4(block + offset); }
};

// Half of the nibbles of 16 bytes: those below are codes 0 to 15, those above 16 to 31.
template <class Source>
inline Bytes nibbles(Source block, size_t offset, int half) {
  const Bytes both = block.load(offset);
  return (half ? shift_right(both, 4) : both) & Bytes::all(15);
}

// A scale for codes in their unit.
inline Vec unit_f16(const std::byte* p) {
  return Vec::all_f16(p) * Vec::all(kCodeUnit);
}

alignas(16) constexpr uint8_t kByteOfBit[2][16] = {
    {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1},
    {2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3}};
alignas(16) constexpr uint8_t kBit[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};

// 16 where bit i of the 32 bits at `offset` is set: the fifth bits of a half of the codes.
template <class Source>
inline Bytes fifth_bits(Source block, size_t offset, int half) {
  const Bytes bit = Bytes::load(kBit);
  const Bytes spread = lookup(block.all4(offset), Bytes::load(kByteOfBit[half])) & bit;
  return equal(spread, bit) & Bytes::all(16);
}

// Sixteen small integers as floats.
inline void widen_u8(const std::byte* from, float* to) {
  for (int i = 0; i < 16; i += Vec::lanes) store(to + i, to_float(IVec::load_u8(from + i)));
}

// Of the formats with a scale for every 16 weights: which, for the s-th vector of group g.
constexpr int sixteenth(int g, int s) {
  return 2 * g + s * Vec::lanes / 16;
}

// ---- 32 weights

struct FormatQ80 : Packed<BlockQ80, 32, 8, 128> {
  const std::byte* p;
  Vec d;
  FormatQ80() = default;
  explicit FormatQ80(const std::byte* b) : p(b), d(Vec::all_f16(b + offsetof(BlockQ80, d))) {}
  template <class Source>
  static Bytes raw(Source b, int, int half) {
    return b.load(offsetof(BlockQ80, q) + 16 * half) - Bytes::all(128);
  }
  Vec step(int s) const {
    return to_float(IVec::load_i8(p + offsetof(BlockQ80, q) + s * Vec::lanes)) * d;
  }
};

struct FormatQ40 : Packed<BlockQ40, 32, 4, 8> {
  const std::byte* p;
  Vec d;
  FormatQ40() = default;
  explicit FormatQ40(const std::byte* b) : p(b), d(unit_f16(b + offsetof(BlockQ40, d))) {}
  static constexpr int kHighNibble = 16;
  template <class Source>
  static Bytes both(Source b, int, int) {
    return b.load(offsetof(BlockQ40, q));
  }
  template <class Source>
  static Bytes raw(Source b, int, int half) {
    return nibbles(b, offsetof(BlockQ40, q), half);
  }
  Vec apply(int, int, Vec q) const { return q * d; }
};

struct FormatQ41 : Packed<BlockQ41, 32, 4, 0> {
  const std::byte* p;
  Vec d, m;
  FormatQ41() = default;
  explicit FormatQ41(const std::byte* b)
      : p(b), d(unit_f16(b + offsetof(BlockQ41, d))), m(Vec::all_f16(b + offsetof(BlockQ41, m))) {}
  static constexpr int kHighNibble = 16;
  template <class Source>
  static Bytes both(Source b, int, int) {
    return b.load(offsetof(BlockQ41, q));
  }
  template <class Source>
  static Bytes raw(Source b, int, int half) {
    return nibbles(b, offsetof(BlockQ41, q), half);
  }
  Vec apply(int, int, Vec q) const { return mul_add(q, d, m); }
};

struct FormatQ50 : Packed<BlockQ50, 32, 5, 16> {
  const std::byte* p;
  Vec d;
  FormatQ50() = default;
  explicit FormatQ50(const std::byte* b) : p(b), d(unit_f16(b + offsetof(BlockQ50, d))) {}
  template <class Source>
  static Bytes raw(Source b, int, int half) {
    return nibbles(b, offsetof(BlockQ50, q), half) | fifth_bits(b, offsetof(BlockQ50, high), half);
  }
  Vec apply(int, int, Vec q) const { return q * d; }
};

struct FormatQ51 : Packed<BlockQ51, 32, 5, 0> {
  const std::byte* p;
  Vec d, m;
  FormatQ51() = default;
  explicit FormatQ51(const std::byte* b)
      : p(b), d(unit_f16(b + offsetof(BlockQ51, d))), m(Vec::all_f16(b + offsetof(BlockQ51, m))) {}
  template <class Source>
  static Bytes raw(Source b, int, int half) {
    return nibbles(b, offsetof(BlockQ51, q), half) | fifth_bits(b, offsetof(BlockQ51, high), half);
  }
  Vec apply(int, int, Vec q) const { return mul_add(q, d, m); }
};

struct FormatIq4Nl : Packed<BlockIq4Nl, 32, 8, 128> {
  const std::byte* p;
  Vec d;
  FormatIq4Nl() = default;
  explicit FormatIq4Nl(const std::byte* b) : p(b), d(unit_f16(b + offsetof(BlockIq4Nl, d))) {}
  template <class Source>
  static Bytes raw(Source b, int, int half) {
    return lookup(Bytes::load(kIq4Values), nibbles(b, offsetof(BlockIq4Nl, q), half)) -
           Bytes::all(128);
  }
  Vec apply(int, int, Vec q) const { return q * d; }
};

// ---- 256 weights

struct FormatQ2K : Packed<BlockQ2K, 256, 2, 0> {
  static constexpr bool kSixteens = true;  // a scale for every 16 weights
  const std::byte* p;
  float scale[16], min[16];
  FormatQ2K() = default;
  explicit FormatQ2K(const std::byte* b) : p(b) {
    const Vec d = unit_f16(b + offsetof(BlockQ2K, d));
    const Vec m = Vec::zero() - Vec::all_f16(b + offsetof(BlockQ2K, m));
    for (int i = 0; i < 16; i += Vec::lanes) {
      const IVec both = IVec::load_u8(b + offsetof(BlockQ2K, scales) + i);
      store(scale + i, to_float(both & IVec::all(15)) * d);
      store(min + i, to_float(shift_right<4>(both)) * m);
    }
  }
  template <class Source>
  static Bytes raw(Source b, int g, int half) {
    const Bytes four = b.load(offsetof(BlockQ2K, q) + 32 * (g / 4) + 16 * half);
    return shift_right(four, 2 * (g % 4)) & Bytes::all(3);
  }
  Vec apply(int g, int s, Vec q) const {
    return mul_add(q, Vec::all(scale[sixteenth(g, s)]), Vec::all(min[sixteenth(g, s)]));
  }
};

struct FormatQ3K : Packed<BlockQ3K, 256, 3, 4> {
  static constexpr bool kSixteens = true;  // a scale for every 16 weights
  const std::byte* p;
  float scale[16];
  FormatQ3K() = default;
  // Sixteen scales of 6 bits, each 32 too high.
  static void read_scales(const std::byte* b, std::byte* bytes) {
    const std::byte* packed = b + offsetof(BlockQ3K, scales);
    const uint32_t low[2] = {word<uint32_t>(packed), word<uint32_t>(packed + 4)};
    const uint32_t high = word<uint32_t>(packed + 8);
    for (int i = 0; i < 4; ++i) {
      const uint32_t four =
          ((low[i % 2] >> (4 * (i / 2))) & 0x0f0f0f0fu) | (((high >> (2 * i)) & 0x03030303u) << 4);
      __builtin_memcpy(bytes + 4 * i, &four, sizeof four);
    }
  }
  explicit FormatQ3K(const std::byte* b) : p(b) {
    std::byte bytes[16];
    read_scales(b, bytes);
    widen_u8(bytes, scale);
    const Vec d = unit_f16(b + offsetof(BlockQ3K, d)), bias = Vec::all(32);
    for (int i = 0; i < 16; i += Vec::lanes) store(scale + i, (Vec::load(scale + i) - bias) * d);
  }
  template <class Source>
  static Bytes raw(Source b, int g, int half) {
    const Bytes four = b.load(offsetof(BlockQ3K, q) + 32 * (g / 4) + 16 * half);
    const Bytes eight = b.load(offsetof(BlockQ3K, high) + 16 * half);
    const Bytes low = shift_right(four, 2 * (g % 4)) & Bytes::all(3);
    const Bytes high = shift_left(shift_right(eight, g) & Bytes::all(1), 2);
    return low | high;
  }
  Vec apply(int g, int s, Vec q) const { return q * Vec::all(scale[sixteenth(g, s)]); }
};

// The eight scales and minima of 6 bits of Q4_K and Q5_K.
struct ScaleMin {
  float scale[8], min[8];
  ScaleMin() = default;
  // Eight bytes of scales, then eight of minima.
  static void read(const std::byte* packed, std::byte* bytes) {
    const uint32_t a = word<uint32_t>(packed), b = word<uint32_t>(packed + 4),
                   c = word<uint32_t>(packed + 8);
    const uint32_t words[4] = {a & 0x3f3f3f3fu, (c & 0x0f0f0f0fu) | ((a >> 2) & 0x30303030u),
                               b & 0x3f3f3f3fu,
                               ((c >> 4) & 0x0f0f0f0fu) | ((b >> 2) & 0x30303030u)};
    __builtin_memcpy(bytes, words, sizeof words);
  }
  ScaleMin(const std::byte* packed, float d, float m) {
    std::byte bytes[16];
    read(packed, bytes);
    float wide[16];
    widen_u8(bytes, wide);
    for (int i = 0; i < 8; ++i) {
      scale[i] = kCodeUnit * d * wide[i];
      min[i] = -m * wide[i + 8];
    }
  }
  Vec apply(int g, Vec q) const { return mul_add(q, Vec::all(scale[g]), Vec::all(min[g])); }
};

struct FormatQ4K : Packed<BlockQ4K, 256, 4, 0> {
  const std::byte* p;
  ScaleMin groups;
  FormatQ4K() = default;
  explicit FormatQ4K(const std::byte* b)
      : p(b),
        groups(b + offsetof(BlockQ4K, scales), load_half(b + offsetof(BlockQ4K, d)),
               load_half(b + offsetof(BlockQ4K, m))) {}
  static constexpr int kHighNibble = 32;
  template <class Source>
  static Bytes both(Source b, int g, int half) {
    return b.load(offsetof(BlockQ4K, q) + 32 * (g / 2) + 16 * half);
  }
  template <class Source>
  static Bytes raw(Source b, int g, int half) {
    const Bytes two = b.load(offsetof(BlockQ4K, q) + 32 * (g / 2) + 16 * half);
    return shift_right(two, 4 * (g % 2)) & Bytes::all(15);
  }
  Vec apply(int g, int, Vec q) const { return groups.apply(g, q); }
};

struct FormatQ5K : Packed<BlockQ5K, 256, 5, 0> {
  const std::byte* p;
  ScaleMin groups;
  FormatQ5K() = default;
  explicit FormatQ5K(const std::byte* b)
      : p(b),
        groups(b + offsetof(BlockQ5K, scales), load_half(b + offsetof(BlockQ5K, d)),
               load_half(b + offsetof(BlockQ5K, m))) {}
  template <class Source>
  static Bytes raw(Source b, int g, int half) {
    const Bytes two = b.load(offsetof(BlockQ5K, q) + 32 * (g / 2) + 16 * half);
    const Bytes eight = b.load(offsetof(BlockQ5K, high) + 16 * half);
    const Bytes low = shift_right(two, 4 * (g % 2)) & Bytes::all(15);
    return low | shift_left(shift_right(eight, g) & Bytes::all(1), 4);
  }
  Vec apply(int g, int, Vec q) const { return groups.apply(g, q); }
};

struct FormatQ6K : Packed<BlockQ6K, 256, 6, 32> {
  static constexpr bool kSixteens = true;  // a scale for every 16 weights
  const std::byte* p;
  float scale[16];
  FormatQ6K() = default;
  explicit FormatQ6K(const std::byte* b) : p(b) {
    const Vec d = unit_f16(b + offsetof(BlockQ6K, d));
    for (int i = 0; i < 16; i += Vec::lanes)
      store(scale + i, to_float(IVec::load_i8(b + offsetof(BlockQ6K, scales) + i)) * d);
  }
  // Groups come in fours: nibbles of the first two lie below those of the other two.
  static constexpr int kHighNibble = 64;
  template <class Source>
  static Bytes both(Source b, int g, int half) {
    return b.load(offsetof(BlockQ6K, low) + 64 * (g / 4) + 32 * (g % 2) + 16 * half);
  }
  template <class Source>
  static Bytes pairs(Source b, int g, int half) {
    return b.load(offsetof(BlockQ6K, high) + 32 * (g / 4) + 16 * half);
  }
  template <class Source>
  static Bytes raw(Source b, int g, int half) {
    const Bytes low = shift_right(both(b, g, half), 4 * (g % 4 / 2)) & Bytes::all(15);
    const Bytes high = shift_left(shift_right(pairs(b, g, half), 2 * (g % 4)) & Bytes::all(3), 4);
    return low | high;
  }
  Vec apply(int g, int s, Vec q) const { return q * Vec::all(scale[sixteenth(g, s)]); }
};

struct FormatIq4Xs : Packed<BlockIq4Xs, 256, 8, 128> {
  const std::byte* p;
  float scale[8];
  FormatIq4Xs() = default;
  explicit FormatIq4Xs(const std::byte* b) : p(b) {
    const float d = kCodeUnit * load_half(b + offsetof(BlockIq4Xs, d));
    const auto low = word<uint32_t>(b + offsetof(BlockIq4Xs, scales_low));
    const auto high = word<uint16_t>(b + offsetof(BlockIq4Xs, scales_high));
    for (int g = 0; g < 8; ++g) scale[g] = d * static_cast<float>(six_bits(low, high, g));
  }
  static int32_t six_bits(uint32_t low, uint32_t high, int g) {
    return static_cast<int32_t>(((low >> (4 * g)) & 15u) | (((high >> (2 * g)) & 3u) << 4)) - 32;
  }
  template <class Source>
  static Bytes raw(Source b, int g, int half) {
    const size_t q = offsetof(BlockIq4Xs, q) + 16 * static_cast<size_t>(g);
    return lookup(Bytes::load(kIq4Values), nibbles(b, q, half)) - Bytes::all(128);
  }
  Vec apply(int g, int, Vec q) const { return q * Vec::all(scale[g]); }
};

// ---- what the kernels use

// The first or second 16 weights of the g-th group of a block.
template <class Format>
inline void unpack_half(const Format& block, int g, int half, Vec (&w)[kHalf]) {
  if constexpr (requires { block.step(0); }) {
#pragma GCC unroll 4
    for (int s = 0; s < kHalf; ++s) w[s] = block.step(half * kHalf + s);
  } else {
    Bytes q = Format::raw(OneRow{block.p}, g, half);
    if constexpr (Format::kOffset != 0) q = q - Bytes::all(Format::kOffset);
#pragma GCC unroll 4
    for (int s = 0; s < kHalf; ++s) w[s] = block.apply(g, half * kHalf + s, code_floats(q, s));
  }
}

// Bytes of `cols` weights of a row: whole blocks, or any number of a plain format.
template <class Format>
constexpr int64_t format_bytes(int64_t cols) {
  return kPlain<Format> ? cols * (Format::kBytes / Format::kElements)
                        : cols / Format::kElements * Format::kBytes;
}

// Calls take(vector, column) for each vector of `cols` weights, in order.
template <class Format, class Take>
inline void each_vector(const std::byte* w, int64_t cols, Take take) {
  int64_t k = 0;
  for (; k + Format::kElements <= cols; k += Format::kElements, w += Format::kBytes) {
    const Format block(w);
    for (int g = 0; g < Format::kElements / kGroup; ++g) {
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        Vec v[kHalf];
        unpack_half(block, g, half, v);
#pragma GCC unroll 4
        for (int s = 0; s < kHalf; ++s)
          take(v[s], k + g * kGroup + (half * kHalf + s) * Vec::lanes);
      }
    }
  }
  if constexpr (kPlain<Format>) {
    for (; k < cols; k += Vec::lanes, w += format_bytes<Format>(Vec::lanes)) {
      const int64_t rest = cols - k;
      take(Format::part(w, static_cast<int>(rest < Vec::lanes ? rest : Vec::lanes)), k);
    }
  }
}

// Calls function.operator()<Format>() for the format of `dtype`.
template <class Function>
void with_format(DType dtype, Function function) {
  switch (dtype) {
    case DType::f32:
      return function.template operator()<FormatF32>();
    case DType::f16:
      return function.template operator()<FormatF16>();
    case DType::bf16:
      return function.template operator()<FormatBf16>();
    case DType::q8_0:
      return function.template operator()<FormatQ80>();
    case DType::q4_0:
      return function.template operator()<FormatQ40>();
    case DType::q4_1:
      return function.template operator()<FormatQ41>();
    case DType::q5_0:
      return function.template operator()<FormatQ50>();
    case DType::q5_1:
      return function.template operator()<FormatQ51>();
    case DType::q2_k:
      return function.template operator()<FormatQ2K>();
    case DType::q3_k:
      return function.template operator()<FormatQ3K>();
    case DType::q4_k:
      return function.template operator()<FormatQ4K>();
    case DType::q5_k:
      return function.template operator()<FormatQ5K>();
    case DType::q6_k:
      return function.template operator()<FormatQ6K>();
    case DType::iq4_nl:
      return function.template operator()<FormatIq4Nl>();
    case DType::iq4_xs:
      return function.template operator()<FormatIq4Xs>();
  }
}

}  // namespace PITH_TARGET
}  // namespace
}  // namespace pith

// Scales of weight blocks for the integer products of codes.inl.h: words of `lanes` rows, a lane
// per row of weights, as each format stores them.
#pragma once

#include "kernels/codes_panel.inl.h"

namespace pith {
namespace {
namespace PITH_TARGET {

inline Vec halves(const Column& at, size_t offset) {
  return halves_of(at.row, offset);
}

inline void put(std::byte* to, int word, Vec x) {
  store(reinterpret_cast<float*>(to) + word * kLanes, x);
}
inline void put(std::byte* to, int word, IVec x) {
  store(reinterpret_cast<int32_t*>(to) + word * kLanes, x);
}

// put_scales writes the words of the blocks of a column: those of group g at to + g * stride.
template <class Format>
struct Of {};

template <class Layout>
inline void put_d(const Column& at, std::byte* to) {
  put(to, 0, halves(at, offsetof(Layout, d)));
}
template <class Layout>
inline void put_d_m(const Column& at, std::byte* to) {
  put(to, 0, halves(at, offsetof(Layout, d)));
  put(to, 1, halves(at, offsetof(Layout, m)));
}
inline void put_scales(Of<FormatQ80>, const Column& at, std::byte* to, int64_t) {
  put_d<BlockQ80>(at, to);
}
inline void put_scales(Of<FormatQ40>, const Column& at, std::byte* to, int64_t) {
  put_d<BlockQ40>(at, to);
}
inline void put_scales(Of<FormatQ50>, const Column& at, std::byte* to, int64_t) {
  put_d<BlockQ50>(at, to);
}
inline void put_scales(Of<FormatIq4Nl>, const Column& at, std::byte* to, int64_t) {
  put_d<BlockIq4Nl>(at, to);
}
inline void put_scales(Of<FormatQ41>, const Column& at, std::byte* to, int64_t) {
  put_d_m<BlockQ41>(at, to);
}
inline void put_scales(Of<FormatQ51>, const Column& at, std::byte* to, int64_t) {
  put_d_m<BlockQ51>(at, to);
}

// The four words of ScaleMin::read, of all rows at once.
template <class Layout>
inline void put_scale_min(const Column& at, std::byte* to, int64_t stride) {
  constexpr size_t kScales = offsetof(Layout, scales);
  const IVec a = words_of(at.row, kScales), b = words_of(at.row, kScales + 4);
  const IVec c = words_of(at.row, kScales + 8);
  const IVec six = IVec::all(0x3f3f3f3f), four = IVec::all(0x0f0f0f0f);
  const IVec two = IVec::all(0x30303030);
  const IVec words[4] = {a & six, (c & four) | (shift_right<2>(a) & two), b & six,
                         (shift_right<4>(c) & four) | (shift_right<2>(b) & two)};
  const Vec d = halves(at, offsetof(Layout, d));
  const Vec m = Vec::zero() - halves(at, offsetof(Layout, m));
#pragma GCC unroll 8
  for (int g = 0; g < 8; ++g, to += stride) {
    const auto byte = [&](IVec word) {
      return to_float(shift_right(word, IVec::all(8 * (g % 4))) & IVec::all(255));
    };
    put(to, 0, byte(words[g / 4]) * d);
    put(to, 1, byte(words[2 + g / 4]) * m);
  }
}
inline void put_scales(Of<FormatQ4K>, const Column& at, std::byte* to, int64_t stride) {
  put_scale_min<BlockQ4K>(at, to, stride);
}
inline void put_scales(Of<FormatQ5K>, const Column& at, std::byte* to, int64_t stride) {
  put_scale_min<BlockQ5K>(at, to, stride);
}

inline void put_scales(Of<FormatIq4Xs>, const Column& at, std::byte* to, int64_t stride) {
  alignas(32) float scale[kLanes][8];
  for (int r = 0; r < kLanes; ++r) {
    const auto low = word<uint32_t>(at.row[r] + offsetof(BlockIq4Xs, scales_low));
    const auto high = word<uint16_t>(at.row[r] + offsetof(BlockIq4Xs, scales_high));
    for (int g = 0; g < 8; ++g)
      scale[r][g] = static_cast<float>(FormatIq4Xs::six_bits(low, high, g));
  }
  Vec scales[8];
  across(scale, scales);
  const Vec d = halves(at, offsetof(BlockIq4Xs, d));
  for (int g = 0; g < 8; ++g, to += stride) put(to, 0, scales[g] * d);
}

// Two 16-bit integers per lane and group, of 16 signed bytes per row.
inline void pairs_of(const std::byte (*bytes)[16], IVec* to) {
  alignas(32) float words[kLanes][8];  // only moved
  for (int r = 0; r < kLanes; ++r) widen_i16(bytes[r], reinterpret_cast<std::byte*>(words[r]));
  Vec moved[8];
  across(words, moved);
  for (int g = 0; g < 8; ++g) to[g] = PITH_TARGET::bits(moved[g]);
}

// The words of a group with scales for 16 columns: d, both scales, and the pair.
inline void put_sixteens(std::byte* to, Vec d, IVec scales, IVec pair) {
  put(to, 0, d);
  put(to, 1, (scales & IVec::all(0xffff)) | shift_left<16>(scales));
  put(to, 2, shift_right<16>(scales) | (scales & IVec::all(-0x10000)));
  put(to, 3, pair);
}

// offset * both scales of a pair; the offset is 2^Bits.
template <int Bits>
inline IVec times_offset(IVec pair) {
  return (shift_left<Bits>(pair) & IVec::all(0xffff)) |
         shift_left<Bits>(pair & IVec::all(-0x10000));
}

template <int Bits, class Format>
inline void put_signed(const std::byte (*bytes)[16], Vec d, std::byte* to, int64_t stride) {
  static_assert(Format::kOffset == 1 << Bits);
  IVec scales[8];
  pairs_of(bytes, scales);
  for (int g = 0; g < 8; ++g, to += stride)
    put_sixteens(to, d, scales[g], times_offset<Bits>(scales[g]));
}

inline void put_scales(Of<FormatQ6K>, const Column& at, std::byte* to, int64_t stride) {
  std::byte bytes[kLanes][16];
  for (int r = 0; r < kLanes; ++r)
    __builtin_memcpy(bytes[r], at.row[r] + offsetof(BlockQ6K, scales), 16);
  put_signed<5, FormatQ6K>(bytes, halves(at, offsetof(BlockQ6K, d)), to, stride);
}

inline void put_scales(Of<FormatQ3K>, const Column& at, std::byte* to, int64_t stride) {
  std::byte bytes[kLanes][16];
  for (int r = 0; r < kLanes; ++r) {
    FormatQ3K::read_scales(at.row[r], bytes[r]);
    for (std::byte& b : bytes[r]) b = static_cast<std::byte>(static_cast<int>(b) - 32);
  }
  put_signed<2, FormatQ3K>(bytes, halves(at, offsetof(BlockQ3K, d)), to, stride);
}

inline void put_scales(Of<FormatQ2K>, const Column& at, std::byte* to, int64_t stride) {
  std::byte low[kLanes][16], high[kLanes][16];
  for (int r = 0; r < kLanes; ++r)
    for (int i = 0; i < 16; ++i) {
      const std::byte both = at.row[r][static_cast<int>(offsetof(BlockQ2K, scales)) + i];
      low[r][i] = both & std::byte{15};
      high[r][i] = both >> 4;
    }
  IVec scales[8], mins[8];
  pairs_of(low, scales);
  pairs_of(high, mins);
  const Vec d = halves(at, offsetof(BlockQ2K, d));
  const Vec m = Vec::zero() - halves(at, offsetof(BlockQ2K, m));
  for (int g = 0; g < 8; ++g, to += stride) {
    put_sixteens(to, d, scales[g], mins[g]);
    put(to, 4, m);
  }
}

}  // namespace PITH_TARGET
}  // namespace
}  // namespace pith

// Weights of 16 bits (F16, BF16) as integers, for targets whose multiply-add of pairs of 16-bit
// integers does twice what one of floats does (kCodesHalves). Activations have 14 bits, and so have
// weights: in blocks of 32 columns of a row, in units of the largest of them, which are found while
// a panel is filled. Products of a block are summed exactly, as they are for weights of fewer bits.
//
// Activations: for each block of 32 columns the codes [kCodedRows][32] of 16 bits, then a scale per
// row. Panels: for each block and each vector of rows the codes [16][lanes][2], then the scales.
#pragma once

#include "kernels/codes_panel.inl.h"

namespace pith {
namespace {
namespace PITH_TARGET {

constexpr int kMostPair = 8191;
static_assert(int64_t{kMostPair} * kMostPair * kGroup < (int64_t{1} << 31));

// Units of blocks of smaller weights are those of this one, so that reciprocals are finite.
constexpr float kLeastPair = 0x1p-110f;

template <class Format>
constexpr bool kHalves = kPlain<Format>&& Format::kBytes == 2 * kGroup;

struct HalfKind {
  static constexpr int kPairs = kGroup / 2;
  static constexpr int kCodeBytes = kPairs * kLaneBytes;
  static constexpr int kBytes = kCodeBytes + kLaneBytes;  // of a vector
  static constexpr int kBlock = kTileVectors * kBytes;
  static constexpr int64_t kGroupBlock = kCodedRows * (2 * kGroup + int64_t{4});  // of activations
};

inline void code_for_halves(const float* x, int64_t x_stride, int64_t rows, int64_t cols,
                            std::byte* to) {
  const int64_t blocks = cols / kGroup;
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t r = i % kCodedRows;
    std::byte* at = to + i / kCodedRows * blocks * HalfKind::kGroupBlock;
    for (int64_t b = 0; b < blocks; ++b, at += HalfKind::kGroupBlock) {
      const CodedBlock block =
          code_block<kMostPair>(x + i * x_stride + b * kGroup, at + 2 * r * kGroup);
      __builtin_memcpy(at + 2 * kCodedRows * kGroup + 4 * r, &block.scale, 4);
    }
  }
}

// The two numbers of each word.
template <class Format>
inline void split_words(IVec words, Vec& low, Vec& high) {
  if constexpr (requires { Format::kTopOfFloat; }) {
    low = from_bits(shift_left<16>(words));
    high = from_bits(words & IVec::all(-0x10000));
  } else {
    alignas(64) std::byte halves[2][2 * kLanes];
    store_low16(halves[0], words);
    store_low16(halves[1], shift_right<16>(words));
    low = Vec::load_f16(halves[0]);
    high = Vec::load_f16(halves[1]);
  }
}

// Codes a block of 32 columns of `lanes` rows: pairs [16][lanes] of codes, and the scales behind.
template <class Format>
inline void code_weights(const Column& at, std::byte* to) {
  constexpr float kRound = 0x1.8p23f, kMost = float{kMostPair};
  constexpr int kChains = 4;  // results that do not wait for each other
  Vec low[HalfKind::kPairs], high[HalfKind::kPairs];
  Vec size[kChains], odd[kChains];  // NaN if a weight is not finite, and so is the scale then
#pragma GCC unroll 4
  for (int i = 0; i < kChains; ++i) size[i] = odd[i] = Vec::zero();
#pragma GCC unroll 16
  for (int first = 0; first < HalfKind::kPairs; first += kLanes) {
    Vec words[kLanes];
#pragma GCC unroll 16
    for (int r = 0; r < kLanes; ++r) words[r] = Vec::load(at.row[r] + 4 * first);
    transpose(words);
#pragma GCC unroll 16
    for (int c = 0; c < kLanes; ++c) {
      Vec &a = low[first + c], &b = high[first + c];
      split_words<Format>(bits(words[c]), a, b);
      const int chain = (first + c) % kChains;
      size[chain] = max(max(abs(a), abs(b)), size[chain]);
      odd[chain] = fused(a, Vec::zero(), fused(b, Vec::zero(), odd[chain]));
    }
  }
  const Vec most = max(max(max(size[0], size[1]), max(size[2], size[3])), Vec::all(kLeastPair));
  const Vec none = (odd[0] + odd[1]) + (odd[2] + odd[3]);
  const Vec inverse = Vec::all(kMost) / most, round = Vec::all(kRound);
#pragma GCC unroll 16
  for (int i = 0; i < HalfKind::kPairs; ++i) {
    const IVec a = bits(fused(low[i], inverse, round)) & IVec::all(0xffff);
    const IVec b = shift_left<16>(bits(fused(high[i], inverse, round)));
    store(reinterpret_cast<int32_t*>(to) + i * kLanes, a | b);
  }
  store(reinterpret_cast<float*>(to + HalfKind::kCodeBytes), most * Vec::all(1 / kMost) + none);
}

// Blocks [first, first + blocks) of kPanelColumns rows of weights from `row` on; rows behind the
// last repeat it.
template <class Format>
[[gnu::noinline]] void unpack_halves(const CodedJob& job, int64_t row, int64_t first,
                                     int64_t blocks, std::byte* to) {
  const int64_t row_bytes = 2 * job.cols, last = job.row0 + job.rows - 1;
  // The next panel is asked for in the order in which it lies.
  const std::byte* next =
      job.w + (row + kPanelColumns) * row_bytes + first * kPanelColumns * Format::kBytes;
  for (int v = 0; v < kTileVectors; ++v) {
    Column at;
    for (int r = 0; r < kLanes; ++r) {
      const int64_t from = row + v * kLanes + r;
      at.row[r] = job.w + (from < last ? from : last) * row_bytes + first * Format::kBytes;
    }
    for (int64_t b = 0; b < blocks; ++b) {
      for (int64_t line = 0; line < kLanes * Format::kBytes; line += 64)
        __builtin_prefetch(next + line, 0, 2);
      next += kLanes * Format::kBytes;
      code_weights<Format>(at, to + b * HalfKind::kBlock + v * HalfKind::kBytes);
      for (int r = 0; r < kLanes; ++r) at.row[r] += Format::kBytes;
    }
  }
}

// acc += R rows of activations times V vectors of weights, for one block.
template <int R, int V>
inline void add_halves(const std::byte* x, const std::byte* codes, Vec (&acc)[R][V]) {
  constexpr int kChains = R * V > 4 ? 1 : 4;  // sums of one result that do not wait for each other
  IVec sum[kChains][R][V], total[R][V];
#pragma GCC unroll 4
  for (int chain = 0; chain < kChains; ++chain)
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sum[chain][i][v] = IVec::zero();
#pragma GCC unroll 16
  for (int pair = 0; pair < HalfKind::kPairs; ++pair) {
    IVec w[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) w[v] = IVec::load(codes + v * HalfKind::kBytes + pair * kLaneBytes);
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) {
      const IVec both = IVec::all(word<int32_t>(x + 2 * i * kGroup + 4 * pair));
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) {
        IVec& one = sum[pair % kChains][i][v];
        one = add_pairs(w[v], both, one);
      }
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      if constexpr (kChains == 1)
        total[i][v] = sum[0][i][v];
      else
        total[i][v] = (sum[0][i][v] + sum[1][i][v]) + (sum[2][i][v] + sum[3][i][v]);
    }
#pragma GCC unroll 2
  for (int v = 0; v < V; ++v) {
    const Vec scale = Vec::load(codes + v * HalfKind::kBytes + HalfKind::kCodeBytes);
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) {
      const Vec unit = Vec::all(word<float>(x + 2 * kCodedRows * kGroup + 4 * i));
      acc[i][v] = fused(to_float(total[i][v]), scale * unit, acc[i][v]);
    }
  }
}

template <int R>
inline void halves_tile(const std::byte* x, const std::byte* panel, int64_t blocks,
                        Vec (&acc)[R][kTileVectors]) {
  for (int64_t b = 0; b < blocks; ++b, x += HalfKind::kGroupBlock, panel += HalfKind::kBlock)
    add_halves(x, panel, acc);
}

// One or two rows of activations: `lanes` rows of weights are coded as they are read.
template <class Format, int R>
[[gnu::noinline]] void halves_rows(const CodedJob& job) {
  const int64_t row_bytes = 2 * job.cols, end = job.row0 + job.rows;
  for (int64_t row = job.row0; row < end; row += kLanes) {
    Column at;
    for (int r = 0; r < kLanes; ++r)
      at.row[r] = job.w + (row + r < end ? row + r : end - 1) * row_bytes;
    const std::byte* next = at.row[0] + kPrefetchRows * row_bytes;
    const std::byte* x = job.x;
    Vec acc[R][1];
    for (int i = 0; i < R; ++i) acc[i][0] = Vec::zero();
    for (int64_t b = 0; b < job.cols / kGroup; ++b, x += HalfKind::kGroupBlock) {
      for (int64_t line = 0; line < kLanes * Format::kBytes; line += 64)
        __builtin_prefetch(next + line, 0, 3);
      next += kLanes * Format::kBytes;
      alignas(64) std::byte codes[HalfKind::kBytes];
      code_weights<Format>(at, codes);
      add_halves(x, codes, acc);
      for (int r = 0; r < kLanes; ++r) at.row[r] += Format::kBytes;
    }
    for (int i = 0; i < R; ++i) {
      float* to = job.out + i * job.out_stride + row;
      if (end - row >= kLanes)
        store(to, acc[i][0]);
      else
        store_part(to, static_cast<int>(end - row), acc[i][0]);
    }
  }
}

}  // namespace PITH_TARGET
}  // namespace
}  // namespace pith

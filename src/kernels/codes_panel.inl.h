// What the products of coded activations share: how rows of weights lie in a panel, and how a block
// of activations is coded.
#pragma once

#include "kernels/formats.inl.h"
#include "kernels/table.h"
#include PITH_CODES

namespace pith {
namespace {
namespace PITH_TARGET {

constexpr int kLanes = Vec::lanes;
constexpr int kLaneBytes = 4 * kLanes;
constexpr int kTileVectors = 2;
constexpr int64_t kPanelColumns = int64_t{kTileVectors} * kLanes;
constexpr int64_t kPrefetchRows = 16;  // that one or two rows of activations are ahead of memory
constexpr int64_t kChunkBlocks = 16;   // 512 columns of a panel

// Blocks of `lanes` rows of weights.
struct Column {
  const std::byte* row[kLanes];
};

// Codes are the nearest multiples of a Most-th of the largest activation of the block, or of
// 2^-126: the smallest scale whose reciprocal is a float. Any number that is not finite makes the
// scale NaN, and with it the results of its row.
struct CodedBlock {
  float scale;
  int32_t sums[2];  // of the codes, of 16 each
};

template <int Most>
inline CodedBlock code_block(const float* x, std::byte* codes) {
  constexpr int kVectors = kGroup / kLanes;
  constexpr int kCodeBytes = Most < 128 ? 1 : 2;
  constexpr float kRound = 0x1.8p23f;  // adding it rounds to an integer, in the low bits
  Vec v[kVectors], most = Vec::zero();
#pragma GCC unroll 8
  for (int i = 0; i < kVectors; ++i) {
    v[i] = Vec::load(x + i * kLanes);
    most = max(most, abs(v[i]));
  }
  CodedBlock block;
  block.scale = largest(most) / float{Most};
  if (block.scale < 0x1p-126f) block.scale = 0x1p-126f;
  const Vec inverse = Vec::all(1.0f / block.scale), round = Vec::all(kRound);
  const IVec whole = bits(round);
  Vec total[2] = {Vec::zero(), Vec::zero()};
#pragma GCC unroll 8
  for (int i = 0; i < kVectors; ++i) {
    const Vec shifted = v[i] * inverse + round;
    const IVec code = bits(shifted) - whole;
    if constexpr (kCodeBytes == 1)
      store_i8(codes + i * kLanes, code);
    else
      store_low16(codes + 2 * i * kLanes, code);
    Vec& half = total[2 * i / kVectors];
    half = half + (shifted - round);
  }
  const float sums[2] = {sum(total[0]), sum(total[1])};  // exact
  if (sums[0] + sums[1] - sums[0] - sums[1] == 0) {
    for (int i = 0; i < 2; ++i) block.sums[i] = static_cast<int32_t>(sums[i]);
    return block;
  }
  block.scale = __builtin_nanf("");
  for (int i = 0; i < 2; ++i) block.sums[i] = 0;
  for (int i = 0; i < kCodeBytes * kGroup; ++i) codes[i] = std::byte{};
  return block;
}

}  // namespace PITH_TARGET
}  // namespace
}  // namespace pith

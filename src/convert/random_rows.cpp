#include "convert/random_rows.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/random.h"
#include "tensor/blocks.h"
#include "tensor/codec.h"
#include "tensor/half.h"

namespace pith {
namespace {

// Where a block's scale and offset lie, and the offset that makes the mean zero, in units of the
// scale; no offset: -1.
struct Scales {
  DType dtype;
  size_t d;
  int m;
  float ratio;
};
constexpr Scales kScales[] = {
    {DType::q8_0, offsetof(BlockQ80, d), -1, 0},
    {DType::q4_0, offsetof(BlockQ40, d), -1, 0},
    {DType::q4_1, offsetof(BlockQ41, d), offsetof(BlockQ41, m), -7.5f},
    {DType::q5_0, offsetof(BlockQ50, d), -1, 0},
    {DType::q5_1, offsetof(BlockQ51, d), offsetof(BlockQ51, m), -15.5f},
    {DType::q2_k, offsetof(BlockQ2K, d), offsetof(BlockQ2K, m), 1.5f},
    {DType::q3_k, offsetof(BlockQ3K, d), -1, 0},
    {DType::q4_k, offsetof(BlockQ4K, d), offsetof(BlockQ4K, m), 7.5f},
    {DType::q5_k, offsetof(BlockQ5K, d), offsetof(BlockQ5K, m), 15.5f},
    {DType::q6_k, offsetof(BlockQ6K, d), -1, 0},
    {DType::iq4_nl, offsetof(BlockIq4Nl, d), -1, 0},
    {DType::iq4_xs, offsetof(BlockIq4Xs, d), -1, 0},
};

const Scales& scales_of(DType dtype) {
  for (const Scales& s : kScales)
    if (s.dtype == dtype) return s;
  check_failed("block format", __FILE__, __LINE__, "every block format has scales");
}

constexpr int kPlainBlock = 8;  // values of a plain format that one random number chooses

}  // namespace

RandomRows::RandomRows(DType dtype, float spread, uint64_t seed) : dtype_(dtype), seed_(seed) {
  const DTypeTraits& format = traits(dtype);
  if (format.block_elements == 1) {
    // 256 values at the middles of equally likely slices of the normal distribution, so that no
    // draw is extreme; by symmetry their mean is zero.
    Random random(seed, uint64_t{1} << 63);
    double squares = 0;
    std::vector<float> values(256);
    for (int i = 0; i < 128; ++i) {
      values[i] = std::fabs(random.normal()) + 0.01f;
      values[i + 128] = -values[i];
      squares += 2 * double{values[i]} * values[i];
    }
    const double scale = spread / std::sqrt(squares / 256);
    for (const float v : values) {
      const auto x = static_cast<float>(v * scale);
      values_.push_back(dtype == DType::f16    ? float_to_half(x)
                        : dtype == DType::bf16 ? float_to_bf16(x)
                                               : std::bit_cast<uint32_t>(x));
    }
    return;
  }
  // What random codes come to at a scale of one, measured on 64 blocks.
  constexpr size_t kBlocks = 64;
  const size_t elements = kBlocks * static_cast<size_t>(format.block_elements);
  std::vector<std::byte> blocks(kBlocks * static_cast<size_t>(format.block_bytes));
  const float ratio = scales_of(dtype).ratio;
  for (size_t b = 0; b < kBlocks; ++b)
    fill_block(blocks.data() + b * static_cast<size_t>(format.block_bytes), static_cast<int64_t>(b),
               float_to_half(1), float_to_half(ratio));
  std::vector<float> x(elements);
  decode_row(dtype, blocks.data(), static_cast<int64_t>(elements), x.data());
  double squares = 0;
  for (const float v : x) squares += double{v} * v;
  const double d = spread / std::sqrt(squares / static_cast<double>(elements));
  d_ = float_to_half(static_cast<float>(d));
  m_ = float_to_half(static_cast<float>(d * ratio));
}

void RandomRows::fill_block(std::byte* out, int64_t block, uint16_t d, uint16_t m) const {
  const auto bytes = static_cast<size_t>(traits(dtype_).block_bytes);
  Random random(seed_, static_cast<uint64_t>(block) * 32);  // a block takes at most 27 numbers
  for (size_t i = 0; i < bytes; i += 8) {
    const uint64_t bits = random.next();
    std::memcpy(out + i, &bits, std::min<size_t>(8, bytes - i));
  }
  const Scales& scales = scales_of(dtype_);
  std::memcpy(out + scales.d, &d, sizeof d);
  if (scales.m >= 0) std::memcpy(out + scales.m, &m, sizeof m);
}

void RandomRows::fill(std::span<std::byte> out, int64_t block) const {
  const DTypeTraits& format = traits(dtype_);
  if (format.block_elements > 1) {
    for (size_t at = 0; at < out.size(); at += static_cast<size_t>(format.block_bytes))
      fill_block(out.data() + at, block++, d_, m_);
    return;
  }
  const auto size = static_cast<size_t>(format.block_bytes);
  const size_t count = out.size() / size;
  for (size_t i = 0; i < count;) {
    const auto element = static_cast<uint64_t>(block) + i;
    uint64_t bits = Random(seed_, element / kPlainBlock).next() >> (element % kPlainBlock * 8);
    for (uint64_t j = element % kPlainBlock; j < kPlainBlock && i < count; ++j, ++i, bits >>= 8)
      std::memcpy(out.data() + i * size, &values_[bits & 255], size);  // little endian
  }
}

}  // namespace pith

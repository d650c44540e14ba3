#include "tensor/codec.h"

#include <cstring>

#include "base/error.h"
#include "tensor/blocks.h"
#include "tensor/encode.h"
#include "tensor/half.h"

namespace pith {
namespace {

template <class T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

void decode(const BlockQ80& b, float* out) {
  const float d = half_to_float(b.d);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(b.q[i]);
}

void decode(const BlockQ40& b, float* out) {
  const float d = half_to_float(b.d);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>((b.q[i] & 15) - 8);
    out[i + 16] = d * static_cast<float>((b.q[i] >> 4) - 8);
  }
}

void decode(const BlockQ41& b, float* out) {
  const float d = half_to_float(b.d), m = half_to_float(b.m);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>(b.q[i] & 15) + m;
    out[i + 16] = d * static_cast<float>(b.q[i] >> 4) + m;
  }
}

// Bit 4 of element i.
int fifth_bit(const uint8_t* high, int i) {
  return ((high[i / 8] >> (i % 8)) & 1) << 4;
}

void decode(const BlockQ50& b, float* out) {
  const float d = half_to_float(b.d);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>(((b.q[i] & 15) | fifth_bit(b.high, i)) - 16);
    out[i + 16] = d * static_cast<float>(((b.q[i] >> 4) | fifth_bit(b.high, i + 16)) - 16);
  }
}

void decode(const BlockQ51& b, float* out) {
  const float d = half_to_float(b.d), m = half_to_float(b.m);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>((b.q[i] & 15) | fifth_bit(b.high, i)) + m;
    out[i + 16] = d * static_cast<float>((b.q[i] >> 4) | fifth_bit(b.high, i + 16)) + m;
  }
}

void decode(const BlockIq4Nl& b, float* out) {
  const float d = half_to_float(b.d);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>(kIq4Values[b.q[i] & 15]);
    out[i + 16] = d * static_cast<float>(kIq4Values[b.q[i] >> 4]);
  }
}

void decode(const BlockQ2K& b, float* out) {
  const float d = half_to_float(b.d), m = half_to_float(b.m);
  for (int e = 0; e < 256; ++e) {
    const int half = e / 128, pair = e % 128 / 32, i = e % 32;
    const int q = (b.q[half * 32 + i] >> (2 * pair)) & 3;
    const uint8_t scale = b.scales[e / 16];
    out[e] = d * static_cast<float>(scale & 15) * static_cast<float>(q) -
             m * static_cast<float>(scale >> 4);
  }
}

void decode(const BlockQ3K& b, float* out) {
  const float d = half_to_float(b.d);
  for (int e = 0; e < 256; ++e) {
    const int half = e / 128, pair = e % 128 / 32, i = e % 32, g = e / 16;
    const int low = (b.q[half * 32 + i] >> (2 * pair)) & 3;
    const int high = (b.high[i] >> (e / 32)) & 1;
    const int scale = ((b.scales[g % 8] >> (4 * (g / 8))) & 15) |
                      (((b.scales[8 + g % 4] >> (2 * (g / 4))) & 3) << 4);
    out[e] = d * static_cast<float>(scale - 32) * static_cast<float>((low | high << 2) - 4);
  }
}

void decode(const BlockQ4K& b, float* out) {
  const float d = half_to_float(b.d), m = half_to_float(b.m);
  for (int g = 0; g < 8; ++g) {
    const ScaleMin s = unpack_scale_min(b.scales, g);
    const float scale = d * static_cast<float>(s.scale), min = m * static_cast<float>(s.min);
    for (int i = 0; i < 32; ++i) {
      const int q = (b.q[g / 2 * 32 + i] >> (4 * (g % 2))) & 15;
      out[g * 32 + i] = scale * static_cast<float>(q) - min;
    }
  }
}

void decode(const BlockQ5K& b, float* out) {
  const float d = half_to_float(b.d), m = half_to_float(b.m);
  for (int g = 0; g < 8; ++g) {
    const ScaleMin s = unpack_scale_min(b.scales, g);
    const float scale = d * static_cast<float>(s.scale), min = m * static_cast<float>(s.min);
    for (int i = 0; i < 32; ++i) {
      const int low = (b.q[g / 2 * 32 + i] >> (4 * (g % 2))) & 15;
      const int high = (b.high[i] >> g) & 1;
      out[g * 32 + i] = scale * static_cast<float>(low | high << 4) - min;
    }
  }
}

void decode(const BlockQ6K& b, float* out) {
  const float d = half_to_float(b.d);
  for (int e = 0; e < 256; ++e) {
    const int part = e / 16, half = e / 128, within = e % 128;
    const int low = (b.low[half * 64 + within % 64] >> (4 * (within / 64))) & 15;
    const int high = (b.high[half * 32 + within % 32] >> (2 * (within / 32))) & 3;
    out[e] = d * static_cast<float>(b.scales[part]) * static_cast<float>((low | high << 4) - 32);
  }
}

void decode(const BlockIq4Xs& b, float* out) {
  const float d = half_to_float(b.d);
  for (int g = 0; g < 8; ++g) {
    const int low = (b.scales_low[g / 2] >> (4 * (g % 2))) & 15;
    const int high = (b.scales_high >> (2 * g)) & 3;
    const float scale = d * static_cast<float>((low | high << 4) - 32);
    for (int i = 0; i < 16; ++i) {
      const uint8_t q = b.q[g * 16 + i];
      out[g * 32 + i] = scale * static_cast<float>(kIq4Values[q & 15]);
      out[g * 32 + i + 16] = scale * static_cast<float>(kIq4Values[q >> 4]);
    }
  }
}

template <class Block>
void decode_blocks(const std::byte* row, int64_t n, int elements, float* out) {
  for (int64_t i = 0; i < n; i += elements, row += sizeof(Block)) decode(load<Block>(row), out + i);
}

template <class Block, class Encode>
void encode_blocks(const float* x, int64_t n, int elements, Encode encode, std::byte* row) {
  for (int64_t i = 0; i < n; i += elements, row += sizeof(Block)) {
    const Block block = encode(x + i);
    std::memcpy(row, &block, sizeof block);
  }
}

}  // namespace

void decode_row(DType dtype, const std::byte* row, int64_t n, float* out) {
  PITH_CHECK(n % traits(dtype).block_elements == 0, "a row is a whole number of blocks");
  switch (dtype) {
    case DType::f32:
      if (n > 0) std::memcpy(out, row, static_cast<size_t>(n) * sizeof(float));
      return;
    case DType::f16:
      for (int64_t i = 0; i < n; ++i) out[i] = half_to_float(load<uint16_t>(row + 2 * i));
      return;
    case DType::bf16:
      for (int64_t i = 0; i < n; ++i) out[i] = bf16_to_float(load<uint16_t>(row + 2 * i));
      return;
    case DType::q8_0:
      return decode_blocks<BlockQ80>(row, n, 32, out);
    case DType::q4_0:
      return decode_blocks<BlockQ40>(row, n, 32, out);
    case DType::q4_1:
      return decode_blocks<BlockQ41>(row, n, 32, out);
    case DType::q5_0:
      return decode_blocks<BlockQ50>(row, n, 32, out);
    case DType::q5_1:
      return decode_blocks<BlockQ51>(row, n, 32, out);
    case DType::iq4_nl:
      return decode_blocks<BlockIq4Nl>(row, n, 32, out);
    case DType::q2_k:
      return decode_blocks<BlockQ2K>(row, n, 256, out);
    case DType::q3_k:
      return decode_blocks<BlockQ3K>(row, n, 256, out);
    case DType::q4_k:
      return decode_blocks<BlockQ4K>(row, n, 256, out);
    case DType::q5_k:
      return decode_blocks<BlockQ5K>(row, n, 256, out);
    case DType::q6_k:
      return decode_blocks<BlockQ6K>(row, n, 256, out);
    case DType::iq4_xs:
      return decode_blocks<BlockIq4Xs>(row, n, 256, out);
  }
  PITH_CHECK(false, "a weight format that was never checked");
}

bool can_encode(DType dtype) {
  switch (dtype) {
    case DType::q2_k:
    case DType::q3_k:
    case DType::iq4_nl:
    case DType::iq4_xs:
      return false;
    default:
      return true;
  }
}

void encode_row(DType dtype, const float* x, int64_t n, std::byte* row) {
  PITH_CHECK(can_encode(dtype), "callers ask can_encode first");
  PITH_CHECK(n % traits(dtype).block_elements == 0, "a row is a whole number of blocks");
  switch (dtype) {
    case DType::f32:
      if (n > 0) std::memcpy(row, x, static_cast<size_t>(n) * sizeof(float));
      return;
    case DType::f16:
      return encode_blocks<uint16_t>(
          x, n, 1, [](const float* v) { return float_to_half(*v); }, row);
    case DType::bf16:
      return encode_blocks<uint16_t>(
          x, n, 1, [](const float* v) { return float_to_bf16(*v); }, row);
    case DType::q8_0:
      return encode_blocks<BlockQ80>(x, n, 32, encode_q8_0, row);
    case DType::q4_0:
      return encode_blocks<BlockQ40>(x, n, 32, encode_q4_0, row);
    case DType::q4_1:
      return encode_blocks<BlockQ41>(x, n, 32, encode_q4_1, row);
    case DType::q5_0:
      return encode_blocks<BlockQ50>(x, n, 32, encode_q5_0, row);
    case DType::q5_1:
      return encode_blocks<BlockQ51>(x, n, 32, encode_q5_1, row);
    case DType::q4_k:
      return encode_blocks<BlockQ4K>(x, n, 256, encode_q4_k, row);
    case DType::q5_k:
      return encode_blocks<BlockQ5K>(x, n, 256, encode_q5_k, row);
    case DType::q6_k:
      return encode_blocks<BlockQ6K>(x, n, 256, encode_q6_k, row);
    default:
      return;
  }
}

}  // namespace pith

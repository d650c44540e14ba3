// Floats to blocks, one block a call; codec.cpp walks rows with them. Scales are searched: a few
// candidate grids are tried, each is fitted to the values by weighted least squares, and the one
// with the smallest error stays. Large values weigh more, as they contribute more to a product.
//
// Any finite input gives a block that decodes to finite values: what an f16 scale cannot reach
// saturates, and values below 2^-26 become zero (in formats without an offset) because no scale
// can express them.
#pragma once

#include <cstdint>

#include "tensor/blocks.h"

namespace pith {

// The 6-bit pair of group g of the 12 packed bytes of Q4_K and Q5_K: groups 0..3 hold scale and min
// in the low 6 bits of bytes g and g + 4; groups 4..7 hold four bits of each in byte g + 4 and the
// two above in the top of bytes g - 4 and g.
struct ScaleMin {
  int scale, min;
};
inline ScaleMin unpack_scale_min(const uint8_t* scales, int g) {
  if (g < 4) return {scales[g] & 63, scales[g + 4] & 63};
  return {(scales[g + 4] & 15) | (scales[g - 4] >> 6) << 4, (scales[g + 4] >> 4) | (scales[g] >> 6)
                                                                                       << 4};
}

BlockQ80 encode_q8_0(const float* x);  // 32 values
BlockQ40 encode_q4_0(const float* x);
BlockQ41 encode_q4_1(const float* x);
BlockQ50 encode_q5_0(const float* x);
BlockQ51 encode_q5_1(const float* x);
BlockQ4K encode_q4_k(const float* x);  // 256 values
BlockQ5K encode_q5_k(const float* x);
BlockQ6K encode_q6_k(const float* x);

}  // namespace pith

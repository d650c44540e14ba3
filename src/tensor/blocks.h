// How the block formats of dtype.h lie in memory, field by field; docs/formats.md says what the
// fields mean. Plain structs without padding and without functions, so that kernel files, which
// may define no inline function of external linkage, can include them. Every `d` and `m` is an f16
// (tensor/half.h). Blocks are aligned to 2 bytes and no more.
#pragma once

#include <cstdint>

namespace pith {

// x = d * q
struct BlockQ80 {
  uint16_t d;
  int8_t q[32];
};

// Nibbles of the 32-element formats: byte i holds element i below and element i + 16 above.
// x = d * (q - 8)
struct BlockQ40 {
  uint16_t d;
  uint8_t q[16];
};

// x = d * q + m
struct BlockQ41 {
  uint16_t d, m;
  uint8_t q[16];
};

// x = d * (q - 16); bit i of the little-endian `high` is bit 4 of element i
struct BlockQ50 {
  uint16_t d;
  uint8_t high[4];
  uint8_t q[16];
};

// x = d * q + m
struct BlockQ51 {
  uint16_t d, m;
  uint8_t high[4];
  uint8_t q[16];
};

// x = d * kIq4Values[q]
struct BlockIq4Nl {
  uint16_t d;
  uint8_t q[16];
};

// 16 groups of 16: x = d * (scales[g] & 15) * q - m * (scales[g] >> 4). Two bits a value: of each
// 32 bytes of q, bits 2j and 2j+1 of byte i are element 32 j + i of that half.
struct BlockQ2K {
  uint8_t scales[16];
  uint8_t q[64];
  uint16_t d, m;
};

// 16 groups of 16: x = d * (scale[g] - 32) * (q - 4), where bit 2 of q is bit g / 2 of
// high[element % 32]. Scales have 6 bits: four below in scales[0..7], two above in scales[8..11].
struct BlockQ3K {
  uint8_t high[32];
  uint8_t q[64];
  uint8_t scales[12];
  uint16_t d;
};

// 8 groups of 32: x = d * scale[g] * q - m * min[g], scale and min of 6 bits packed in `scales`.
// Of each 32 bytes of q, the nibbles below are group 2 j, those above group 2 j + 1.
struct BlockQ4K {
  uint16_t d, m;
  uint8_t scales[12];
  uint8_t q[128];
};

// As Q4_K with a fifth bit: bit g of high[i] belongs to element i of group g.
struct BlockQ5K {
  uint16_t d, m;
  uint8_t scales[12];
  uint8_t high[32];
  uint8_t q[128];
};

// 16 groups of 16: x = d * scales[g] * (q - 32). Of each half (128 elements): 64 bytes of low
// nibbles, element e in byte e % 64; 32 bytes of high bit pairs, element e in byte e % 32.
struct BlockQ6K {
  uint8_t low[128];
  uint8_t high[64];
  int8_t scales[16];
  uint16_t d;
};

// 8 groups of 32: x = d * (scale[g] - 32) * kIq4Values[q]; four bits of a scale in scales_low,
// two in scales_high.
struct BlockIq4Xs {
  uint16_t d;
  uint16_t scales_high;
  uint8_t scales_low[4];
  uint8_t q[128];
};

// What the 4-bit codes of IQ4_NL and IQ4_XS stand for.
constexpr int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                   1,    13,   25,  38,  53,  69,  89,  113};

static_assert(sizeof(BlockQ80) == 34 && sizeof(BlockQ40) == 18 && sizeof(BlockQ41) == 20);
static_assert(sizeof(BlockQ50) == 22 && sizeof(BlockQ51) == 24 && sizeof(BlockIq4Nl) == 18);
static_assert(sizeof(BlockQ2K) == 84 && sizeof(BlockQ3K) == 110 && sizeof(BlockQ4K) == 144);
static_assert(sizeof(BlockQ5K) == 176 && sizeof(BlockQ6K) == 210 && sizeof(BlockIq4Xs) == 136);

}  // namespace pith

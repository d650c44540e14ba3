// Pages of 8-bit codes that meet queries as integers: q.k and p.v are sums of products of 16-bit
// numbers, which a multiply-add of pairs forms at twice the rate of floats and without rounding.
// Codes are widened from 8 to 16 bits as they are loaded, once for the heads of a group. Queries
// and probabilities have 16 bits, not 8, because that costs nothing where codes are widened anyway:
// what is lost is lost in the codes.
//
//   keys     tile of 16 rows = for every 32 columns: 16 scales (bf16), then for each pair of
//   columns
//            the two codes of row 0, of row 1, ... (the last columns may be fewer)
//   values   tile of 16 rows = 16 scales (bf16), then for each pair of rows the two codes of column
//   0,
//            of column 1, ... up to a multiple of 16 columns
//
// A code is x / scale to nearest; scale is (largest |x|) / 127 as the nearest bf16, and since that
// is within 1/256 of it, the largest code is 127 without cutting anything off. So
//   |decoded - x| <= largest / 253 (and 2^-119 absolute: rows of smaller numbers are zeros),
// and coding a decoded row again changes nothing. Infinite numbers become the largest, NaN becomes
// the least: whatever comes in, finite numbers come out. Tests hold sums to the bounds that follow.
#pragma once

#include "kernels/cut.inl.h"
#include "kernels/table.h"
#include "kernels/word.inl.h"
#include PITH_VEC

namespace pith {
namespace {
namespace PITH_TARGET {

constexpr int kInt8Rows = 16;               // of a tile
constexpr int kInt8Columns = 32;            // of a key that share a scale
constexpr int kInt8Sum = 64;                // rows whose weights share a scale
constexpr int kInt8Scales = kInt8Rows * 2;  // bytes
constexpr int kInt8Heads = Vec::lanes == 1 ? 1 : 4;
static_assert(kInt8Rows % Vec::lanes == 0);

// 32767 * 127 * 64 rows, and 32767 * 127 * 32 columns, are below 2^31.
constexpr float kMost16 = 32767;

inline int int8_lesser(int a, int b) {
  return a < b ? a : b;
}

// To nearest, ties to even, for |x| < 2^22.
inline IVec nearest(Vec x) {
  return bits(x + Vec::all(0x1.8p23f)) - IVec::all(0x4b400000);
}

// The largest of n absolute values.
inline float largest_size(const float* x, int n) {
  Vec most = Vec::zero();
  int i = 0;
  for (; i + Vec::lanes <= n; i += Vec::lanes) most = max(abs(Vec::load(x + i)), most);
  if (i < n) most = max(abs(Vec::load_part(x + i, n - i)), most);
  return largest(most);
}

// The scale of n numbers, as bf16, and its reciprocal; both zero if they count as zeros.
inline uint16_t int8_scale(const float* x, int n, const Cut& cut, float& inverse) {
  float most = cut.on ? cut.size(x, n) : largest_size(x, n);
  if (!(most < 0x1p127f)) most = 0x1p127f;
  inverse = 0;
  if (most < 0x1p-119f) return 0;
  const uint32_t raw = __builtin_bit_cast(uint32_t, most / 127);
  const uint32_t rounded = raw + 0x7fffu + ((raw >> 16) & 1);
  inverse = 1 / __builtin_bit_cast(float, rounded & 0xffff0000u);
  return static_cast<uint16_t>(rounded >> 16);
}

// Calls put(i, code) for n numbers.
template <class Put>
inline void int8_codes(const float* x, int n, float inverse, Put put) {
  for (int i = 0; i < n; i += Vec::lanes) {
    const int part = n - i;
    const Vec given = part < Vec::lanes ? Vec::load_part(x + i, part) : Vec::load(x + i);
    const Vec y = min(max(given * Vec::all(inverse), Vec::all(-127)), Vec::all(127));
    int32_t codes[Vec::lanes];
    store(codes, nearest(y));
    for (int j = 0; j < Vec::lanes && j < part; ++j) put(i + j, static_cast<std::byte>(codes[j]));
  }
}

inline float bf16_at(const std::byte* p) {
  return __builtin_bit_cast(float, uint32_t{word<uint16_t>(p)} << 16);
}

// ---- keys

inline int int8_pairs(int columns) {
  return (columns + 1) / 2;
}

// Bytes of the columns of a tile that share scales.
inline int64_t int8_part_bytes(int columns) {
  return kInt8Scales + int64_t{2} * kInt8Rows * int8_pairs(columns);
}

inline int64_t int8_key_tile_bytes(int dim) {
  const int rest = dim % kInt8Columns;
  return dim / kInt8Columns * int8_part_bytes(kInt8Columns) +
         (rest > 0 ? int8_part_bytes(rest) : 0);
}

inline int64_t int8_tiles(int rows) {
  return (rows + kInt8Rows - 1) / kInt8Rows;
}

inline size_t int8_key_bytes(int rows, int dim) {
  return static_cast<size_t>(int8_tiles(rows) * int8_key_tile_bytes(dim));
}

inline void int8_key_encode(const float* x, int64_t stride, int rows, int dim, std::byte* page,
                            int first_row, const Cut& cut) {
  const int64_t tile_bytes = int8_key_tile_bytes(dim);
  for (int r = 0; r < rows; ++r, x += stride) {
    const int row = (first_row + r) % kInt8Rows;
    std::byte* at = page + (first_row + r) / kInt8Rows * tile_bytes;
    if (row == 0) __builtin_memset(at, 0, static_cast<size_t>(tile_bytes));
    for (int d = 0; d < dim; d += kInt8Columns) {
      const int columns = int8_lesser(kInt8Columns, dim - d);
      float inverse;
      const uint16_t scale = int8_scale(x + d, columns, cut, inverse);
      __builtin_memcpy(at + row * 2, &scale, sizeof scale);
      std::byte* codes = at + kInt8Scales + row * 2;
      int8_codes(x + d, columns, inverse,
                 [&](int c, std::byte code) { codes[c / 2 * kInt8Rows * 2 + c % 2] = code; });
      at += int8_part_bytes(columns);
    }
  }
}

// One number of a page.
inline float int8_key_at(const std::byte* page, int row, int column, int dim) {
  const std::byte* const part = page + row / kInt8Rows * int8_key_tile_bytes(dim) +
                                column / kInt8Columns * int8_part_bytes(kInt8Columns);
  const int r = row % kInt8Rows, c = column % kInt8Columns;
  const std::byte code = part[kInt8Scales + c / 2 * kInt8Rows * 2 + r * 2 + c % 2];
  return bf16_at(part + r * 2) * static_cast<float>(static_cast<int8_t>(code));
}

inline void int8_key_decode(const std::byte* page, int first_row, int rows, int dim, float* x) {
  const int64_t tile_bytes = int8_key_tile_bytes(dim);
  for (int r = first_row; r < first_row + rows; ++r) {
    const std::byte* at = page + r / kInt8Rows * tile_bytes;
    const int row = r % kInt8Rows;
    for (int d = 0; d < dim; d += kInt8Columns) {
      const int columns = int8_lesser(kInt8Columns, dim - d);
      const float scale = bf16_at(at + row * 2);
      const std::byte* codes = at + kInt8Scales + row * 2;
      for (int c = 0; c < columns; ++c)
        *x++ =
            scale * static_cast<float>(static_cast<int8_t>(codes[c / 2 * kInt8Rows * 2 + c % 2]));
      at += int8_part_bytes(columns);
    }
  }
}

// A prepared query: what one of its units is worth, then its numbers in units, in pairs.
inline int64_t int8_query_floats(int dim) {
  return 1 + int8_pairs(dim);
}

inline size_t int8_queries_floats(int heads, int dim) {
  return static_cast<size_t>(heads * int8_query_floats(dim));
}

// Numbers x[i] in units of `unit`, to nearest; lanes up to the next full vector are written.
inline void to_int16(const float* x, int n, float inverse, void* to) {
  auto* out = static_cast<std::byte*>(to);
  int i = 0;
  for (; i + Vec::lanes <= n; i += Vec::lanes)
    store_low16(out + 2 * i, nearest(Vec::load(x + i) * Vec::all(inverse)));
  if (i < n) {
    std::byte part[2 * Vec::lanes];
    store_low16(part, nearest(Vec::load_part(x + i, n - i) * Vec::all(inverse)));
    __builtin_memcpy(out + 2 * i, part, static_cast<size_t>(2 * (n - i)));
  }
}

// Below this all numbers count as zeros, so that reciprocals are finite.
constexpr float kLeastSize = 0x1p-110f;

inline void int8_prepare(const float* q, int heads, int dim, float* prepared) {
  for (int h = 0; h < heads; ++h, q += dim, prepared += int8_query_floats(dim)) {
    const float most = largest_size(q, dim);
    prepared[0] = most / kMost16;
    prepared[int8_pairs(dim)] = 0;  // behind an odd number of columns
    to_int16(q, dim, most > kLeastSize ? kMost16 / most : 0, prepared + 1);
  }
}

inline IVec pair_at(const float* p) {
  int32_t pair;
  __builtin_memcpy(&pair, p, sizeof pair);
  return IVec::all(pair);
}

// Adds the scores of one tile for `Heads` prepared queries to out [Heads, kInt8Rows].
template <int Heads>
inline void int8_score_tile(const std::byte* tile, int dim, const float* q, int64_t q_floats,
                            float* out) {
  constexpr int kVecs = kInt8Rows / Vec::lanes;
  for (int d = 0; d < dim; d += kInt8Columns) {
    const int columns = int8_lesser(kInt8Columns, dim - d);
    const int pairs = int8_pairs(columns);
    const std::byte* codes = tile + kInt8Scales;
    const float* y = q + 1 + d / 2;
    IVec total[Heads][kVecs];
#pragma GCC unroll 4
    for (int h = 0; h < Heads; ++h)
#pragma GCC unroll 4
      for (int j = 0; j < kVecs; ++j) total[h][j] = IVec::zero();
    for (int u = 0; u < pairs; ++u, codes += 2 * kInt8Rows) {
      IVec x[kVecs];
#pragma GCC unroll 4
      for (int j = 0; j < kVecs; ++j) x[j] = IVec::load_i8_pairs(codes + 2 * j * Vec::lanes);
#pragma GCC unroll 4
      for (int h = 0; h < Heads; ++h) {
        const IVec both = pair_at(y + h * q_floats + u);
#pragma GCC unroll 4
        for (int j = 0; j < kVecs; ++j) total[h][j] = add_pairs(x[j], both, total[h][j]);
      }
    }
    for (int j = 0; j < kVecs; ++j) {
      const Vec scale = Vec::load_bf16(tile + 2 * j * Vec::lanes);
      for (int h = 0; h < Heads; ++h) {
        float* to = out + h * kInt8Rows + j * Vec::lanes;
        store(to, mul_add(to_float(total[h][j]), scale, Vec::load(to)));
      }
    }
    tile += int8_part_bytes(columns);
  }
}

template <int Heads>
void int8_score_heads(const std::byte* page, int rows, int dim, const float* q, float* out,
                      int64_t out_stride) {
  const int64_t tile_bytes = int8_key_tile_bytes(dim), q_floats = int8_query_floats(dim);
  for (int r = 0; r < rows; r += kInt8Rows, page += tile_bytes) {
    float sums[Heads * kInt8Rows] = {};
    int8_score_tile<Heads>(page, dim, q, q_floats, sums);
    for (int h = 0; h < Heads; ++h) {
      const Vec unit = Vec::all(q[h * q_floats]);
      for (int i = 0; i < kInt8Rows && r + i < rows; i += Vec::lanes) {
        float* to = out + h * out_stride + r + i;
        const Vec score = Vec::load(sums + h * kInt8Rows + i) * unit;
        if (r + i + Vec::lanes <= rows)
          store(to, score);
        else
          store_part(to, rows - r - i, score);
      }
    }
  }
}

// Calls run(heads now, first head) for runs of up to kInt8Heads heads.
template <class Run>
inline void by_heads(int heads, Run run) {
  for (int h = 0; h < heads; h += kInt8Heads) run(int8_lesser(kInt8Heads, heads - h), h);
}

inline void int8_score(const std::byte* page, int rows, int dim, const float* q, int heads,
                       float* out, int64_t out_stride) {
  by_heads(heads, [&](int now, int h) {
    const float* from = q + h * int8_query_floats(dim);
    float* to = out + h * out_stride;
    if (now == 1) return int8_score_heads<1>(page, rows, dim, from, to, out_stride);
    if constexpr (kInt8Heads > 1) {
      if (now == 2) return int8_score_heads<2>(page, rows, dim, from, to, out_stride);
      if (now == 3) return int8_score_heads<3>(page, rows, dim, from, to, out_stride);
      int8_score_heads<4>(page, rows, dim, from, to, out_stride);
    }
  });
}

// ---- values

inline int64_t int8_padded(int dim) {
  return static_cast<int64_t>(dim + 15) / 16 * 16;
}

inline int64_t int8_value_tile_bytes(int dim) {
  return kInt8Scales + kInt8Rows * int8_padded(dim);
}

inline size_t int8_value_bytes(int rows, int dim) {
  return static_cast<size_t>(int8_tiles(rows) * int8_value_tile_bytes(dim));
}

inline void int8_value_encode(const float* x, int64_t stride, int rows, int dim, std::byte* page,
                              int first_row, const Cut& cut) {
  const int64_t tile_bytes = int8_value_tile_bytes(dim), pair_bytes = 2 * int8_padded(dim);
  for (int r = 0; r < rows; ++r, x += stride) {
    const int row = (first_row + r) % kInt8Rows;
    std::byte* tile = page + (first_row + r) / kInt8Rows * tile_bytes;
    if (row == 0) __builtin_memset(tile, 0, static_cast<size_t>(tile_bytes));
    float inverse;
    const uint16_t scale = int8_scale(x, dim, cut, inverse);
    __builtin_memcpy(tile + row * 2, &scale, sizeof scale);
    std::byte* codes = tile + kInt8Scales + row / 2 * pair_bytes + row % 2;
    int8_codes(x, dim, inverse, [&](int d, std::byte code) { codes[int64_t{2} * d] = code; });
  }
}

inline float int8_value_at(const std::byte* page, int row, int column, int dim) {
  const std::byte* const tile = page + row / kInt8Rows * int8_value_tile_bytes(dim);
  const int r = row % kInt8Rows;
  const std::byte code =
      tile[kInt8Scales + r / 2 * 2 * int8_padded(dim) + r % 2 + int64_t{2} * column];
  return bf16_at(tile + r * 2) * static_cast<float>(static_cast<int8_t>(code));
}

inline void int8_value_decode(const std::byte* page, int first_row, int rows, int dim, float* x) {
  const int64_t tile_bytes = int8_value_tile_bytes(dim), pair_bytes = 2 * int8_padded(dim);
  for (int r = first_row; r < first_row + rows; ++r) {
    const std::byte* tile = page + r / kInt8Rows * tile_bytes;
    const int row = r % kInt8Rows;
    const float scale = bf16_at(tile + row * 2);
    const std::byte* codes = tile + kInt8Scales + row / 2 * pair_bytes + row % 2;
    for (int d = 0; d < dim; ++d)
      *x++ = scale * static_cast<float>(static_cast<int8_t>(codes[int64_t{2} * d]));
  }
}

// Weights of up to kInt8Sum rows for one head, the scales of the rows folded in: whole numbers in
// pairs, and what one unit is worth.
struct Int8Weights {
  float pair[kInt8Sum / 2];  // bits of two 16-bit numbers
  float unit;
};

constexpr int kWeightFloats = sizeof(Int8Weights) / sizeof(float);

inline void int8_weigh(const std::byte* page, int64_t tile_bytes, int rows, const float* p,
                       Int8Weights& to) {
  alignas(64) float weight[kInt8Sum];
  Vec most = Vec::zero();
  int r = 0;
  for (; r < rows; r += Vec::lanes) {
    const int part = rows - r;
    const Vec scale = Vec::load_bf16(page + r / kInt8Rows * tile_bytes + r % kInt8Rows * 2);
    const Vec given = part < Vec::lanes ? Vec::load_part(p + r, part) : Vec::load(p + r);
    const Vec folded = given * scale;
    store(weight + r, folded);
    most = max(abs(folded), most);
  }
  const float size = largest(most);
  to.unit = size / kMost16;
  to_int16(weight, r, size > kLeastSize ? kMost16 / size : 0, to.pair);
  if (Vec::lanes == 1 && r % 2 == 1)
    __builtin_memset(reinterpret_cast<std::byte*>(to.pair) + 2 * r, 0, 2);
}

// Columns [d, d + Vecs * lanes) of the sums of `Heads` heads; the last vector may be a part of one.
template <int Heads, int Vecs>
[[gnu::noinline]] void int8_sum_columns(const std::byte* page, int64_t tile_bytes,
                                        int64_t pair_bytes, int rows, int dim,
                                        const Int8Weights* weights, float* acc, int d) {
  IVec total[Heads][Vecs];
#pragma GCC unroll 4
  for (int h = 0; h < Heads; ++h)
#pragma GCC unroll 4
    for (int j = 0; j < Vecs; ++j) total[h][j] = IVec::zero();
  for (int r = 0; r < rows; r += kInt8Rows, page += tile_bytes) {
    const std::byte* codes = page + kInt8Scales + int64_t{2} * d;
    const float* pair = weights[0].pair + r / 2;
    const float* end = pair + int8_pairs(int8_lesser(kInt8Rows, rows - r));
    for (; pair != end; ++pair, codes += pair_bytes) {
      IVec x[Vecs];
#pragma GCC unroll 4
      for (int j = 0; j < Vecs; ++j) x[j] = IVec::load_i8_pairs(codes + 2 * j * Vec::lanes);
#pragma GCC unroll 4
      for (int h = 0; h < Heads; ++h) {
        const IVec both = pair_at(pair + h * kWeightFloats);
#pragma GCC unroll 4
        for (int j = 0; j < Vecs; ++j) total[h][j] = add_pairs(x[j], both, total[h][j]);
      }
    }
  }
#pragma GCC unroll 4
  for (int h = 0; h < Heads; ++h)
#pragma GCC unroll 4
    for (int j = 0; j < Vecs; ++j) {
      float* to = acc + static_cast<int64_t>(h) * dim + d + j * Vec::lanes;
      const int part = dim - d - j * Vec::lanes;
      const Vec sums = to_float(total[h][j]), unit = Vec::all(weights[h].unit);
      if (part >= Vec::lanes)
        store(to, mul_add(sums, unit, Vec::load(to)));
      else
        store_part(to, part, mul_add(sums, unit, Vec::load_part(to, part)));
    }
}

template <int Heads>
void int8_sum_heads(const std::byte* page, int rows, int dim, const float* p, int64_t p_stride,
                    float* acc) {
  const int64_t tile_bytes = int8_value_tile_bytes(dim), pair_bytes = 2 * int8_padded(dim);
  for (int r = 0; r < rows; r += kInt8Sum, page += kInt8Sum / kInt8Rows * tile_bytes) {
    const int now = int8_lesser(kInt8Sum, rows - r);
    Int8Weights weights[Heads];
    for (int h = 0; h < Heads; ++h)
      int8_weigh(page, tile_bytes, now, p + h * p_stride + r, weights[h]);
    int d = 0;
    for (; d + 2 * Vec::lanes <= dim; d += 2 * Vec::lanes)
      int8_sum_columns<Heads, 2>(page, tile_bytes, pair_bytes, now, dim, weights, acc, d);
    for (; d < dim; d += Vec::lanes)
      int8_sum_columns<Heads, 1>(page, tile_bytes, pair_bytes, now, dim, weights, acc, d);
  }
}

inline void int8_accumulate(const std::byte* page, int rows, int dim, const float* p,
                            int64_t p_stride, int heads, float* acc) {
  by_heads(heads, [&](int now, int h) {
    const float* from = p + h * p_stride;
    float* to = acc + static_cast<int64_t>(h) * dim;
    if (now == 1) return int8_sum_heads<1>(page, rows, dim, from, p_stride, to);
    if constexpr (kInt8Heads > 1) {
      if (now == 2) return int8_sum_heads<2>(page, rows, dim, from, p_stride, to);
      if (now == 3) return int8_sum_heads<3>(page, rows, dim, from, p_stride, to);
      int8_sum_heads<4>(page, rows, dim, from, p_stride, to);
    }
  });
}

// The formats as they are in the table, and as formats with outliers see them: how numbers share a
// scale (Shares in cut.inl.h), and one number.
struct Int8Keys {
  static constexpr bool kKeys = true, kPrepares = true;
  static constexpr Shares kShares = {.columns = false, .width = kInt8Columns, .middle = false};
  static constexpr auto bytes = int8_key_bytes;
  static constexpr auto number_at = int8_key_at;
  static void encode(const float* x, int64_t stride, int rows, int dim, std::byte* page,
                     int first_row) {
    int8_key_encode(x, stride, rows, dim, page, first_row, {});
  }
  static void encode_cut(const float* x, int64_t stride, int rows, int dim, std::byte* page,
                         const Cut& cut) {
    int8_key_encode(x, stride, rows, dim, page, 0, cut);
  }
  static constexpr PageKernels kTable = {
      bytes, encode, int8_key_decode, int8_queries_floats, int8_prepare, int8_score, nullptr};
};

struct Int8Values {
  static constexpr bool kKeys = false, kPrepares = false;
  static constexpr Shares kShares = {.columns = false, .width = 0, .middle = false};
  static constexpr auto bytes = int8_value_bytes;
  static constexpr auto number_at = int8_value_at;
  static void encode(const float* x, int64_t stride, int rows, int dim, std::byte* page,
                     int first_row) {
    int8_value_encode(x, stride, rows, dim, page, first_row, {});
  }
  static void encode_cut(const float* x, int64_t stride, int rows, int dim, std::byte* page,
                         const Cut& cut) {
    int8_value_encode(x, stride, rows, dim, page, 0, cut);
  }
  static constexpr PageKernels kTable = {bytes,   encode,  int8_value_decode, nullptr,
                                         nullptr, nullptr, int8_accumulate};
};

}  // namespace PITH_TARGET
}  // namespace
}  // namespace pith

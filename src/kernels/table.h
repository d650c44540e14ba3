// The CPU kernels of one instruction set, as a table of plain functions.
//
// The files that fill these tables are compiled with -mavx2 and the like. They may include
// this header, <cstdint>, <cstddef> and intrinsics, and nothing else: an inline function of
// a shared header, compiled there, could replace the portable copy and crash older CPUs.
// tests/kernels/symbols_test.sh fails if such an object defines a weak symbol.
//
// All functions are pure: they allocate nothing, know no threads, and write only to what they are
// given. Results of one output element never depend on how many rows are computed in one call
// ("batch invariance"): a token decoded alone and in a batch gives the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tensor/dtype.h"

namespace pith {

// How a page of key or value rows is coded. f32, f16 and bf16 are plain: rows of numbers, one
// behind the other. The others are laid out for what is done with them: keys for dot products with
// queries, values for weighted sums.
//   fp8_e4m3, fp8_e5m2   rows of floats of 8 bits
//   q8_keys, q8_values   codes from -127 to 127 and a scale, per 32 columns of a key, or per value
//   qB_channels          keys: codes of B bits from a least number up, per column of the page
//   qB_rows              keys: the same, per row and 32 columns
//   qB_groupsG           values: the same, per row and G columns
// Every format of codes, q8_keys to q8_groups128, is there once more with_outliers: a hundredth of
// the numbers of a page, those farthest out among the ones they share a step with, lie beside the
// codes.
enum class Quant : uint8_t {
  f32,
  f16,
  bf16,
  q8_keys,
  q8_values,
  q2_channels,
  q3_channels,
  q4_channels,
  q6_channels,
  q8_channels,
  q2_rows,
  q3_rows,
  q4_rows,
  q6_rows,
  q8_rows,
  q2_groups32,
  q2_groups64,
  q2_groups128,
  q3_groups32,
  q3_groups64,
  q3_groups128,
  q4_groups32,
  q4_groups64,
  q4_groups128,
  q6_groups32,
  q6_groups64,
  q6_groups128,
  q8_groups32,
  q8_groups64,
  q8_groups128,
  fp8_e4m3,
  fp8_e5m2,
};
inline constexpr int kCodedFormats = 27, kFirstOutlierFormat = 32;
inline constexpr int kQuantCount = kFirstOutlierFormat + kCodedFormats;
constexpr bool is_plain(Quant quant) {
  return quant <= Quant::bf16;
}
// Of codes that share a step, without outliers.
constexpr bool is_coded(Quant quant) {
  return quant >= Quant::q8_keys && quant <= Quant::q8_groups128;
}
constexpr Quant with_outliers(Quant coded) {
  return static_cast<Quant>(static_cast<int>(coded) - static_cast<int>(Quant::q8_keys) +
                            kFirstOutlierFormat);
}
constexpr bool has_outliers(Quant quant) {
  return static_cast<int>(quant) >= kFirstOutlierFormat;
}

// One page format. A page is coded as a whole, so scales may be shared along either axis.
// Queries meet coded rows directly: no format is decoded on the decode path.
struct PageKernels {
  size_t (*bytes)(int rows, int dim);
  // Rows [first_row, first_row + rows) of a page; a page of q8_keys or q8_values is filled from row
  // 0 on, in order, one of the formats of codes behind them in one call.
  void (*encode)(const float* x, int64_t stride, int rows, int dim, std::byte* page, int first_row);
  void (*decode)(const std::byte* page, int first_row, int rows, int dim, float* x);
  // Formats that meet queries as integers: `prepare` brings q, packed [heads, dim], into the form
  // that `score` wants, of query_floats(heads, dim) numbers, once for all pages. Null: as they are.
  size_t (*query_floats)(int heads, int dim);
  void (*prepare)(const float* q, int heads, int dim, float* prepared);
  // out[h * out_stride + r] = q[h] . x[r] for `heads` queries of one group, q packed [heads, dim]
  // or prepared. Null for formats of values.
  void (*score)(const std::byte* page, int rows, int dim, const float* q, int heads, float* out,
                int64_t out_stride);
  // acc[h] += sum_r p[h * p_stride + r] * x[r], acc packed [heads, dim]. Null for formats of keys.
  // A format with integer sums rounds p to 16 bits, by 64 rows of the page and head.
  void (*accumulate)(const std::byte* page, int rows, int dim, const float* p, int64_t p_stride,
                     int heads, float* acc);
  // Whether a page of `bytes` bytes that came from elsewhere can be read: its places and offsets
  // lie inside. Null: every page of that size can.
  bool (*sound)(const std::byte* page, int rows, int dim) = nullptr;
};

// Rows [row0, row0 + rows) of a weight matrix times m activation rows:
// out[i * out_stride + r] = x[i] . w[row0 + r]. out points at column 0 of the whole matrix.
struct MatmulJob {
  DType dtype;
  const std::byte* w;  // row r starts at r * row_bytes(dtype, cols)
  int64_t cols;
  int64_t row0, rows;
  const float* x;  // [m, cols]
  int64_t x_stride, m;
  float* out;
  int64_t out_stride;
  float* scratch;  // [matmul_scratch] floats of this worker
};

// The same with activations coded by code_activations: in 8 bits for weights in blocks, in 14 for
// F16 and BF16. x points at a group of kCodedRows rows.
inline constexpr int kCodedRows = 4;
struct CodedJob {
  DType dtype;
  const std::byte* w;
  int64_t cols;
  int64_t row0, rows;
  const std::byte* x;  // [coded_bytes(dtype, m, cols)], coded for this dtype
  int64_t m;
  float* out;
  int64_t out_stride;
  float* scratch;  // [coded_scratch] floats of this worker
};

// How the attention that a row receives from many queries is gathered.
enum class Mass : uint8_t { none, sum, squares, most };

// attend_tile and tile_mass visit keys in blocks of this many rows, counted from row 0 wherever the
// first query stands: a query's result does not depend on how a prompt was cut into tiles.
inline constexpr int kKeyBlock = 64;

// Causal attention of `queries` rows of one group against keys [first_key, keys): the flash form.
// Query i is row first_row + i and sees rows up to itself, less those its window has left behind
// (k_pos <= q_pos - window). Positions ascend, and differ by less than 2^24.
struct TileJob {
  const float* q = nullptr;  // query (i, h) at q + i * q_row_stride + h * dim
  int64_t q_row_stride = 0;
  int queries = 0, heads = 0;  // heads of the group
  const float* k = nullptr;    // [keys, dim], row stride kv_stride
  const float* v = nullptr;    // null: only max and sum are wanted, `out` is not touched
  int64_t kv_stride = 0;
  int64_t first_key = 0;  // a multiple of kKeyBlock
  int64_t keys = 0;       // rows that exist; those behind are never read
  int64_t first_row = 0;
  const int32_t* q_pos = nullptr;  // [queries]; positions are read for windows and ALiBi only
  const int32_t* k_pos = nullptr;  // [keys]
  int dim = 0;                     // a multiple of 8
  bool int16 = false;  // products of 16-bit integers; docs/numerics.md says what that costs
  float scale = 1, softcap = 0;
  int window = 0;                // 0: none
  const float* alibi = nullptr;  // [heads] logit -= slope * (q_pos - k_pos); or null
  float* out = nullptr;          // like q
  int64_t out_row_stride = 0;
  float* max = nullptr;      // [queries, heads] max and sum: the state before the division, whose
  float* sum = nullptr;      // weighted values are `out`
  float* scratch = nullptr;  // [tile_scratch] floats of this worker
};

struct KernelTable {
  const char* name;  // "scalar", "avx2", "avx512", "neon"

  size_t (*matmul_scratch)(int64_t cols);  // floats
  void (*matmul)(const MatmulJob& job);
  // Whether F16 and BF16 weights are met faster by coded activations than by floats.
  bool codes_halves;
  size_t (*coded_bytes)(DType dtype, int64_t rows, int64_t cols);
  // Codes rows of activations for weights of `dtype`. Groups are independent: `to` is where the
  // group of the first row starts, and cols is a multiple of 32.
  void (*code_activations)(DType dtype, const float* x, int64_t x_stride, int64_t rows,
                           int64_t cols, std::byte* to);
  size_t (*coded_scratch)();  // floats
  void (*matmul_coded)(const CodedJob& job);
  // out[i] = float value of w[i]
  void (*dequantise)(DType dtype, const std::byte* w, int64_t n, float* out);

  void (*rms_norm)(const float* x, const float* gain, float eps, int64_t n, float* out);
  void (*layer_norm)(const float* x, const float* gain, const float* bias /* or null */, float eps,
                     int64_t n, float* out);
  // Rotates the first 2 * pairs numbers of a head by cos, sin [pairs].
  void (*rotate)(float* head, const float* cos, const float* sin, int pairs, bool half_split);
  void (*silu_mul)(const float* gate, const float* up, int64_t n, float* out);
  void (*gelu_mul)(const float* gate, const float* up, int64_t n, float* out);  // tanh form
  void (*gelu)(const float* x, int64_t n, float* out);                          // exact, erf form
  void (*add)(const float* x, int64_t n, float* into);
  float (*dot)(const float* a, const float* b, int64_t n);
  // x[i] = exp(x[i] - max) and returns their sum; -inf gives 0.
  float (*exp_minus_max)(float* x, int64_t n, float max);
  float (*max)(const float* x, int64_t n);
  // x[i] = softcap * tanh(x[i] / softcap)
  void (*softcap)(float* x, int64_t n, float cap);

  size_t (*tile_scratch)(int queries, int heads, int dim);  // floats
  // Adds keys [first_key, keys) to the states (max, sum, out); the caller starts them at
  // (-inf, 0, 0) or with what earlier rows gave, and divides at the end.
  void (*attend_tile)(const TileJob& job);
  // What rows receive from queries whose states are finished: gathers, by `how`, the probability
  // exp(logit - max) / sum of every query i and head h into mass[h * mass_stride + row]. A stride
  // of 0 gathers the whole group in one row. v and out of the job are not used.
  void (*tile_mass)(const TileJob& job, Mass how, float* mass, int64_t mass_stride);

  PageKernels page[kQuantCount];
};

}  // namespace pith

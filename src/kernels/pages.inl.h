// Page formats. f32, f16 and bf16 pages are plain: row r of a page starts at r * dim numbers.
// Queries meet rows as they are stored; a vector of coded numbers is widened once for all heads of
// a group. A dot product is one chain of vectors along dim, then `sum4`; a weighted sum is one
// chain along rows: neither depends on how many heads or rows a call brings.
#pragma once

#include "kernels/pages_bits.inl.h"
#include "kernels/pages_int8.inl.h"
#include "kernels/pages_outliers.inl.h"
#include "kernels/pages_rows.inl.h"
#include "kernels/table.h"
#include "kernels/vec_math.inl.h"

namespace pith {
namespace {
namespace PITH_TARGET {

struct RowsF32 {
  static constexpr int64_t bytes = 4;
  static Vec load(const std::byte* p) { return Vec::load(p); }
  static Vec load_part(const std::byte* p, int n) { return Vec::load_part(p, n); }
  static void put(std::byte* p, Vec x) {
    float lanes[Vec::lanes];
    store(lanes, x);
    __builtin_memcpy(p, lanes, sizeof lanes);
  }
  static void put_part(std::byte* p, int n, Vec x) {
    float lanes[Vec::lanes];
    store(lanes, x);
    __builtin_memcpy(p, lanes, static_cast<size_t>(n) * 4);
  }
};

struct RowsF16 {
  static constexpr int64_t bytes = 2;
  static Vec load(const std::byte* p) { return Vec::load_f16(p); }
  static Vec load_part(const std::byte* p, int n) { return Vec::load_f16_part(p, n); }
  static void put(std::byte* p, Vec x) { store_f16(p, x); }
  static void put_part(std::byte* p, int n, Vec x) { store_f16_part(p, n, x); }
};

// To nearest, ties to even; a NaN stays one.
inline IVec to_bf16(Vec x) {
  const IVec raw = bits(x);
  const IVec odd = shift_right<16>(raw) & IVec::all(1);
  const IVec rounded = shift_right<16>(raw + IVec::all(0x7fff) + odd);
  const IVec quiet = shift_right<16>(raw) | IVec::all(0x40);
  return select(equal(x, x), rounded, quiet);
}

struct RowsBf16 {
  static constexpr int64_t bytes = 2;
  static Vec load(const std::byte* p) { return Vec::load_bf16(p); }
  static Vec load_part(const std::byte* p, int n) { return Vec::load_bf16_part(p, n); }
  static void put(std::byte* p, Vec x) { store_low16(p, to_bf16(x)); }
  static void put_part(std::byte* p, int n, Vec x) {
    std::byte half[2 * Vec::lanes];
    put(half, x);
    __builtin_memcpy(p, half, static_cast<size_t>(n) * 2);
  }
};

// A sign, 7 - Mantissa bits of exponent and the mantissa: e4m3 and e5m2 of the OCP. Shifted to
// where a float has them, they are the number times a power of two, subnormal ones too. Numbers
// beyond the largest become it, and NaN does.
template <int Mantissa>
struct RowsFp8 {
  static constexpr int64_t bytes = 1;
  static constexpr int kShift = 23 - Mantissa;
  static constexpr float kUnit = Mantissa == 3 ? 0x1p120f : 0x1p112f;
  static constexpr float kMost = Mantissa == 3 ? 448.0f : 57344.0f;
  static Vec load(const std::byte* p) {
    const IVec code = IVec::load_u8(p);
    const Vec size = from_bits(shift_left<kShift>(code & IVec::all(0x7f))) * Vec::all(kUnit);
    return from_bits(bits(size) | shift_left<24>(code & IVec::all(0x80)));
  }
  static Vec load_part(const std::byte* p, int n) {
    std::byte x[Vec::lanes] = {};
    __builtin_memcpy(x, p, static_cast<size_t>(n));
    return load(x);
  }
  static void put(std::byte* p, Vec x) { put_part(p, Vec::lanes, x); }
  static void put_part(std::byte* p, int n, Vec x) {
    const Vec size = min(abs(x), Vec::all(kMost)) * Vec::all(1 / kUnit);
    const IVec raw = bits(size);
    const IVec odd = shift_right<kShift>(raw) & IVec::all(1);
    const IVec code = shift_right<kShift>(raw + IVec::all((1 << (kShift - 1)) - 1) + odd);
    const IVec sign = shift_right<24>(bits(x)) & IVec::all(0x80);
    int32_t lanes[Vec::lanes];
    store(lanes, code | sign);
    for (int i = 0; i < n; ++i) p[i] = static_cast<std::byte>(lanes[i]);
  }
};

template <class Rows>
size_t page_bytes(int rows, int dim) {
  return static_cast<size_t>(rows) * static_cast<size_t>(dim) * Rows::bytes;
}

template <class Rows>
void page_encode(const float* x, int64_t stride, int rows, int dim, std::byte* page,
                 int first_row) {
  for (int r = 0; r < rows; ++r) {
    const float* from = x + r * stride;
    std::byte* to = page + static_cast<int64_t>(first_row + r) * dim * Rows::bytes;
    int d = 0;
    for (; d + Vec::lanes <= dim; d += Vec::lanes)
      Rows::put(to + d * Rows::bytes, Vec::load(from + d));
    if (d < dim) Rows::put_part(to + d * Rows::bytes, dim - d, Vec::load_part(from + d, dim - d));
  }
}

template <class Rows>
void page_decode(const std::byte* page, int first_row, int rows, int dim, float* x) {
  const std::byte* from = page + static_cast<int64_t>(first_row) * dim * Rows::bytes;
  const int64_t n = static_cast<int64_t>(rows) * dim;
  int64_t i = 0;
  for (; i + Vec::lanes <= n; i += Vec::lanes) store(x + i, Rows::load(from + i * Rows::bytes));
  if (const int rest = static_cast<int>(n - i); rest > 0)
    store_part(x + i, rest, Rows::load_part(from + i * Rows::bytes, rest));
}

// Scores of `Heads` queries and `Count` rows: that many chains at once, twelve where registers
// allow, since a multiply-add takes four cycles and two start in each.
template <class Rows, int Heads, int Count>
void score_rows(const std::byte* x, int dim, const float* q, float* out, int64_t out_stride) {
  constexpr int kSums = (Heads * Count + 3) / 4 * 4;
  Vec total[kSums];
#pragma GCC unroll 16
  for (int i = 0; i < kSums; ++i) total[i] = Vec::zero();
  const int64_t row_bytes = dim * Rows::bytes;
  const auto step = [&](auto load_row, auto load_query) {
    if constexpr (Heads > Count) {
      Vec row[Count];
#pragma GCC unroll 8
      for (int r = 0; r < Count; ++r) row[r] = load_row(r);
#pragma GCC unroll 4
      for (int h = 0; h < Heads; ++h) {
        const Vec y = load_query(h);
#pragma GCC unroll 8
        for (int r = 0; r < Count; ++r)
          total[h * Count + r] = mul_add(y, row[r], total[h * Count + r]);
      }
    } else {
      Vec y[Heads];
#pragma GCC unroll 4
      for (int h = 0; h < Heads; ++h) y[h] = load_query(h);
#pragma GCC unroll 8
      for (int r = 0; r < Count; ++r) {
        const Vec row = load_row(r);
#pragma GCC unroll 4
        for (int h = 0; h < Heads; ++h)
          total[h * Count + r] = mul_add(y[h], row, total[h * Count + r]);
      }
    }
  };
  int d = 0;
  for (; d + Vec::lanes <= dim; d += Vec::lanes)
    step([&](int r) { return Rows::load(x + r * row_bytes + d * Rows::bytes); },
         [&](int h) { return Vec::load(q + static_cast<int64_t>(h) * dim + d); });
  if (const int rest = dim - d; rest > 0)
    step([&](int r) { return Rows::load_part(x + r * row_bytes + d * Rows::bytes, rest); },
         [&](int h) { return Vec::load_part(q + static_cast<int64_t>(h) * dim + d, rest); });
#pragma GCC unroll 4
  for (int i = 0; i < kSums; i += 4) {
    float sums[4];
    sum4(total + i, sums);
    for (int j = i; j < i + 4 && j < Heads * Count; ++j)
      out[j / Count * out_stride + j % Count] = sums[j - i];
  }
}

template <class Rows, int Heads, int Count>
void score_heads(const std::byte* page, int rows, int dim, const float* q, float* out,
                 int64_t out_stride) {
  const int64_t row_bytes = dim * Rows::bytes;
  int r = 0;
  for (; r + Count <= rows; r += Count)
    score_rows<Rows, Heads, Count>(page + r * row_bytes, dim, q, out + r, out_stride);
  for (; r + 2 <= rows; r += 2)
    score_rows<Rows, Heads, 2>(page + r * row_bytes, dim, q, out + r, out_stride);
  for (; r < rows; ++r)
    score_rows<Rows, Heads, 1>(page + r * row_bytes, dim, q, out + r, out_stride);
}

template <class Rows>
void page_score(const std::byte* page, int rows, int dim, const float* q, int heads, float* out,
                int64_t out_stride) {
  while (heads > 0) {
    const int now = heads >= 4 ? 4 : heads;
    if (now == 4) score_heads<Rows, 4, 3>(page, rows, dim, q, out, out_stride);
    if (now == 3) score_heads<Rows, 3, 4>(page, rows, dim, q, out, out_stride);
    if (now == 2) score_heads<Rows, 2, 6>(page, rows, dim, q, out, out_stride);
    if (now == 1) score_heads<Rows, 1, 8>(page, rows, dim, q, out, out_stride);
    heads -= now;
    q += static_cast<int64_t>(now) * dim;
    out += now * out_stride;
  }
}

// Columns [d, d + Vecs * lanes) of the weighted sums of `Heads` heads.
template <class Rows, int Heads, int Vecs>
void accumulate_columns(const std::byte* page, int rows, int dim, const float* p, int64_t p_stride,
                        float* acc, int d) {
  Vec total[Heads][Vecs];
#pragma GCC unroll 8
  for (int h = 0; h < Heads; ++h)
#pragma GCC unroll 8
    for (int j = 0; j < Vecs; ++j)
      total[h][j] = Vec::load(acc + static_cast<int64_t>(h) * dim + d + j * Vec::lanes);
  const std::byte* x = page + d * Rows::bytes;
  for (int r = 0; r < rows; ++r, x += dim * Rows::bytes) {
    Vec row[Vecs];
#pragma GCC unroll 8
    for (int j = 0; j < Vecs; ++j) row[j] = Rows::load(x + j * Vec::lanes * Rows::bytes);
#pragma GCC unroll 8
    for (int h = 0; h < Heads; ++h) {
      const Vec weight = Vec::all(p[h * p_stride + r]);
#pragma GCC unroll 8
      for (int j = 0; j < Vecs; ++j) total[h][j] = mul_add(weight, row[j], total[h][j]);
    }
  }
#pragma GCC unroll 8
  for (int h = 0; h < Heads; ++h)
#pragma GCC unroll 8
    for (int j = 0; j < Vecs; ++j)
      store(acc + static_cast<int64_t>(h) * dim + d + j * Vec::lanes, total[h][j]);
}

template <class Rows, int Heads, int Vecs>
void accumulate_heads(const std::byte* page, int rows, int dim, const float* p, int64_t p_stride,
                      float* acc) {
  int d = 0;
  for (; d + Vecs * Vec::lanes <= dim; d += Vecs * Vec::lanes)
    accumulate_columns<Rows, Heads, Vecs>(page, rows, dim, p, p_stride, acc, d);
  for (; d + Vec::lanes <= dim; d += Vec::lanes)
    accumulate_columns<Rows, Heads, 1>(page, rows, dim, p, p_stride, acc, d);
  if (const int rest = dim - d; rest > 0)
    for (int h = 0; h < Heads; ++h) {
      float* to = acc + static_cast<int64_t>(h) * dim + d;
      const std::byte* x = page + d * Rows::bytes;
      Vec total = Vec::load_part(to, rest);
      for (int r = 0; r < rows; ++r, x += dim * Rows::bytes)
        total = mul_add(Vec::all(p[h * p_stride + r]), Rows::load_part(x, rest), total);
      store_part(to, rest, total);
    }
}

template <class Rows>
void page_accumulate(const std::byte* page, int rows, int dim, const float* p, int64_t p_stride,
                     int heads, float* acc) {
  while (heads > 0) {
    const int now = heads >= 4 ? 4 : heads;
    if (now == 4) accumulate_heads<Rows, 4, 2>(page, rows, dim, p, p_stride, acc);
    if (now == 3) accumulate_heads<Rows, 3, 2>(page, rows, dim, p, p_stride, acc);
    if (now == 2) accumulate_heads<Rows, 2, 4>(page, rows, dim, p, p_stride, acc);
    if (now == 1) accumulate_heads<Rows, 1, 8>(page, rows, dim, p, p_stride, acc);
    heads -= now;
    p += now * p_stride;
    acc += static_cast<int64_t>(now) * dim;
  }
}

template <class Rows>
constexpr PageKernels kPlainPage = {
    page_bytes<Rows>, page_encode<Rows>, page_decode<Rows>,    nullptr,
    nullptr,          page_score<Rows>,  page_accumulate<Rows>};

template <class... Format>
struct FormatList {};

// In the order of Quant.
using CodedFormats =
    FormatList<Int8Keys, Int8Values, ChannelKeys<2>, ChannelKeys<3>, ChannelKeys<4>, ChannelKeys<6>,
               ChannelKeys<8>, RowKeys<2>, RowKeys<3>, RowKeys<4>, RowKeys<6>, RowKeys<8>,
               ValuesOf<2, 32>, ValuesOf<2, 64>, ValuesOf<2, 128>, ValuesOf<3, 32>, ValuesOf<3, 64>,
               ValuesOf<3, 128>, ValuesOf<4, 32>, ValuesOf<4, 64>, ValuesOf<4, 128>,
               ValuesOf<6, 32>, ValuesOf<6, 64>, ValuesOf<6, 128>, ValuesOf<8, 32>, ValuesOf<8, 64>,
               ValuesOf<8, 128>>;

struct PageTable {
  PageKernels page[kQuantCount];
};

template <class... Format>
constexpr PageTable page_table(FormatList<Format...>) {
  static_assert(sizeof...(Format) == kCodedFormats);
  return {{kPlainPage<RowsF32>, kPlainPage<RowsF16>, kPlainPage<RowsBf16>, Format::kTable...,
           kPlainPage<RowsFp8<3>>, kPlainPage<RowsFp8<2>>, WithOutliers<Format>::table()...}};
}

constexpr PageTable kPages = page_table(CodedFormats());

}  // namespace PITH_TARGET
}  // namespace
}  // namespace pith

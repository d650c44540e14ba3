// Keys of few-bit codes that share a least number and a step per row, over 32 columns, as values do
// in pages_bits.inl.h: what a key costs that is coded by itself. Queries are rounded to 16 bits
// once for all pages, as in pages_int8.inl.h.
//
//   page = tiles of 16 rows; a tile = for every 32 columns f16 steps and f16 leasts of rows 0 ..
//   15, then for each unit of columns kWords times the words of rows 0 .. 15
#pragma once

#include "kernels/pages_bits.inl.h"

namespace pith {
namespace {
namespace PITH_TARGET {

template <int Bits>
struct RowKeys {
  using Run = CodeRun<Bits>;
  static constexpr int kColumns = 32;  // that share a step
  static constexpr bool kKeys = true, kPrepares = true;
  static constexpr Shares kShares = {.columns = false, .width = kColumns, .middle = true};
  static constexpr int kUnits = kColumns / Run::kCodes;
  static constexpr int64_t kWordBytes = kBitsRows * 4;
  static constexpr int64_t kUnitBytes = Run::kWords * kWordBytes;
  static constexpr int64_t kSpanBytes = 4 * kBitsRows;
  static constexpr int kVecs = kBitsRows / Vec::lanes;

  static int groups(int dim) { return (dim + kColumns - 1) / kColumns; }
  static int units(int columns) { return (columns + Run::kCodes - 1) / Run::kCodes; }
  static int64_t tile_bytes(int dim) { return groups(dim) * kSpanBytes + units(dim) * kUnitBytes; }
  // Where the columns of group g start in a tile: all groups before are whole.
  static int64_t group_at(int g) { return g * (kSpanBytes + kUnits * kUnitBytes); }

  static size_t bytes(int rows, int dim) {
    return static_cast<size_t>((rows + kBitsRows - 1) / kBitsRows * tile_bytes(dim));
  }

  static void encode(const float* x, int64_t stride, int rows, int dim, std::byte* page,
                     int /*first_row*/) {
    encode_cut(x, stride, rows, dim, page, {});
  }

  static void encode_cut(const float* x, int64_t stride, int rows, int dim, std::byte* page,
                         const Cut& cut) {
    __builtin_memset(page, 0, bytes(rows, dim));
    alignas(64) int32_t codes[kColumns];
    for (int r = 0; r < rows; ++r, x += stride)
      for (int g = 0; g < groups(dim); ++g) {
        const int columns = int8_lesser(kColumns, dim - g * kColumns);
        std::byte* const at = page + r / kBitsRows * tile_bytes(dim) + group_at(g);
        const int row = r % kBitsRows;
        float low, high;
        reach_of(x + g * kColumns, columns, low, high);
        if (cut.on) cut.reach(x + g * kColumns, 1, columns, low, high);
        const Span<Bits> span(low, high, at + 2 * row, at + 2 * kBitsRows + 2 * row);
        for (int i = 0; i < columns; i += Vec::lanes)
          store(codes + i, bits_codes<Bits>(bits_given(x + g * kColumns + i, columns - i),
                                            Vec::all(span.least), Vec::all(span.inverse)));
        for (int u = 0; u < units(columns); ++u) {
          uint32_t words[Run::kWords] = {};
          for (int i = 0; i < Run::kCodes && u * Run::kCodes + i < columns; ++i)
            Run::put(words, i, static_cast<uint32_t>(codes[u * Run::kCodes + i]));
          for (int w = 0; w < Run::kWords; ++w)
            __builtin_memcpy(at + kSpanBytes + u * kUnitBytes + w * kWordBytes + 4 * row, words + w,
                             sizeof *words);
        }
      }
  }

  // One number of a page.
  static float number_at(const std::byte* page, int r, int d, int dim) {
    const int row = r % kBitsRows, column = d % kColumns;
    const std::byte* const at = page + r / kBitsRows * tile_bytes(dim) + group_at(d / kColumns);
    uint32_t words[Run::kWords];
    for (int w = 0; w < Run::kWords; ++w)
      __builtin_memcpy(
          words + w, at + kSpanBytes + column / Run::kCodes * kUnitBytes + w * kWordBytes + 4 * row,
          sizeof *words);
    return load_half(at + 2 * kBitsRows + 2 * row) +
           load_half(at + 2 * row) * static_cast<float>(Run::get(words, column % Run::kCodes));
  }

  static void decode(const std::byte* page, int first_row, int rows, int dim, float* x) {
    for (int r = first_row; r < first_row + rows; ++r)
      for (int d = 0; d < dim; ++d) *x++ = number_at(page, r, d, dim);
  }

  // A prepared query: what one of its units is worth, its numbers in units, in pairs, and the sum
  // of each group's numbers.
  static int pairs(int dim) { return units(dim) * Run::kPairs; }
  static int query_floats_of(int dim) { return 1 + pairs(dim) + groups(dim); }
  static size_t query_floats(int heads, int dim) {
    return static_cast<size_t>(heads) * static_cast<size_t>(query_floats_of(dim));
  }

  static void prepare(const float* q, int heads, int dim, float* prepared) {
    for (int h = 0; h < heads; ++h, q += dim, prepared += query_floats_of(dim)) {
      const float most = largest_size(q, dim);
      prepared[0] = most / kMost16;
      __builtin_memset(prepared + 1, 0, static_cast<size_t>(pairs(dim)) * sizeof(float));
      to_int16(q, dim, most > kLeastSize ? kMost16 / most : 0, prepared + 1);
      float* const sums = prepared + 1 + pairs(dim);
      for (int g = 0; g < groups(dim); ++g) {
        const int columns = int8_lesser(kColumns, dim - g * kColumns);
        Vec total = Vec::zero();
        for (int i = 0; i < columns; i += Vec::lanes) {
          const float* const from = q + g * kColumns + i;
          const int part = columns - i;
          total = total + (part < Vec::lanes ? Vec::load_part(from, part) : Vec::load(from));
        }
        sums[g] = sum(total);
      }
    }
  }

  template <int Heads>
  [[gnu::noinline]] static void score_heads(const std::byte* page, int rows, int dim,
                                            const float* q, float* out, int64_t out_stride) {
    const int stride = query_floats_of(dim);
    for (int r = 0; r < rows; r += kBitsRows, page += tile_bytes(dim)) {
      Vec coded[Heads][kVecs], leasts[Heads][kVecs];
      for (int h = 0; h < Heads; ++h)
        for (int j = 0; j < kVecs; ++j) coded[h][j] = leasts[h][j] = Vec::zero();
      const float* at = q + 1;
      for (int g = 0; g < groups(dim); ++g) {
        const int columns = int8_lesser(kColumns, dim - g * kColumns);
        const std::byte* const span = page + group_at(g);
        IVec total[Heads][kVecs];
#pragma GCC unroll 4
        for (int h = 0; h < Heads; ++h)
#pragma GCC unroll 4
          for (int j = 0; j < kVecs; ++j) total[h][j] = IVec::zero();
        const std::byte* unit = span + kSpanBytes;
        for (const std::byte* const end = unit + units(columns) * kUnitBytes; unit != end;
             unit += kUnitBytes, at += Run::kPairs) {
          IVec words[kVecs][Run::kWords];
#pragma GCC unroll 4
          for (int j = 0; j < kVecs; ++j)
            load_words<Bits>(unit + j * Vec::lanes * 4, kWordBytes, words[j]);
          add_run<Bits>(words, at, stride, total);
        }
        for (int j = 0; j < kVecs; ++j) {
          const Vec step = Vec::load_f16(span + 2 * j * Vec::lanes);
          const Vec least = Vec::load_f16(span + 2 * kBitsRows + 2 * j * Vec::lanes);
          for (int h = 0; h < Heads; ++h) {
            const float* const sums = q + h * stride + 1 + pairs(dim);
            coded[h][j] = mul_add(to_float(total[h][j]), step, coded[h][j]);
            leasts[h][j] = mul_add(least, Vec::all(sums[g]), leasts[h][j]);
          }
        }
      }
      for (int h = 0; h < Heads; ++h)
        for (int j = 0; j < kVecs && r + j * Vec::lanes < rows; ++j) {
          float* const to = out + h * out_stride + r + j * Vec::lanes;
          const int part = rows - r - j * Vec::lanes;
          const Vec score = mul_add(coded[h][j], Vec::all(q[h * stride]), leasts[h][j]);
          if (part < Vec::lanes)
            store_part(to, part, score);
          else
            store(to, score);
        }
    }
  }

  static void score(const std::byte* page, int rows, int dim, const float* q, int heads, float* out,
                    int64_t out_stride) {
    by_runs(heads, [&](auto count, int h) {
      const float* from = q + static_cast<int64_t>(h) * query_floats_of(dim);
      float* to = out + h * out_stride;
      score_heads<decltype(count)::value>(page, rows, dim, from, to, out_stride);
    });
  }

  static constexpr PageKernels kTable = {bytes,   encode, decode, query_floats,
                                         prepare, score,  nullptr};
};

}  // namespace PITH_TARGET
}  // namespace
}  // namespace pith

// Weight matrices in GGUF blocks times float activations, summed in floats.
//
// Each output is computed by the same additions in the same order, however many rows are in the
// call: the columns are cut into blocks of kBlockCols; within a block each of kSums sums takes
// every kSums-th column, first to last; sums are added one after the other, block by block.
//
// Weights are unpacked, a block of columns of kWide vectors of rows at a time, into a panel [cols]
// [rows] that stays in the first-level cache: a lane is a row of weights, and the columns of a sum
// lie one after the other. Register tiles of kTileX rows of activations, each broadcast, run over
// it. One or two rows of activations meet plain weights (F32, F16, BF16) as they are read, row by
// row, with a lane per sum.
#pragma once

#include <type_traits>

#include "kernels/formats.inl.h"
#include "kernels/table.h"
#include "kernels/vec_math.inl.h"

namespace pith {
namespace {
namespace PITH_TARGET {

// kTileX x kWide sums, kWide vectors of weights and an activation fill the registers: 16 with AVX2
// and the scalar target, 32 with AVX-512 and NEON.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kWide = 4;
#else
constexpr int kWide = 2;
#endif
constexpr int kTileX = 6;
constexpr int64_t kWideRows = int64_t{kWide} * Vec::lanes;
// A panel takes half of a first-level cache of 32 KiB (all of it with AVX-512), a chunk of packed
// activations half of a second-level cache of 512 KiB.
constexpr int64_t kBlockCols = 256;
constexpr int64_t kChunkX = 252;
constexpr int64_t kFewX = 16;  // up to so many activation rows, weights are read in their order
constexpr int kSums = Vec::lanes > 8 ? Vec::lanes : 8;
static_assert(kBlockCols % kSums == 0 && kSums % Vec::lanes == 0);

// How many columns of a block of `cols` go into sums before `sum`.
inline int64_t sum_start(int64_t cols, int64_t sum) {
  const int64_t longer = cols % kSums;
  return sum * (cols / kSums) + (sum < longer ? sum : longer);
}

// One or two rows of activations meet kStreams rows of weights at a time, whose sums are kept until
// kStreamed rows are read.
constexpr int kStreams = 4;
constexpr int kStreamed = Vec::lanes > kStreams ? Vec::lanes : kStreams;
constexpr int64_t kStreamAhead = 1024;  // bytes of a row

inline int64_t row_sum_floats(int64_t cols) {
  return 2 * kStreamed * kSums * ((cols + kBlockCols - 1) / kBlockCols);
}

inline size_t matmul_scratch(int64_t cols) {
  const int64_t width = cols < kBlockCols ? (cols + 15) / 16 * 16 : kBlockCols;
  const int64_t panels = (kChunkX + kWideRows + Vec::lanes) * width + 16;  // 16 to align it
  const int64_t sums = row_sum_floats(cols);
  return static_cast<size_t>(panels > sums ? panels : sums);
}

inline void dequantise(DType dtype, const std::byte* w, int64_t n, float* out) {
  with_format(dtype, [&]<class Format>() {
    each_vector<Format>(w, n, [&](Vec v, int64_t k) {
      const int64_t rest = n - k;
      if (!kPlain<Format> || rest >= Vec::lanes) {
        store(out + k, v);
      } else {
        store_part(out + k, static_cast<int>(rest), v);
      }
    });
  });
}

inline int64_t least(int64_t a, int64_t b) {
  return a < b ? a : b;
}

// Copies activation rows [first_row, first_row + rows), columns [first, first + cols), sum by sum,
// one row after the other: rows of a power of two apart would all fall into the same few sets of
// the first-level cache.
inline void pack_rows(const MatmulJob& job, int64_t first_row, int64_t rows, int64_t first,
                      int64_t cols, float* to) {
  for (int64_t i = 0; i < rows; ++i, to += cols) {
    const float* x = job.x + (first_row + i) * job.x_stride + first;
    int64_t k = 0;
    if constexpr (kSums == Vec::lanes)
      for (; k + kSums * kSums <= cols; k += kSums * kSums) {
        Vec tile[kSums];
#pragma GCC unroll 16
        for (int c = 0; c < kSums; ++c) tile[c] = Vec::load(x + k + c * kSums);
        transpose(tile);
#pragma GCC unroll 16
        for (int c = 0; c < kSums; ++c) store(to + sum_start(cols, c) + k / kSums, tile[c]);
      }
    for (; k < cols; ++k) to[sum_start(cols, k % kSums) + k / kSums] = x[k];
  }
}

// Columns [first, first + cols) of kWideRows rows of weights from `row` on, sum by sum; rows behind
// the last repeat it. `plain` has room for `lanes` rows of a block.
template <class Format>
void unpack_panel(const MatmulJob& job, int64_t row, int64_t first, int64_t cols, float* plain,
                  float* to) {
  const int64_t row_bytes = format_bytes<Format>(job.cols);
  const int64_t last = job.row0 + job.rows - 1;
  int64_t starts[kSums];
  for (int i = 0; i < kSums; ++i) starts[i] = sum_start(cols, i) * kWideRows;
  // As much of the next panel is asked for, in the order in which it lies, as is read here.
  const std::byte* next =
      job.w + (row + kWideRows) * row_bytes + format_bytes<Format>(first) * kWideRows;
  for (int64_t line = 0; line < format_bytes<Format>(cols) * kWideRows; line += 64)
    __builtin_prefetch(next + line, 0, 2);
  for (int v = 0; v < kWide; ++v) {
    const std::byte* from[Vec::lanes];
    for (int r = 0; r < Vec::lanes; ++r)
      from[r] =
          job.w + least(row + v * Vec::lanes + r, last) * row_bytes + format_bytes<Format>(first);
    if constexpr (!kPlain<Format>)
      for (int r = 0; r < Vec::lanes; ++r)
        each_vector<Format>(from[r], cols,
                            [&](Vec x, int64_t k) { store(plain + r * cols + k, x); });
    for (int64_t k = 0; k < cols; k += Vec::lanes) {
      const int n = static_cast<int>(least(Vec::lanes, cols - k));
      Vec x[Vec::lanes];
#pragma GCC unroll 16
      for (int r = 0; r < Vec::lanes; ++r) {
        if constexpr (!kPlain<Format>)
          x[r] = Vec::load(plain + r * cols + k);
        else
          x[r] = n == Vec::lanes ? Format(from[r] + format_bytes<Format>(k)).step(0)
                                 : Format::part(from[r] + format_bytes<Format>(k), n);
      }
      transpose(x);
      float* at = to + k / kSums * kWideRows + v * Vec::lanes;
      const int64_t* start = starts + k % kSums;
      if (n == Vec::lanes) {
#pragma GCC unroll 16
        for (int c = 0; c < Vec::lanes; ++c) store(at + start[c], x[c]);
      } else {
        for (int c = 0; c < n; ++c) store(at + start[c], x[c]);
      }
    }
  }
}

// Activations of a tile, `row` apart: as they are given, or packed sum by sum.
struct TileRows {
  const float* x;
  int64_t row;
  bool packed;
};

// The sums of X rows of activations and a panel are `columns` results each, or are added to them.
template <int X, bool Packed, bool Whole>
void panel_tile(const TileRows& rows, const float* panel, int64_t given, bool start,
                int64_t columns, float* out, int64_t out_stride) {
  const int64_t cols = Whole ? kBlockCols : given;
  for (int64_t one = 0; one < kSums && one < cols; ++one) {
    const int64_t length = sum_start(cols, one + 1) - sum_start(cols, one);
    const float* x = rows.x + (Packed ? sum_start(cols, one) : one);
    Vec total[X][kWide];
#pragma GCC unroll 6
    for (int i = 0; i < X; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < kWide; ++v) total[i][v] = Vec::zero();
#pragma GCC unroll 2
    for (int64_t k = 0; k < length; ++k, panel += kWideRows) {
      Vec w[kWide];
#pragma GCC unroll 4
      for (int v = 0; v < kWide; ++v) w[v] = Vec::load(panel + v * Vec::lanes);
#pragma GCC unroll 6
      for (int i = 0; i < X; ++i) {
        const Vec a = Vec::all(x[i * rows.row + (Packed ? k : k * kSums)]);
#pragma GCC unroll 4
        for (int v = 0; v < kWide; ++v) total[i][v] = mul_add(a, w[v], total[i][v]);
      }
    }
    const bool first = start && one == 0;
#pragma GCC unroll 6
    for (int i = 0; i < X; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < kWide; ++v) {
        const int64_t n = Whole ? Vec::lanes : columns - v * Vec::lanes;
        float* at = out + i * out_stride + v * Vec::lanes;
        if (n >= Vec::lanes)
          store(at, first ? total[i][v] : Vec::load(at) + total[i][v]);
        else if (n > 0)
          store_part(at, static_cast<int>(n),
                     first ? total[i][v] : Vec::load_part(at, static_cast<int>(n)) + total[i][v]);
      }
  }
}

// Activations times a panel: out is at the first result of both.
inline void multiply_panel(TileRows x, int64_t x_rows, const float* panel, int64_t cols, bool start,
                           int64_t columns, float* out, int64_t out_stride) {
  for (int64_t i = 0; i < x_rows; i += kTileX, x.x += kTileX * x.row, out += kTileX * out_stride) {
    // Rows of results are a power of two apart more often than not, so they fall out of caches.
    for (int64_t r = kTileX; r < least(2 * kTileX, x_rows - i); ++r)
      __builtin_prefetch(out + r * out_stride, 1);
    const auto run = [&]<int X>() {
      if (!x.packed)
        panel_tile<X, false, false>(x, panel, cols, start, columns, out, out_stride);
      else if (cols == kBlockCols && columns >= kWideRows)
        panel_tile<X, true, true>(x, panel, cols, start, columns, out, out_stride);
      else
        panel_tile<X, true, false>(x, panel, cols, start, columns, out, out_stride);
    };
    switch (x_rows - i) {
      case 1:
        run.template operator()<1>();
        break;
      case 2:
        run.template operator()<2>();
        break;
      case 3:
        run.template operator()<3>();
        break;
      case 4:
        run.template operator()<4>();
        break;
      case 5:
        run.template operator()<5>();
        break;
      default:
        run.template operator()<6>();
    }
  }
}

// Sums [X, kStreamed, blocks, kSums] of X rows of activations and kStreams rows of plain weights
// from `row` on; rows behind the last repeat it.
template <class Format, int X>
[[gnu::noinline]] void stream_rows(const MatmulJob& job, int64_t row, float* sums) {
  constexpr int kVecs = kSums / Vec::lanes;
  constexpr int64_t kBytes = format_bytes<Format>(1), kLine = 64 / kBytes;
  static_assert(kLine % kSums == 0);
  const int64_t stride = format_bytes<Format>(job.cols), last = job.row0 + job.rows - 1;
  const int64_t blocks = (job.cols + kBlockCols - 1) / kBlockCols;
  const std::byte* w[kStreams];
  for (int r = 0; r < kStreams; ++r) w[r] = job.w + least(row + r, last) * stride;
  for (int64_t first = 0; first < job.cols; first += kBlockCols, sums += kSums) {
    const int64_t end = least(job.cols, first + kBlockCols);
    Vec total[X][kStreams][kVecs];
#pragma GCC unroll 2
    for (int i = 0; i < X; ++i)
#pragma GCC unroll 4
      for (int r = 0; r < kStreams; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < kVecs; ++v) total[i][r][v] = Vec::zero();
    const auto step = [&](int64_t k, int v, auto part) {
      const int n = static_cast<int>(end - k);  // of the columns that are left
      Vec x[X];
#pragma GCC unroll 2
      for (int i = 0; i < X; ++i) {
        const float* from = job.x + i * job.x_stride + k;
        x[i] = part ? Vec::load_part(from, n) : Vec::load(from);
      }
#pragma GCC unroll 4
      for (int r = 0; r < kStreams; ++r) {
        const std::byte* from = w[r] + k * kBytes;
        const Vec y = part ? Format::part(from, n) : Format(from).step(0);
#pragma GCC unroll 2
        for (int i = 0; i < X; ++i) total[i][r][v] = mul_add(x[i], y, total[i][r][v]);
      }
    };
    int64_t k = first;
    for (; k + kLine <= end; k += kLine) {
      // Behind the end of a row comes the one that this stream reads next.
      int64_t ahead = k * kBytes + kStreamAhead;
      if (ahead >= stride) ahead += (kStreams - 1) * stride;
#pragma GCC unroll 4
      for (int r = 0; r < kStreams; ++r) __builtin_prefetch(w[r] + ahead, 0, 3);
#pragma GCC unroll 32
      for (int64_t c = 0; c < kLine; c += Vec::lanes)
        step(k + c, static_cast<int>(c % kSums / Vec::lanes), std::false_type{});
    }
    for (; k < end; k += kSums)
#pragma GCC unroll 8
      for (int v = 0; v < kVecs; ++v) {
        const int64_t at = k + v * Vec::lanes;
        if (end - at >= Vec::lanes)
          step(at, v, std::false_type{});
        else if (at < end)
          step(at, v, std::true_type{});
      }
#pragma GCC unroll 2
    for (int i = 0; i < X; ++i)
#pragma GCC unroll 4
      for (int r = 0; r < kStreams; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < kVecs; ++v)
          store(sums + (i * kStreamed + r) * blocks * kSums + v * Vec::lanes, total[i][r][v]);
  }
}

// The results of X rows of activations and plain weights.
template <class Format, int X>
void plain_rows(const MatmulJob& job) {
  const int64_t end = job.row0 + job.rows;
  const int64_t row_floats = (job.cols + kBlockCols - 1) / kBlockCols * kSums;
  for (int64_t row = job.row0; row < end; row += kStreamed) {
    for (int r = 0; r < kStreamed; r += kStreams)
      stream_rows<Format, X>(job, row + r, job.scratch + r * row_floats);
    for (int i = 0; i < X; ++i)
      for (int r = 0; r < kStreamed && row + r < end; r += Vec::lanes) {
        const float* sums = job.scratch + (i * kStreamed + r) * row_floats;
        Vec result = Vec::zero();
        for (int64_t at = 0; at < row_floats; at += Vec::lanes) {
          const int64_t columns = job.cols - at / kSums * kBlockCols - at % kSums;
          Vec x[Vec::lanes];
#pragma GCC unroll 16
          for (int c = 0; c < Vec::lanes; ++c) x[c] = Vec::load(sums + c * row_floats + at);
          transpose(x);
          for (int c = 0; c < Vec::lanes && c < columns; ++c)
            result = at + c == 0 ? x[0] : result + x[c];
        }
        float* to = job.out + i * job.out_stride + row + r;
        const int64_t n = end - row - r;
        if (n >= Vec::lanes)
          store(to, result);
        else
          store_part(to, static_cast<int>(n), result);
      }
  }
}

template <class Format>
void through_panels(const MatmulJob& job) {
  if constexpr (kPlain<Format>) {
    if (job.m == 1) return plain_rows<Format, 1>(job);
    if (job.m == 2) return plain_rows<Format, 2>(job);
  }
  const auto misaligned = reinterpret_cast<uintptr_t>(job.scratch) % 64;
  float* panel = job.scratch + (misaligned ? (64 - misaligned) / sizeof(float) : 0);
  const int64_t width = least(kBlockCols, (job.cols + 15) / 16 * 16);
  float* plain = panel + kWideRows * width;
  float* packed = plain + Vec::lanes * width;
  const int64_t end = job.row0 + job.rows;
  if (job.m <= kFewX) {
    for (int64_t row = job.row0; row < end; row += kWideRows)
      for (int64_t first = 0; first < job.cols; first += kBlockCols) {
        const int64_t cols = least(kBlockCols, job.cols - first);
        unpack_panel<Format>(job, row, first, cols, plain, panel);
        multiply_panel({job.x + first, job.x_stride, false}, job.m, panel, cols, first == 0,
                       end - row, job.out + row, job.out_stride);
      }
    return;
  }
  for (int64_t first = 0; first < job.cols; first += kBlockCols) {
    const int64_t cols = least(kBlockCols, job.cols - first);
    for (int64_t i = 0; i < job.m; i += kChunkX) {
      const int64_t x_rows = least(kChunkX, job.m - i);
      pack_rows(job, i, x_rows, first, cols, packed);
      for (int64_t row = job.row0; row < end; row += kWideRows) {
        unpack_panel<Format>(job, row, first, cols, plain, panel);
        multiply_panel({packed, cols, true}, x_rows, panel, cols, first == 0, end - row,
                       job.out + i * job.out_stride + row, job.out_stride);
      }
    }
  }
}

inline void matmul(const MatmulJob& job) {
  if (job.m <= 0 || job.rows <= 0) return;
  if (job.cols <= 0) {
    for (int64_t i = 0; i < job.m; ++i)
      for (int64_t r = 0; r < job.rows; ++r) job.out[i * job.out_stride + job.row0 + r] = 0;
    return;
  }
  with_format(job.dtype, [&]<class Format>() { through_panels<Format>(job); });
}

}  // namespace PITH_TARGET
}  // namespace
}  // namespace pith

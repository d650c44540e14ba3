// Weight matrices in GGUF blocks times float activations, summed in floats.
//
// Each output is computed by the same additions in the same order, however many rows are in the
// call: the columns are cut into blocks of kBlockCols; within a block one sum takes every column,
// first to last; block sums are added first to last.
//
// Weights are unpacked, a block of columns of kWide vectors of rows at a time, into a panel [cols]
// [rows] that stays in the first-level cache: a lane is a row of weights. Register tiles of kTileX
// rows of activations, each broadcast, run over it. One or two rows of activations meet plain
// weights (F32, F16, BF16) as they are read, by the same additions.
#pragma once

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

inline size_t matmul_scratch(int64_t cols) {
  const int64_t width = cols < kBlockCols ? (cols + 15) / 16 * 16 : kBlockCols;
  const int64_t panels = (kChunkX + kWideRows + Vec::lanes) * width + 16;  // 16 to align it
  const int64_t copies = 4 * Vec::lanes * (kBlockCols + 32);
  return static_cast<size_t>(panels > copies ? panels : copies);
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

// Copies activation rows [first_row, first_row + rows), columns [first, first + cols), one after
// the other: rows of a power of two apart would all fall into the same few sets of the first-level
// cache.
inline void pack_rows(const MatmulJob& job, int64_t first_row, int64_t rows, int64_t first,
                      int64_t cols, float* to) {
  for (int64_t i = 0; i < rows; ++i, to += cols)
    __builtin_memcpy(to, job.x + (first_row + i) * job.x_stride + first,
                     static_cast<size_t>(cols) * sizeof(float));
}

// Columns [first, first + cols) of kWideRows rows of weights from `row` on; rows behind the last
// repeat it. `plain` has room for `lanes` rows of a block.
template <class Format>
void unpack_panel(const MatmulJob& job, int64_t row, int64_t first, int64_t cols, float* plain,
                  float* to) {
  const int64_t row_bytes = format_bytes<Format>(job.cols);
  const int64_t last = job.row0 + job.rows - 1;
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
      float* at = to + k * kWideRows + v * Vec::lanes;
      if (n == Vec::lanes) {
#pragma GCC unroll 16
        for (int c = 0; c < Vec::lanes; ++c) store(at + c * kWideRows, x[c]);
      } else {
        for (int c = 0; c < n; ++c) store(at + c * kWideRows, x[c]);
      }
    }
  }
}

// The sums of X rows of activations and a panel are `columns` results each, or are added to them.
template <int X>
void panel_tile(const float* x, int64_t x_stride, const float* panel, int64_t cols, bool start,
                int64_t columns, float* out, int64_t out_stride) {
  Vec total[X][kWide];
#pragma GCC unroll 6
  for (int i = 0; i < X; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < kWide; ++v) total[i][v] = Vec::zero();
#pragma GCC unroll 2
  for (int64_t k = 0; k < cols; ++k) {
    Vec w[kWide];
#pragma GCC unroll 4
    for (int v = 0; v < kWide; ++v) w[v] = Vec::load(panel + k * kWideRows + v * Vec::lanes);
#pragma GCC unroll 6
    for (int i = 0; i < X; ++i) {
      const Vec a = Vec::all(x[i * x_stride + k]);
#pragma GCC unroll 4
      for (int v = 0; v < kWide; ++v) total[i][v] = mul_add(a, w[v], total[i][v]);
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < X; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < kWide; ++v) {
      const int64_t n = columns - v * Vec::lanes;
      float* at = out + i * out_stride + v * Vec::lanes;
      if (n >= Vec::lanes)
        store(at, start ? total[i][v] : Vec::load(at) + total[i][v]);
      else if (n > 0)
        store_part(at, static_cast<int>(n),
                   start ? total[i][v] : Vec::load_part(at, static_cast<int>(n)) + total[i][v]);
    }
}

// Activations times a panel: out is at the first result of both.
inline void multiply_panel(const float* x, int64_t x_stride, int64_t x_rows, const float* panel,
                           int64_t cols, bool start, int64_t columns, float* out,
                           int64_t out_stride) {
  for (int64_t i = 0; i < x_rows; i += kTileX, x += kTileX * x_stride, out += kTileX * out_stride) {
    // Rows of results are a power of two apart more often than not, so they fall out of caches.
    for (int64_t r = kTileX; r < least(2 * kTileX, x_rows - i); ++r)
      __builtin_prefetch(out + r * out_stride, 1);
    const auto run = [&]<int X>() {
      panel_tile<X>(x, x_stride, panel, cols, start, columns, out, out_stride);
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

// memcpy, for which g++ 12 would use string instructions, which take as long as the products.
inline void copy_line(const std::byte* from, int64_t bytes, std::byte* to) {
  constexpr int64_t kVec = Vec::lanes * 4;
  int64_t i = 0;
  for (; i + kVec <= bytes; i += kVec) store(reinterpret_cast<float*>(to + i), Vec::load(from + i));
  for (; i < bytes; ++i) to[i] = from[i];
}

// The sums of X rows of activations and V vectors of rows of plain weights from `row` on. A block
// of columns of the weights is copied first: rows a power of two apart would push each other out of
// the first-level cache before their lines are used up.
template <class Format, int X, int V>
[[gnu::noinline]] void plain_rows(const MatmulJob& job, int64_t row) {
  constexpr int64_t kRows = int64_t{V} * Vec::lanes;
  constexpr int64_t kBytes = format_bytes<Format>(1), kCopied = (kBlockCols + 32) * kBytes;
  const int64_t stride = format_bytes<Format>(job.cols);
  const std::byte* w = job.w + row * stride;
  auto* copy = reinterpret_cast<std::byte*>(job.scratch);
  for (int64_t first = 0; first < job.cols; first += kBlockCols) {
    const int64_t cols = least(kBlockCols, job.cols - first);
    for (int64_t r = 0; r < kRows; ++r)
      copy_line(w + r * stride + first * kBytes, cols * kBytes, copy + r * kCopied);
    // As much of the next rows is asked for, in the order in which it lies, as is read here.
    const std::byte* next = w + kRows * (stride + first * kBytes);
    Vec total[X][V];
#pragma GCC unroll 2
    for (int i = 0; i < X; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) total[i][v] = Vec::zero();
    // Behind the last column lies what was copied before, or nothing yet: it is not used.
    constexpr int kAtOnce = kBytes == 2 ? 16 : Vec::lanes;
    for (int64_t k = 0; k < cols; k += kAtOnce) {
      constexpr int64_t kStep = kRows * kAtOnce * kBytes;
      for (int64_t line = 0; line < kStep; line += 64) __builtin_prefetch(next + line, 0, 3);
      next += kStep;
      const int n = static_cast<int>(least(kAtOnce, cols - k));
      const float* x = job.x + first + k;
      alignas(64) std::byte columns[V][kAtOnce * Vec::lanes * 4];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        const std::byte* from = copy + v * Vec::lanes * kCopied + k * kBytes;
        if constexpr (kBytes == 2) {
          transpose16(from, kCopied, columns[v]);
        } else {
          Vec w[Vec::lanes];
#pragma GCC unroll 16
          for (int r = 0; r < Vec::lanes; ++r) w[r] = Format(from + r * kCopied).step(0);
          transpose(w);
#pragma GCC unroll 16
          for (int c = 0; c < Vec::lanes; ++c)
            store(reinterpret_cast<float*>(columns[v]) + c * Vec::lanes, w[c]);
        }
      }
      for (int c = 0; c < n; ++c)
#pragma GCC unroll 2
        for (int i = 0; i < X; ++i) {
          const Vec a = Vec::all(x[i * job.x_stride + c]);
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) {
            const std::byte* at = columns[v] + c * Vec::lanes * kBytes;
            total[i][v] = mul_add(a, Format(at).step(0), total[i][v]);
          }
        }
    }
#pragma GCC unroll 2
    for (int i = 0; i < X; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        float* to = job.out + i * job.out_stride + row + v * Vec::lanes;
        store(to, first == 0 ? total[i][v] : Vec::load(to) + total[i][v]);
      }
  }
}

template <class Format>
void through_panels(const MatmulJob& whole) {
  MatmulJob job = whole;
  if constexpr (kPlain<Format>) {
    const auto run = [&]<int X, int V>() {
      constexpr int64_t kRows = int64_t{V} * Vec::lanes;
      for (; job.m == X && job.rows >= kRows; job.row0 += kRows, job.rows -= kRows)
        plain_rows<Format, X, V>(job, job.row0);
    };
    run.template operator()<1, 2>();
    run.template operator()<1, 1>();
    run.template operator()<2, 2>();
    if (job.rows == 0) return;
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
        multiply_panel(job.x + first, job.x_stride, job.m, panel, cols, first == 0, end - row,
                       job.out + row, job.out_stride);
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
        multiply_panel(packed, cols, x_rows, panel, cols, first == 0, end - row,
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

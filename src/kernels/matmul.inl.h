// Weight matrices in GGUF blocks times float activations, summed in floats.
//
// Each output is computed by the same additions in the same order, however many rows are in the
// call: the columns are cut into blocks of kBlockCols; within a block `lanes` running sums each
// take every lanes-th column; these are added up in the fixed order of sum(); block sums are added
// first to last. Numbers behind the last column count as zeros.
//
// Few activation rows meet the weights in registers. For many, weights are unpacked once into a
// panel of floats that stays in the second-level cache, and register tiles of kTileX x 4 outputs
// run over it.
#pragma once

#include "kernels/formats.inl.h"
#include "kernels/table.h"
#include "kernels/vec_math.inl.h"

namespace pith {
namespace {
namespace PITH_TARGET {

// kTileX x 4 sums, kTileX activations and a weight fill the registers: 16 with AVX2 and the
// scalar target, 32 with AVX-512 and NEON.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kTileX = 6;
#else
constexpr int kTileX = 3;
#endif
constexpr int kTileW = 4;
// Adding up the lanes costs as much as some 64 columns of products, so blocks of wide vectors are
// longer. Then: an x block (kBlockX rows) and a tile of weights fit into 32 KiB, a chunk of packed
// activations and a panel into half of a 512 KiB second level (twice that with AVX-512).
constexpr int64_t kBlockCols = Vec::lanes > 8 ? 1024 : 512;
constexpr int64_t kBlockX = Vec::lanes > 8 ? kTileX : 3 * kTileX;
constexpr int64_t kChunkX = 252;
constexpr int64_t kPanelRows = 32;
constexpr int64_t kDirectX = 4;  // up to so many activation rows, weights stay in registers

constexpr int64_t round_up(int64_t n, int64_t to) {
  return (n + to - 1) / to * to;
}

inline size_t matmul_scratch(int64_t cols) {
  const int64_t width = round_up(cols < kBlockCols ? cols : kBlockCols, 16);
  return static_cast<size_t>((kChunkX + kPanelRows) * width + 16);  // 16 to align it
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

// Asks for the columns [first, first + cols) of a row: those of the next row are a page away, where
// the hardware does not look.
template <class Format>
inline void prefetch(const std::byte* row, int64_t first, int64_t cols) {
  const std::byte* p = row + format_bytes<Format>(first);
  const std::byte* end = p + format_bytes<Format>(cols);
  for (; p < end; p += 64) __builtin_prefetch(p);
}

// ---- few activation rows

// R weight rows times M activation rows; the callers repeat a row where fewer are left.
template <int R, int M>
struct Rows {
  const std::byte* w[R];
  const float* x[M];
};

// The products of 32 columns. The rows take turns vector by vector, so that none waits for its own
// last addition.
template <class Format, int R, int M>
inline void add_products(const Format (&block)[R], int g, const Rows<R, M>& rows, int64_t k,
                         Vec (&total)[R][M]) {
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
    Vec w[R][kHalf];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) unpack_half(block[r], g, half, w[r]);
#pragma GCC unroll 4
    for (int s = 0; s < kHalf; ++s) {
      const int64_t at = k + (half * kHalf + s) * Vec::lanes;
#pragma GCC unroll 4
      for (int i = 0; i < M; ++i) {
        const Vec x = Vec::load(rows.x[i] + at);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) total[r][i] = mul_add(x, w[r][s], total[r][i]);
      }
    }
  }
}

// sums[r][i] = the products of one block of columns, [first, first + cols).
template <class Format, int R, int M>
inline void direct_block(const Rows<R, M>& rows, int64_t first, int64_t cols, float (&sums)[R][M]) {
  const std::byte* w[R];
  for (int r = 0; r < R; ++r) w[r] = rows.w[r] + format_bytes<Format>(first);
  Vec total[R][M];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int i = 0; i < M; ++i) total[r][i] = Vec::zero();

  int64_t k = first;
  const int64_t end = first + cols;
  for (; k + Format::kElements <= end; k += Format::kElements) {
    Format block[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      block[r] = Format(w[r]);
      w[r] += Format::kBytes;
    }
    for (int g = 0; g < Format::kElements / kGroup; ++g)
      add_products(block, g, rows, k + g * kGroup, total);
  }
  if constexpr (kPlain<Format>) {
    for (; k < end; k += Vec::lanes) {
      const int n = static_cast<int>(end - k < Vec::lanes ? end - k : Vec::lanes);
      for (int r = 0; r < R; ++r) {
        const Vec v = Format::part(w[r], n);
        w[r] += format_bytes<Format>(n);
        for (int i = 0; i < M; ++i)
          total[r][i] = mul_add(Vec::load_part(rows.x[i] + k, n), v, total[r][i]);
      }
    }
  }
  for (int r = 0; r < R; ++r)
    for (int i = 0; i < M; ++i) sums[r][i] = sum(total[r][i]);
}

// Rows of weights are taken in strips, a block of columns at a time, so that the same block of four
// activation rows is met again before it leaves the first-level cache. With one or two rows that
// is not worth leaving the order in which the weights lie.
template <class Format, int R, int M>
void direct(const MatmulJob& job) {
  constexpr int64_t kStrip = M > 2 ? 32 : R;
  const int64_t row_bytes = format_bytes<Format>(job.cols);
  const int64_t end = job.row0 + job.rows;
  Rows<R, M> rows;
  for (int64_t i = 0; i < M; ++i) rows.x[i] = job.x + least(i, job.m - 1) * job.x_stride;
  for (int64_t strip = job.row0; strip < end; strip += kStrip) {
    const int64_t strip_rows = least(kStrip, end - strip);
    float total[kStrip][M];
    for (int64_t first = 0; first < job.cols; first += kBlockCols) {
      const int64_t cols = least(kBlockCols, job.cols - first);
      for (int64_t row = 0; row < strip_rows; row += R) {
        for (int r = 0; r < R; ++r)
          rows.w[r] = job.w + (strip + least(row + r, strip_rows - 1)) * row_bytes;
        if (kStrip > R && row + R < strip_rows) {
          for (int r = 0; r < R; ++r) prefetch<Format>(rows.w[r] + R * row_bytes, first, cols);
        }
        float sums[R][M];
        direct_block<Format>(rows, first, cols, sums);
        for (int r = 0; r < R; ++r)
          for (int i = 0; i < M; ++i)
            total[row + r][i] = first ? total[row + r][i] + sums[r][i] : sums[r][i];
      }
    }
    for (int64_t r = 0; r < strip_rows; ++r)
      for (int64_t i = 0; i < M && i < job.m; ++i)
        job.out[i * job.out_stride + strip + r] = total[r][i];
  }
}

// ---- many activation rows

// Copies activation rows [first_row, first_row + rows), columns [first, first + cols), one after
// the other and padded with zeros to `width`: rows of a power of two apart would all fall into
// the same few sets of the first-level cache.
inline void pack_rows(const MatmulJob& job, int64_t first_row, int64_t rows, int64_t first,
                      int64_t cols, int64_t width, float* to) {
  for (int64_t i = 0; i < rows; ++i) {
    const float* from = job.x + (first_row + i) * job.x_stride + first;
    float* row = to + i * width;
    for (int64_t k = 0; k < width; k += Vec::lanes) {
      const int64_t rest = cols - k;
      store(row + k, rest >= Vec::lanes ? Vec::load(from + k)
                                        : Vec::load_part(from + k, static_cast<int>(rest)));
    }
  }
}

template <class Format>
void unpack_panel(const MatmulJob& job, int64_t row, int64_t rows, int64_t first, int64_t cols,
                  int64_t width, float* to) {
  const int64_t row_bytes = format_bytes<Format>(job.cols);
  const std::byte* w = job.w + row * row_bytes;
  for (int64_t r = 0; r < rows; ++r, to += width, w += row_bytes) {
    if (row + r + 1 < job.row0 + job.rows) prefetch<Format>(w + row_bytes, first, cols);
    each_vector<Format>(w + format_bytes<Format>(first), cols,
                        [to](Vec v, int64_t k) { store(to + k, v); });
  }
  // The last tile is computed whole.
  for (int64_t i = 0; i < (round_up(rows, kTileW) - rows) * width; i += Vec::lanes)
    store(to + i, Vec::zero());
}

// sums[i][j] = x[i] . w[j] over `width` columns.
template <int X>
inline void tile(const float* x, const float* w, int64_t width, float (&sums)[kTileX][kTileW]) {
  Vec total[X][kTileW];
#pragma GCC unroll 6
  for (int i = 0; i < X; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < kTileW; ++j) total[i][j] = Vec::zero();
  for (int64_t k = 0; k < width; k += Vec::lanes) {
    Vec a[X];
#pragma GCC unroll 6
    for (int i = 0; i < X; ++i) a[i] = Vec::load(x + i * width + k);
#pragma GCC unroll 4
    for (int j = 0; j < kTileW; ++j) {
      const Vec b = Vec::load(w + j * width + k);
#pragma GCC unroll 6
      for (int i = 0; i < X; ++i) total[i][j] = mul_add(a[i], b, total[i][j]);
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < X; ++i) sum4(total[i], sums[i]);
}

inline void tile(int rows, const float* x, const float* w, int64_t width,
                 float (&sums)[kTileX][kTileW]) {
  switch (rows) {
    case 1:
      return tile<1>(x, w, width, sums);
    case 2:
      return tile<2>(x, w, width, sums);
    case 3:
      return tile<3>(x, w, width, sums);
    default:
      break;
  }
  if constexpr (kTileX > 3) {
    if (rows == 4) return tile<4>(x, w, width, sums);
    if (rows == 5) return tile<5>(x, w, width, sums);
    tile<6>(x, w, width, sums);
  }
}

// The sums of a block of columns are the output, or are added to it.
inline void add_sums(const float (&sums)[kTileW], int64_t columns, bool first, float* out) {
  if (columns == kTileW) {  // a count the compiler knows: one vector
    if (first) {
      for (int j = 0; j < kTileW; ++j) out[j] = sums[j];
    } else {
      for (int j = 0; j < kTileW; ++j) out[j] += sums[j];
    }
    return;
  }
  for (int64_t j = 0; j < columns; ++j) out[j] = first ? sums[j] : out[j] + sums[j];
}

// Packed activations times a panel: out is at the first of both.
inline void multiply_panel(const float* x, int64_t x_rows, const float* w, int64_t w_rows,
                           int64_t width, bool first, float* out, int64_t out_stride) {
  for (int64_t x0 = 0; x0 < x_rows; x0 += kBlockX) {
    const int64_t x_end = least(x0 + kBlockX, x_rows);
    for (int64_t j0 = 0; j0 < w_rows; j0 += kTileW) {
      const int64_t columns = least(kTileW, w_rows - j0);
      for (int64_t i0 = x0; i0 < x_end; i0 += kTileX) {
        const int64_t rows = least(kTileX, x_end - i0);
        float sums[kTileX][kTileW];
        tile(static_cast<int>(rows), x + i0 * width, w + j0 * width, width, sums);
        for (int64_t i = 0; i < rows; ++i)
          add_sums(sums[i], columns, first, out + (i0 + i) * out_stride + j0);
      }
    }
  }
}

template <class Format>
void through_panels(const MatmulJob& job) {
  const auto misaligned = reinterpret_cast<uintptr_t>(job.scratch) % 64;
  float* packed = job.scratch + (misaligned ? (64 - misaligned) / sizeof(float) : 0);
  for (int64_t first = 0; first < job.cols; first += kBlockCols) {
    const int64_t cols = least(kBlockCols, job.cols - first);
    const int64_t width = round_up(cols, Vec::lanes);
    float* panel = packed + kChunkX * width;
    for (int64_t i = 0; i < job.m; i += kChunkX) {
      const int64_t x_rows = least(kChunkX, job.m - i);
      pack_rows(job, i, x_rows, first, cols, width, packed);
      // Few activations: each tile of weights is needed once, fresh from the first-level cache.
      const int64_t panel_rows = x_rows > kBlockX ? kPanelRows : kTileW;
      for (int64_t r = 0; r < job.rows; r += panel_rows) {
        const int64_t rows = least(panel_rows, job.rows - r);
        unpack_panel<Format>(job, job.row0 + r, rows, first, cols, width, panel);
        multiply_panel(packed, x_rows, panel, rows, width, first == 0,
                       job.out + i * job.out_stride + job.row0 + r, job.out_stride);
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
  with_format(job.dtype, [&]<class Format>() {
    if (job.m == 1) return direct<Format, 4, 1>(job);
    if (job.m == 2) return direct<Format, 4, 2>(job);
    if (job.m <= kDirectX) return direct<Format, 2, 4>(job);
    through_panels<Format>(job);
  });
}

}  // namespace PITH_TARGET
}  // namespace
}  // namespace pith

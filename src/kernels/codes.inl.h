// Weight matrices in GGUF blocks times activations coded in 8 bits: the products of a block of 32
// columns are summed as integers, exactly, and a sum enters the result with one rounding of the
// scale and one fused addition, block by block from the first column to the last. Formats with a
// minimum add its part of the block with one more. So a result has the same bits on every target,
// and whatever else is in the call.
//
// Activations are coded by code_activations, in groups of kCodedRows rows: for each block of 32
// columns the codes [kCodedRows][32], a scale per row, and a word per row that depends on the
// format of the weights: how the sum of the codes enters (Kind below).
//
// Weights are unpacked, some 512 columns of kTileVectors * lanes rows at a time, into a panel that
// stays in the first-level cache, and the groups of activations run over it. A lane is a row of
// weights: four activations at a time are the same in all lanes. For each block of 32 columns and
// each vector of rows the panel has the codes [8][lanes][4] (with their signs where a target wants
// codes of eight bits so), then its scales, `lanes` words each. One or two rows of activations meet
// weights as they are read, without a panel.
#pragma once

#include "kernels/codes_halves.inl.h"
#include "kernels/codes_scales.inl.h"

namespace pith {
namespace {
namespace PITH_TARGET {

// What a format's sums need besides the scale. Formats with an offset have `raw` codes that are too
// high by it: kOffset times the sum of the activations is taken off. kSixteens: an integer scale
// for every 16 columns, below a float scale.
template <class Format>
struct Kind {
  // By these names a template may call what only some targets have.
  using Rows = Bytes;
  using Quads = Codes;
  static constexpr bool kMin = Format::kOffset == 0;
  static constexpr bool kSixteens = requires { Format::kSixteens; };
  // Codes less their offset are what counts: there is no excess to take off.
  static constexpr bool kSigned = kSignedBytes && Format::kBits == 8;
  static_assert(!kSigned || (Format::kOffset == 128 && !kSixteens));
  static constexpr int kSteps = code_steps(Format::kBits);
  // Steps whose sum is taken before it is widened or scaled.
  static constexpr int kSpan = kSigned ? 8 : kSixteens && kSteps > 4 ? 4 : kSteps;
  static constexpr int kCodeBytes = 8 * kLaneBytes;
  // scale, min | scale, first, second, offsets or mins, min
  static constexpr int kWords = (kSixteens ? 4 : 1) + (kMin ? 1 : 0);
  static constexpr int kBytes = kCodeBytes + kWords * kLaneBytes;  // of a vector
  static constexpr int kBlock = kTileVectors * kBytes;
  static constexpr int64_t kGroupBlock = kCodedRows * (kGroup + 2 * int64_t{4});  // of activations
};
template <class Format>
requires kHalves<Format>
struct Kind<Format> : HalfKind {
};
template <class Format>
constexpr bool kCoded = !kPlain<Format> || kHalves<Format>;

// A panel of halves is the largest.
constexpr int kMostPanelBlock = HalfKind::kBlock;
static_assert(kMostPanelBlock >= kTileVectors * (8 + 5) * kLaneBytes);

inline size_t coded_scratch() {  // floats
  return static_cast<size_t>(kChunkBlocks * kMostPanelBlock + 64) / sizeof(float);
}

// ---- activations

inline size_t coded_bytes(DType dtype, int64_t rows, int64_t cols) {
  const bool halves = dtype == DType::f16 || dtype == DType::bf16;
  const int64_t block = halves ? HalfKind::kGroupBlock : Kind<FormatQ80>::kGroupBlock;
  return static_cast<size_t>((rows + kCodedRows - 1) / kCodedRows * (cols / kGroup) * block);
}

template <class Format>
void code_rows(const float* x, int64_t x_stride, int64_t rows, int64_t cols, std::byte* to) {
  const int64_t blocks = cols / kGroup;
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t r = i % kCodedRows;
    std::byte* at = to + i / kCodedRows * blocks * Kind<Format>::kGroupBlock;
    for (int64_t b = 0; b < blocks; ++b, at += Kind<Format>::kGroupBlock) {
      const CodedBlock block = code_block<127>(x + i * x_stride + b * kGroup, at + r * kGroup);
      std::byte* words = at + kCodedRows * kGroup + 4 * r;
      __builtin_memcpy(words, &block.scale, 4);
      words += 4 * kCodedRows;
      if constexpr (Kind<Format>::kSixteens) {
        const int16_t pair[2] = {static_cast<int16_t>(block.sums[0]),
                                 static_cast<int16_t>(block.sums[1])};
        __builtin_memcpy(words, pair, 4);
      } else if constexpr (Kind<Format>::kMin) {
        const float scaled = block.scale * static_cast<float>(block.sums[0] + block.sums[1]);
        __builtin_memcpy(words, &scaled, 4);
      } else {
        const int32_t excess = -Format::kOffset * (block.sums[0] + block.sums[1]);
        __builtin_memcpy(words, &excess, 4);
      }
    }
  }
}

// ---- panels of weights

// Blocks [first, first + blocks) of 32 columns of kPanelColumns rows of weights from `row` on; rows
// behind the last repeat it.
template <class Format>
__attribute__((noinline)) void unpack_codes(const CodedJob& job, int64_t row, int64_t first,
                                            int64_t blocks, std::byte* to) {
  using K = Kind<Format>;
  constexpr int kGroups = Format::kElements / kGroup;
  const int64_t row_bytes = format_bytes<Format>(job.cols);
  // The rows of the next panel are asked for in the order in which they lie, as much at each step
  // as is read here: without it one row of activations waits for memory three times as long.
  const std::byte* next =
      job.w + (row + kPanelColumns) * row_bytes + first / kGroups * kPanelColumns * Format::kBytes;
  for (int v = 0; v < kTileVectors; ++v) {
    Column at;
    for (int r = 0; r < kLanes; ++r) {
      int64_t from = row + v * kLanes + r;
      if (from >= job.row0 + job.rows) from = job.row0 + job.rows - 1;
      at.row[r] = job.w + from * row_bytes + first / kGroups * Format::kBytes;
    }
    std::byte* panel = to + v * K::kBytes;
    for (int64_t b = 0; b < blocks; b += kGroups, panel += kGroups * K::kBlock) {
      for (int64_t line = 0; line < kLanes * Format::kBytes; line += 64)
        __builtin_prefetch(next + line, 0, 2);
      next += kLanes * Format::kBytes;
      for (int g = 0; g < kGroups; ++g) {
        constexpr int kSources = kLanes / kRowsAtOnce;
        Bytes low[kSources], high[kSources];
#pragma GCC unroll 16
        for (int r = 0; r < kSources; ++r) {
          const Source rows = source(at.row, r);
          low[r] = Format::raw(rows, g, 0);
          high[r] = Format::raw(rows, g, 1);
        }
        spread<K::kSigned>(low, high, panel + g * K::kBlock);
      }
      put_scales(Of<Format>{}, at, panel + K::kCodeBytes, K::kBlock);
      for (int r = 0; r < kLanes; ++r) at.row[r] += Format::kBytes;
    }
  }
}

// ---- products

// The exact sums of a block, with the integer scales of formats that have them. code(v, at) is the
// at-th step of vector v, side(v) its words.
template <class Format, int R, int V, class Code, class Side>
inline void block_sums(const std::byte* x, Code code, Side side, IVec (&total)[R][V]) {
  using K = Kind<Format>;
  constexpr int kSpan = K::kSpan;
  using Sum = SumOf<K::kSigned>;
#pragma GCC unroll 8
  for (int run = 0; run < 8 / kSpan; ++run) {
    Sum sums[R][V];
#pragma GCC unroll 8
    for (int step = 0; step < kSpan; ++step) {
      const int at = run * kSpan + step;
      Codes w[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) w[v] = code(v, at);
#pragma GCC unroll 4
      for (int i = 0; i < R; ++i) {
        const Quad a = Quad::all(x + i * kGroup + 4 * at);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          if (step == 0)
            sums[i][v] = Sum::first(w[v], a);
          else
            sums[i][v].add(w[v], a);
        }
      }
    }
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      IVec scale;
      if constexpr (K::kSixteens)
        scale =
            IVec::load(reinterpret_cast<const int32_t*>(side(v)) + (1 + run * kSpan / 4) * kLanes);
#pragma GCC unroll 4
      for (int i = 0; i < R; ++i) {
        IVec sum;
        if constexpr (K::kSixteens)
          sum = sums[i][v].total(scale);
        else
          sum = sums[i][v].total();
        total[i][v] = run == 0 ? sum : total[i][v] + sum;
      }
    }
  }
}

// Takes the sums of a block into the results of one vector of rows of weights.
template <class Format, int R, int V>
inline void add_block(const std::byte* x, const float* side, int v, IVec (&total)[R][V],
                      Vec (&acc)[R][V]) {
  using K = Kind<Format>;
  const std::byte* scales = x + kCodedRows * kGroup;
  const std::byte* words = scales + 4 * kCodedRows;
  const Vec scale = Vec::load(side);
#pragma GCC unroll 4
  for (int i = 0; i < R; ++i) {
    const Vec unit = Vec::all(word<float>(scales + 4 * i));
    IVec sum = total[i][v];
    if constexpr (K::kSixteens) {
      const IVec part = pair_dot(IVec::load(reinterpret_cast<const int32_t*>(side + 3 * kLanes)),
                                 IVec::all(word<int32_t>(words + 4 * i)));
      if constexpr (K::kMin) {
        acc[i][v] = fused(to_float(sum), scale * unit, acc[i][v]);
        acc[i][v] = fused(to_float(part), Vec::load(side + 4 * kLanes) * unit, acc[i][v]);
      } else {
        acc[i][v] = fused(to_float(sum - part), scale * unit, acc[i][v]);
      }
    } else if constexpr (K::kMin) {
      acc[i][v] = fused(to_float(sum), scale * unit, acc[i][v]);
      acc[i][v] = fused(Vec::load(side + kLanes), Vec::all(word<float>(words + 4 * i)), acc[i][v]);
    } else {
      if constexpr (!K::kSigned) sum = sum + IVec::all(word<int32_t>(words + 4 * i));
      acc[i][v] = fused(to_float(sum), scale * unit, acc[i][v]);
    }
  }
}

// acc += R rows of activations times a panel.
template <class Format, int R>
inline void coded_tile(const std::byte* x, const std::byte* panel, int64_t blocks,
                       Vec (&acc)[R][kTileVectors]) {
  using K = Kind<Format>;
  for (int64_t b = 0; b < blocks; ++b, x += K::kGroupBlock, panel += K::kBlock) {
    const auto side = [&](int v) {
      return reinterpret_cast<const float*>(panel + v * K::kBytes + K::kCodeBytes);
    };
    IVec total[R][kTileVectors];
    block_sums<Format>(
        x, [&](int v, int at) { return Codes::load(panel + v * K::kBytes + at * kLaneBytes); },
        side, total);
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v) add_block<Format>(x, side(v), v, total, acc);
  }
}

// Adds a chunk of columns to `columns` results of R rows, or starts them.
template <class Format, int R>
__attribute__((noinline)) void coded_results(const std::byte* x, const std::byte* panel,
                                             int64_t blocks, bool start, int64_t columns,
                                             float* out, int64_t out_stride) {
  Vec acc[R][kTileVectors];
  for (int i = 0; i < R; ++i)
    for (int v = 0; v < kTileVectors; ++v) {
      const int64_t n = columns - v * kLanes;
      const float* at = out + i * out_stride + v * kLanes;
      if (start || n <= 0)
        acc[i][v] = Vec::zero();
      else
        acc[i][v] = n >= kLanes ? Vec::load(at) : Vec::load_part(at, static_cast<int>(n));
    }
  if constexpr (kHalves<Format>)
    halves_tile(x, panel, blocks, acc);
  else
    coded_tile<Format, R>(x, panel, blocks, acc);
  for (int i = 0; i < R; ++i)
    for (int v = 0; v < kTileVectors; ++v) {
      const int64_t n = columns - v * kLanes;
      float* at = out + i * out_stride + v * kLanes;
      if (n >= kLanes)
        store(at, acc[i][v]);
      else if (n > 0)
        store_part(at, static_cast<int>(n), acc[i][v]);
    }
}

// All activations times kPanelColumns rows of weights and a chunk of columns.
template <class Format>
void coded_panel(const CodedJob& job, int64_t row, int64_t first, int64_t blocks,
                 std::byte* panel) {
  if constexpr (kHalves<Format>)
    unpack_halves<Format>(job, row, first, blocks, panel);
  else
    unpack_codes<Format>(job, row, first, blocks, panel);
  const int64_t columns = job.row0 + job.rows - row;
  const std::byte* x = job.x + first * Kind<Format>::kGroupBlock;
  float* out = job.out + row;
  for (int64_t i = 0; i < job.m; i += kCodedRows) {
    const auto run = [&]<int R>() {
      coded_results<Format, R>(x, panel, blocks, first == 0, columns, out, job.out_stride);
    };
    switch (job.m - i) {
      case 1:
        run.template operator()<1>();
        break;
      case 2:
        run.template operator()<2>();
        break;
      case 3:
        run.template operator()<3>();
        break;
      default:
        run.template operator()<4>();
    }
    x += job.cols / kGroup * Kind<Format>::kGroupBlock;
    out += kCodedRows * job.out_stride;
    // Rows of results are a power of two apart more often than not, so they fall out of caches.
    if (job.m - i > kCodedRows)
      for (int r = 0; r < kCodedRows; ++r) __builtin_prefetch(out + r * job.out_stride, 1);
  }
}

// ---- few rows of activations

// Formats of plain nibbles, whose bytes hold codes of both halves of a group or of two groups.
template <class Format>
constexpr bool kHighNibbleHalf = requires {
  requires Format::kHighNibble == 16;
};
template <class Format>
constexpr bool kHighNibbleGroup = requires {
  requires Format::kHighNibble == 32;
};
// Formats of six bits, with nibbles of two groups and the other bits of four in a byte.
template <class Format>
constexpr bool kHighNibblePair = requires {
  requires Format::kHighNibble == 64;
};

// What `read` gives of a half of all rows, as vectors of `lanes` rows.
template <class K, class Read>
inline void quads_of(const Column& at, int half, Read read, typename K::Quads* to) {
  constexpr int kSources = kLanes / kRowsAtOnce;
  typename K::Rows x[kSources];
#pragma GCC unroll 16
  for (int r = 0; r < kSources; ++r) x[r] = read(source(at.row, r), half);
  spread(x, to);
}

// Codes of `lanes` rows and 32 columns, as a panel has them.
template <class Format>
inline void codes_of(const Column& at, int g, Codes (&to)[8]) {
  using K = Kind<Format>;
  constexpr int kSources = kLanes / kRowsAtOnce;
  Bytes low[kSources], high[kSources];
#pragma GCC unroll 16
  for (int r = 0; r < kSources; ++r) {
    const Source rows = source(at.row, r);
    low[r] = Format::raw(rows, g, 0);
    high[r] = Format::raw(rows, g, 1);
  }
  alignas(64) std::byte codes[K::kCodeBytes];
  spread<K::kSigned>(low, high, codes);
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) to[i] = Codes::load(codes + i * kLaneBytes);
}

// block_sums of codes in registers. (As a parameter of that one g++ 12 keeps them in memory.)
template <class Format, int R>
inline void row_sums(const std::byte* x, const Codes (&codes)[8], const float* side,
                     IVec (&total)[R][1]) {
  using K = Kind<Format>;
  constexpr int kSpan = K::kSpan;
  using Sum = SumOf<K::kSigned>;
#pragma GCC unroll 8
  for (int run = 0; run < 8 / kSpan; ++run) {
    IVec scale;
    if constexpr (K::kSixteens)
      scale = IVec::load(reinterpret_cast<const int32_t*>(side) + (1 + run * kSpan / 4) * kLanes);
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) {
      Sum sums = Sum::first(codes[run * kSpan], Quad::all(x + i * kGroup + 4 * run * kSpan));
#pragma GCC unroll 8
      for (int at = run * kSpan + 1; at < (run + 1) * kSpan; ++at)
        sums.add(codes[at], Quad::all(x + i * kGroup + 4 * at));
      IVec sum;
      if constexpr (K::kSixteens)
        sum = sums.total(scale);
      else
        sum = sums.total();
      total[i][0] = run == 0 ? sum : total[i][0] + sum;
    }
  }
}

// The same sums as those of a panel, without one: `lanes` rows of weights at a time are met as they
// are read.
template <class Format, int R>
[[gnu::noinline]] void coded_rows(const CodedJob& job) {
  using K = Kind<Format>;
  constexpr int kGroups = Format::kElements / kGroup;
  constexpr int64_t kSide = K::kWords * kLaneBytes;
  const int64_t row_bytes = format_bytes<Format>(job.cols), end = job.row0 + job.rows;
  for (int64_t row = job.row0; row < end; row += kLanes) {
    Column at;
    for (int r = 0; r < kLanes; ++r)
      at.row[r] = job.w + (row + r < end ? row + r : end - 1) * row_bytes;
    const std::byte* next = at.row[0] + kPrefetchRows * row_bytes;
    const std::byte* x = job.x;
    Vec acc[R][1];
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) acc[i][0] = Vec::zero();
    for (int64_t b = 0; b < job.cols / Format::kElements; ++b) {
      for (int64_t line = 0; line < kLanes * Format::kBytes; line += 64)
        __builtin_prefetch(next + line, 0, 3);
      next += kLanes * Format::kBytes;
      alignas(64) std::byte sides[kGroups * kSide];
      put_scales(Of<Format>{}, at, sides, kSide);
      const auto side = [&](int g) { return reinterpret_cast<const float*>(sides + g * kSide); };
      IVec total[R][1];
      if constexpr (kSpreadsInRegisters && kHighNibbleGroup<Format>) {
        // Nibbles of two groups share bytes, which are turned to lanes before they are split.
#pragma GCC unroll 4
        for (int g = 0; g < kGroups; g += 2) {
          typename K::Quads both[8];
          const auto read = [&](auto rows, int half) { return Format::both(rows, g, half); };
          quads_of<K>(at, 0, read, both);
          quads_of<K>(at, 1, read, both + 4);
#pragma GCC unroll 2
          for (int high = 0; high < 2; ++high, x += K::kGroupBlock) {
            typename K::Quads codes[8];
#pragma GCC unroll 8
            for (int q = 0; q < 8; ++q) codes[q] = nibbles_of(both[q], high == 1);
            row_sums<Format>(x, codes, side(g + high), total);
            add_block<Format>(x, side(g + high), 0, total, acc);
          }
        }
      } else if constexpr (kSpreadsInRegisters && kHighNibblePair<Format>) {
        for (int g = 0; g < kGroups; g += 4) {
          typename K::Quads both[2][8], pairs[8];
#pragma GCC unroll 2
          for (int half = 0; half < 2; ++half) {
            const auto first = [&](auto rows, int h) { return Format::both(rows, g, h); };
            const auto second = [&](auto rows, int h) { return Format::both(rows, g + 1, h); };
            const auto upper = [&](auto rows, int h) { return Format::pairs(rows, g, h); };
            quads_of<K>(at, half, first, both[0] + 4 * half);
            quads_of<K>(at, half, second, both[1] + 4 * half);
            quads_of<K>(at, half, upper, pairs + 4 * half);
          }
#pragma GCC unroll 4
          for (int of = 0; of < 4; ++of, x += K::kGroupBlock) {
            typename K::Quads codes[8];
#pragma GCC unroll 8
            for (int q = 0; q < 8; ++q) codes[q] = six_bits_of(both[of % 2][q], pairs[q], of);
            row_sums<Format>(x, codes, side(g + of), total);
            add_block<Format>(x, side(g + of), 0, total, acc);
          }
        }
      } else {
#pragma GCC unroll 8
        for (int g = 0; g < kGroups; ++g, x += K::kGroupBlock) {
          const auto raw = [&](auto rows, int half) { return Format::raw(rows, g, half); };
          typename K::Quads codes[8];
          if constexpr (kSpreadsInRegisters && kHighNibbleHalf<Format>) {
            typename K::Quads both[4];
            const auto read = [&](auto rows, int half) { return Format::both(rows, g, half); };
            quads_of<K>(at, 0, read, both);
#pragma GCC unroll 8
            for (int q = 0; q < 8; ++q) codes[q] = nibbles_of(both[q % 4], q >= 4);
          } else if constexpr (kSpreadsInRegisters) {
            quads_of<K>(at, 0, raw, codes);
            quads_of<K>(at, 1, raw, codes + 4);
            if constexpr (K::kSigned) {
#pragma GCC unroll 8
              for (int q = 0; q < 8; ++q) codes[q] = signed_of(codes[q]);
            }
          } else {
            codes_of<Format>(at, g, codes);
          }
          row_sums<Format>(x, codes, side(g), total);
          add_block<Format>(x, side(g), 0, total, acc);
        }
      }
      for (int r = 0; r < kLanes; ++r) at.row[r] += Format::kBytes;
    }
    const int64_t columns = end - row;
    for (int i = 0; i < R; ++i) {
      float* to = job.out + i * job.out_stride + row;
      if (columns >= kLanes)
        store(to, acc[i][0]);
      else
        store_part(to, static_cast<int>(columns), acc[i][0]);
    }
  }
}

template <class Format>
void coded_products(const CodedJob& job) {
  if constexpr (kHalves<Format>) {
    if (job.m == 1) return halves_rows<Format, 1>(job);
    if (job.m == 2) return halves_rows<Format, 2>(job);
  } else {
    if (job.m == 1) return coded_rows<Format, 1>(job);
    if (job.m == 2) return coded_rows<Format, 2>(job);
  }
  const auto misaligned = reinterpret_cast<uintptr_t>(job.scratch) % 64;
  auto* panel = reinterpret_cast<std::byte*>(job.scratch) + (misaligned ? 64 - misaligned : 0);
  const int64_t blocks = job.cols / kGroup, end = job.row0 + job.rows;
  const auto chunk = [&](int64_t row, int64_t first) {
    const int64_t rest = blocks - first;
    coded_panel<Format>(job, row, first, rest < kChunkBlocks ? rest : kChunkBlocks, panel);
  };
  // Many activations: a chunk of their columns stays in the second-level cache while the panels
  // pass. Few: weights are read in the order in which they lie.
  if (job.m > 64) {
    for (int64_t first = 0; first < blocks; first += kChunkBlocks)
      for (int64_t row = job.row0; row < end; row += kPanelColumns) chunk(row, first);
  } else {
    for (int64_t row = job.row0; row < end; row += kPanelColumns)
      for (int64_t first = 0; first < blocks; first += kChunkBlocks) chunk(row, first);
  }
}

inline void code_activations(DType dtype, const float* x, int64_t x_stride, int64_t rows,
                             int64_t cols, std::byte* to) {
  with_format(dtype, [&]<class Format>() {
    if constexpr (kHalves<Format>)
      code_for_halves(x, x_stride, rows, cols, to);
    else if constexpr (kCoded<Format>)
      code_rows<Format>(x, x_stride, rows, cols, to);
  });
}

inline void matmul_coded(const CodedJob& job) {
  if (job.m <= 0 || job.rows <= 0) return;
  if (job.cols <= 0) {
    for (int64_t i = 0; i < job.m; ++i)
      for (int64_t r = 0; r < job.rows; ++r) job.out[i * job.out_stride + job.row0 + r] = 0;
    return;
  }
  with_format(job.dtype, [&]<class Format>() {
    if constexpr (kCoded<Format>) coded_products<Format>(job);
  });
}

}  // namespace PITH_TARGET
}  // namespace
}  // namespace pith

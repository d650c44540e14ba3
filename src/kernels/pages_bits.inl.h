// Pages of few-bit codes between a least and a largest number (KIVI, arXiv:2402.02750):
//
//   x = least + step * code,  code = 0 .. 2^Bits - 1,  least and step in f16
//
//   keys     share least and step per channel, over all rows of the page (which is the group)
//   values   share them per row, over `group` columns
//
// Codes lie in 32-bit words, two numbers of 16 bits side by side in every word once it is shifted
// and masked: what a multiply-add of pairs wants. A word belongs to a row of keys and holds
// columns, so 16 rows are 16 words; or to a column of values and holds rows.
//
//   keys     page = f16 steps, f16 leasts (columns up to a multiple of 16 each), then tiles of 16
//            rows; a tile = for each unit of columns kWords times the words of rows 0 .. 15
//   values   page = tiles of kRows rows; a tile = for each group kRows f16 steps and kRows f16
//            leasts, then for each unit of rows kWords times the words of all columns, up to a
//            multiple of 16
//
// Queries take the steps of a page's channels, weights those of its rows, and are rounded to 16
// bits after that, as in pages_int8.inl.h: products and their sums are exact. What the leasts add
// is one float per page (keys) or per 64 rows and group (values).
//
// least is the f16 nearest to the smallest number and step the f16 nearest to a (2^Bits - 1)th of
// the way to the largest. Numbers beyond +-65504 count as that, NaN as the least of these. So
//   |decoded - x| <= max(step / 2 (1 + 2^-20), 2^-11 |least| + 2^-25, (2^Bits - 1) 2^-25),
//   step <= (largest - smallest + 2^-11 |least|) / (2^Bits - 1) * (1 + 2^-11) + 2^-25.
#pragma once

#include "kernels/cut.inl.h"
#include "kernels/pages_int8.inl.h"
#include "kernels/table.h"
#include PITH_VEC

namespace pith {
namespace {
namespace PITH_TARGET {

constexpr int kBitsRows = 16;      // of a tile of keys
constexpr int kBitsColumns = 256;  // of keys whose sum is an integer
constexpr int kBitsSum = 64;       // rows of values whose weights share a unit
// 32767 * 255 * 256 columns are below 2^31.

template <int I>
struct Number {
  static constexpr int value = I;
};

// Calls run(Number<n>, first) for runs of 4, 2 or 1 heads.
template <class Run>
inline void by_runs(int heads, const Run& run) {
  int h = 0;
  if constexpr (kInt8Heads > 1) {
    for (; h + 4 <= heads; h += 4) run(Number<4>(), h);
    if (h + 2 <= heads) {
      run(Number<2>(), h);
      h += 2;
    }
  }
  for (; h < heads; ++h) run(Number<1>(), h);
}

// How a run of codes lies in its words. Pair i of a run is codes 2 i and 2 i + 1, in the lower and
// the upper half of a word at the same place: the lower bits of a code in one of kParts words, the
// upper ones, if its bits do not divide 16, in a word behind them.
template <int Bits>
struct CodeRun {
  static constexpr int kLow = Bits == 3 ? 2 : Bits == 6 ? 4 : Bits, kHigh = Bits - kLow;
  static constexpr int kParts = kHigh > 0 ? 2 : 1, kWords = kHigh > 0 ? 3 : 1;
  static constexpr int kPerPart = 16 / kLow;  // pairs of a word
  static constexpr int kPairs = kParts * kPerPart, kCodes = 2 * kPairs;
  static_assert(kHigh == 0 || kPairs * kHigh == 16);
  static constexpr int32_t mask(int bits) { return ((1 << bits) - 1) * 0x10001; }

  // The next pair, from the lowest bits up; the words are shifted past it.
  static IVec take(IVec& low, IVec& high) {
    IVec pair = low & IVec::all(mask(kLow));
    low = shift_right<kLow>(low);
    if constexpr (kHigh > 0) {
      pair = pair | shift_left<kLow>(high & IVec::all(mask(kHigh)));
      high = shift_right<kHigh>(high);
    }
    return pair;
  }
  // Puts a pair in front of those behind it: to be called from the last pair to the first.
  static void put(IVec* words, int i, IVec pair) {
    IVec& word = words[i / kPerPart];
    if constexpr (kHigh > 0) {
      const IVec high = shift_right<kLow>(pair) & IVec::all(mask(kHigh));
      words[2] = shift_left<kHigh>(words[2]) | high;
      pair = pair & IVec::all(mask(kLow));
    }
    word = shift_left<kLow>(word) | pair;
  }

  // One code.
  static void put(uint32_t* words, int i, uint32_t code) {
    const int pair = i / 2, half = 16 * (i % 2);
    words[pair / kPerPart] |= (code & ((1u << kLow) - 1)) << (kLow * (pair % kPerPart) + half);
    if constexpr (kHigh > 0) words[2] |= code >> kLow << (kHigh * pair + half);
  }
  static int get(const uint32_t* words, int i) {
    const int pair = i / 2, half = 16 * (i % 2);
    const uint32_t low = words[pair / kPerPart] >> (kLow * (pair % kPerPart) + half);
    uint32_t code = low & ((1u << kLow) - 1);
    if constexpr (kHigh > 0)
      code |= (words[2] >> (kHigh * pair + half) & ((1u << kHigh) - 1)) << kLow;
    return static_cast<int>(code);
  }
};

inline int64_t bits_padded(int columns) {
  return static_cast<int64_t>(columns + 15) / 16 * 16;
}

inline Vec bits_given(const float* x, int part) {
  const Vec given = part < Vec::lanes ? Vec::load_part(x, part) : Vec::load(x);
  return min(max(given, Vec::all(-kMostHalf)), Vec::all(kMostHalf));
}

// The smallest and the largest of n numbers of a row.
inline void reach_of(const float* x, int n, float& low, float& high) {
  Vec least = Vec::all(kMostHalf), most = Vec::all(-kMostHalf);
  for (int i = 0; i < n; i += Vec::lanes) {
    const Mask in = first_lanes(int8_lesser(Vec::lanes, n - i));
    const Vec given = bits_given(x + i, n - i);
    least = select(in, min(given, least), least);
    most = select(in, max(given, most), most);
  }
  low = -largest(Vec::zero() - least);
  high = largest(most);
}

inline float rounded_half(float x, std::byte* to) {
  store_f16_part(to, 1, Vec::all(x));
  return load_half(to);
}

// The f16 least and step of numbers that reach from `lowest` to `highest`, written to where they
// belong, and the reciprocal of the step; 0 if there is one number only.
template <int Bits>
struct Span {
  float least, inverse;
  Span(float lowest, float highest, std::byte* step_at, std::byte* least_at) {
    least = rounded_half(lowest, least_at);
    const float way = highest > least ? highest - least : 0;
    const float step = rounded_half(way / ((1 << Bits) - 1), step_at);
    inverse = step > 0 ? 1 / step : 0;
  }
};

template <int Bits>
inline IVec bits_codes(Vec x, Vec least, Vec inverse) {
  constexpr float kMost = (1 << Bits) - 1;
  return nearest(min(max((x - least) * inverse, Vec::zero()), Vec::all(kMost)));
}

template <int Bits>
inline void load_words(const std::byte* from, int64_t stride, IVec* words) {
#pragma GCC unroll 4
  for (int w = 0; w < CodeRun<Bits>::kWords; ++w) words[w] = IVec::load(from + w * stride);
}

// to_int16 of whole vectors.
inline void whole_int16(const float* x, int n, float inverse, float* pairs) {
  auto* const to = reinterpret_cast<std::byte*>(pairs);
  for (int i = 0; i < n; i += Vec::lanes)
    store_low16(to + 2 * i, nearest(Vec::load(x + i) * Vec::all(inverse)));
}

// Adds the products of a run of codes with pairs of 16-bit numbers: vectors j of words with those
// of head h, `stride` floats behind the ones of the head before.
template <int Bits, int Heads, int Vecs>
[[gnu::always_inline]] inline void add_run(IVec (&words)[Vecs][CodeRun<Bits>::kWords],
                                           const float* pairs, int64_t stride,
                                           IVec (&total)[Heads][Vecs]) {
  using Run = CodeRun<Bits>;
  for (int part = 0; part < Run::kParts; ++part)
    for (int i = 0; i < Run::kPerPart; ++i, ++pairs) {
      IVec x[Vecs];
#pragma GCC unroll 4
      for (int j = 0; j < Vecs; ++j) x[j] = Run::take(words[j][part], words[j][Run::kWords - 1]);
#pragma GCC unroll 4
      for (int h = 0; h < Heads; ++h) {
        const IVec both = pair_at(pairs + h * stride);
#pragma GCC unroll 4
        for (int j = 0; j < Vecs; ++j) total[h][j] = add_pairs(x[j], both, total[h][j]);
      }
    }
}

// ---- keys

template <int Bits>
struct ChannelKeys {
  using Run = CodeRun<Bits>;
  static constexpr bool kKeys = true, kPrepares = false;
  static constexpr Shares kShares = {.columns = true, .width = 0, .middle = true};
  static constexpr int64_t kWordBytes = kBitsRows * 4;  // a word of every row
  static constexpr int64_t kUnitBytes = Run::kWords * kWordBytes;
  static constexpr int kVecs = kBitsRows / Vec::lanes;
  static_assert(kBitsColumns % Run::kCodes == 0);

  static int64_t units(int columns) { return (columns + Run::kCodes - 1) / Run::kCodes; }
  static int64_t header_bytes(int dim) { return 4 * bits_padded(dim); }
  static int64_t tile_bytes(int dim) { return units(dim) * kUnitBytes; }
  static const std::byte* leasts(const std::byte* page, int dim) {
    return page + 2 * bits_padded(dim);
  }

  static size_t bytes(int rows, int dim) {
    return static_cast<size_t>(header_bytes(dim) +
                               (rows + kBitsRows - 1) / kBitsRows * tile_bytes(dim));
  }

  // Lowest and highest number of each column of a unit, over all rows.
  static void reach(const float* x, int64_t stride, int rows, int columns, float* lowest,
                    float* highest) {
    for (int i = 0; i < columns; i += Vec::lanes) {
      Vec low = Vec::all(kMostHalf), high = Vec::all(-kMostHalf);
      for (int r = 0; r < rows; ++r) {
        const Vec given = bits_given(x + r * stride + i, columns - i);
        low = min(given, low);
        high = max(given, high);
      }
      store(lowest + i, low);
      store(highest + i, high);
    }
  }

  static void encode(const float* x, int64_t stride, int rows, int dim, std::byte* page,
                     int /*first_row*/) {
    encode_cut(x, stride, rows, dim, page, {});
  }

  static void encode_cut(const float* x, int64_t stride, int rows, int dim, std::byte* page,
                         const Cut& cut) {
    __builtin_memset(page, 0, bytes(rows, dim));
    alignas(64) float least[32 + Vec::lanes], inverse[32 + Vec::lanes];
    alignas(64) int32_t codes[32 + Vec::lanes];
    std::byte* unit = page + header_bytes(dim);
    for (int first = 0; first < dim; first += Run::kCodes, unit += kUnitBytes) {
      const int columns = int8_lesser(Run::kCodes, dim - first);
      reach(x + first, stride, rows, columns, least, inverse);
      for (int i = 0; i < columns; ++i) {
        if (cut.on) cut.reach(x + first + i, stride, rows, least[i], inverse[i]);
        std::byte* const step_at = page + int64_t{2} * (first + i);
        const Span<Bits> span(least[i], inverse[i], step_at, step_at + 2 * bits_padded(dim));
        least[i] = span.least;
        inverse[i] = span.inverse;
      }
      for (int r = 0; r < rows; ++r) {
        for (int i = 0; i < columns; i += Vec::lanes) {
          const Vec given = bits_given(x + r * stride + first + i, columns - i);
          store(codes + i, bits_codes<Bits>(given, Vec::load(least + i), Vec::load(inverse + i)));
        }
        uint32_t words[Run::kWords] = {};
        for (int i = 0; i < columns; ++i) Run::put(words, i, static_cast<uint32_t>(codes[i]));
        std::byte* to = unit + r / kBitsRows * tile_bytes(dim) + int64_t{4} * (r % kBitsRows);
        for (const uint32_t word : words) {
          __builtin_memcpy(to, &word, sizeof word);
          to += kWordBytes;
        }
      }
    }
  }

  // One number of a page.
  static float number_at(const std::byte* page, int row, int column, int dim) {
    const std::byte* at = page + header_bytes(dim) + row / kBitsRows * tile_bytes(dim) +
                          int64_t{4} * (row % kBitsRows) + column / Run::kCodes * kUnitBytes;
    uint32_t words[Run::kWords];
    for (int w = 0; w < Run::kWords; ++w)
      __builtin_memcpy(words + w, at + w * kWordBytes, sizeof *words);
    const std::byte* step = page + int64_t{2} * column;
    return load_half(step + 2 * bits_padded(dim)) +
           load_half(step) * static_cast<float>(Run::get(words, column % Run::kCodes));
  }

  static void decode(const std::byte* page, int first_row, int rows, int dim, float* x) {
    for (int r = first_row; r < first_row + rows; ++r) {
      const std::byte* at =
          page + header_bytes(dim) + r / kBitsRows * tile_bytes(dim) + int64_t{4} * (r % kBitsRows);
      for (int first = 0; first < dim; first += Run::kCodes, at += kUnitBytes) {
        uint32_t words[Run::kWords];
        for (int w = 0; w < Run::kWords; ++w)
          __builtin_memcpy(words + w, at + w * kWordBytes, sizeof *words);
        for (int i = 0; i < Run::kCodes && first + i < dim; ++i) {
          const std::byte* step = page + int64_t{2} * (first + i);
          *x++ = load_half(step + 2 * bits_padded(dim)) +
                 load_half(step) * static_cast<float>(Run::get(words, i));
        }
      }
    }
  }

  // A query with the steps of the page in it: 16-bit numbers in pairs, what one of their units is
  // worth, and what the leasts add to every score.
  struct Query {
    alignas(64) float pair[kBitsColumns / 2];
    float unit, leasts;
  };

  static void fold(const std::byte* page, int dim, int first, int columns, const float* q,
                   Query& to) {
    alignas(64) float folded[kBitsColumns];
    const int padded = (columns + 31) / 32 * 32;  // whole units, whatever the format
    const std::byte* const steps = page + int64_t{2} * first;
    const std::byte* const least = leasts(page, dim) + int64_t{2} * first;
    Vec most = Vec::zero(), added = Vec::zero();
    int i = 0;
    for (; i < columns; i += Vec::lanes) {
      const int part = columns - i;
      const Vec x = part < Vec::lanes ? Vec::load_part(q + i, part) : Vec::load(q + i);
      const Vec y = x * Vec::load_f16(steps + 2 * i);
      added = mul_add(x, Vec::load_f16(least + 2 * i), added);
      most = max(abs(y), most);
      store(folded + i, y);
    }
    for (; i < padded; i += Vec::lanes) store(folded + i, Vec::zero());
    const float size = largest(most);
    to.unit = size / kMost16;
    to.leasts = sum(added);
    whole_int16(folded, padded, size > kLeastSize ? kMost16 / size : 0, to.pair);
  }

  // Columns [first, first + columns) of the scores of `Heads` queries; those of earlier columns
  // are there already.
  template <int Heads>
  static void score_columns(const std::byte* page, int rows, int dim, int first, int columns,
                            const float* q, float* out, int64_t out_stride) {
    Query query[Heads];
    for (int h = 0; h < Heads; ++h)
      fold(page, dim, first, columns, q + static_cast<int64_t>(h) * dim + first, query[h]);
    const std::byte* tile = page + header_bytes(dim) + first / Run::kCodes * kUnitBytes;
    for (int r = 0; r < rows; r += kBitsRows, tile += tile_bytes(dim)) {
      IVec total[Heads][kVecs];
#pragma GCC unroll 4
      for (int h = 0; h < Heads; ++h)
#pragma GCC unroll 4
        for (int j = 0; j < kVecs; ++j) total[h][j] = IVec::zero();
      const std::byte* unit = tile;
      const float* pairs = query[0].pair;
      const float* const end = pairs + units(columns) * Run::kPairs;
      for (; pairs != end; pairs += Run::kPairs, unit += kUnitBytes) {
        IVec words[kVecs][Run::kWords];
#pragma GCC unroll 4
        for (int j = 0; j < kVecs; ++j)
          load_words<Bits>(unit + j * Vec::lanes * 4, kWordBytes, words[j]);
        add_run<Bits>(words, pairs, kQueryFloats, total);
      }
      for (int h = 0; h < Heads; ++h)
        for (int j = 0; j < kVecs && r + j * Vec::lanes < rows; ++j) {
          float* const to = out + h * out_stride + r + j * Vec::lanes;
          const int part = rows - r - j * Vec::lanes;
          Vec score =
              mul_add(to_float(total[h][j]), Vec::all(query[h].unit), Vec::all(query[h].leasts));
          if (first > 0)
            score = score + (part < Vec::lanes ? Vec::load_part(to, part) : Vec::load(to));
          if (part < Vec::lanes)
            store_part(to, part, score);
          else
            store(to, score);
        }
    }
  }
  static constexpr int kQueryFloats = sizeof(Query) / sizeof(float);

  template <int Heads>
  [[gnu::noinline]] static void score_heads(const std::byte* page, int rows, int dim,
                                            const float* q, float* out, int64_t out_stride) {
    for (int first = 0; first < dim; first += kBitsColumns)
      score_columns<Heads>(page, rows, dim, first, int8_lesser(kBitsColumns, dim - first), q, out,
                           out_stride);
  }

  static void score(const std::byte* page, int rows, int dim, const float* q, int heads, float* out,
                    int64_t out_stride) {
    by_runs(heads, [&](auto count, int h) {
      const float* from = q + static_cast<int64_t>(h) * dim;
      float* to = out + h * out_stride;
      score_heads<decltype(count)::value>(page, rows, dim, from, to, out_stride);
    });
  }

  static constexpr PageKernels kTable = {bytes, encode, decode, nullptr, nullptr, score, nullptr};
};

// ---- values

template <int Bits>
struct GroupedValues {
  using Run = CodeRun<Bits>;
  static constexpr int kRows = Run::kCodes > 16 ? Run::kCodes : 16;  // of a tile
  static_assert(kRows % Run::kCodes == 0 && kBitsSum % kRows == 0);

  struct Shape {
    int group;
    int64_t columns, spans, tile_bytes;  // columns padded; bytes of the spans of a tile
    Shape(int dim, int group)
        : group(group),
          columns(bits_padded(dim)),
          spans(static_cast<int64_t>((dim + group - 1) / group) * kRows * 4),
          tile_bytes(spans + kRows / Run::kCodes * Run::kWords * columns * 4) {}
    // Of the run of rows that starts at `row`: the words of column d.
    int64_t words(int row, int d) const {
      return row / kRows * tile_bytes + spans +
             (row % kRows / Run::kCodes * Run::kWords * columns + d) * 4;
    }
    // The step of a row for columns of group g; its least is kRows * 2 bytes behind.
    int64_t step(int row, int g) const {
      return row / kRows * tile_bytes + (int64_t{2} * g * kRows + row % kRows) * 2;
    }
  };

  static size_t bytes(int rows, int dim, int group) {
    return static_cast<size_t>((rows + kRows - 1) / kRows * Shape(dim, group).tile_bytes);
  }

  static void encode(const float* x, int64_t stride, int rows, int dim, int group, std::byte* page,
                     const Cut& cut) {
    const Shape shape(dim, group);
    __builtin_memset(page, 0, bytes(rows, dim, group));
    for (int row = 0; row < rows; row += Run::kCodes) {
      const int now = int8_lesser(Run::kCodes, rows - row);
      for (int first = 0; first < dim; first += group)
        encode_run(x + row * stride, stride, now, first, int8_lesser(group, dim - first), shape,
                   page, row, cut);
    }
  }

  // Columns [first, first + columns), one group, of up to kCodes rows from `row` on.
  static void encode_run(const float* x, int64_t stride, int rows, int first, int columns,
                         const Shape& shape, std::byte* page, int row, const Cut& cut) {
    float least[Run::kCodes] = {}, inverse[Run::kCodes] = {};
    for (int r = 0; r < rows; ++r) {
      float low, high;
      reach_of(x + r * stride + first, columns, low, high);
      if (cut.on) cut.reach(x + r * stride + first, 1, columns, low, high);
      std::byte* const step = page + shape.step(row + r, first / shape.group);
      const Span<Bits> span(low, high, step, step + kRows * 2);
      least[r] = span.least;
      inverse[r] = span.inverse;
    }
    for (int i = 0; i < columns; i += Vec::lanes) {
      IVec words[Run::kWords];
      for (IVec& word : words) word = IVec::zero();
      const int part = columns - i;
      const auto code_of = [&](int r) {
        if (r >= rows) return IVec::zero();
        Vec given = bits_given(x + r * stride + first + i, part);
        if (part < Vec::lanes)  // columns that the page lacks have codes of zero
          given = select(first_lanes(part), given, Vec::all(least[r]));
        return bits_codes<Bits>(given, Vec::all(least[r]), Vec::all(inverse[r]));
      };
      for (int pair = Run::kPairs - 1; pair >= 0; --pair)
        Run::put(words, pair, code_of(2 * pair) | shift_left<16>(code_of(2 * pair + 1)));
      for (int w = 0; w < Run::kWords; ++w)
        store_words(page + shape.words(row, first + i) + w * shape.columns * 4, words[w]);
    }
  }

  static void store_words(std::byte* to, IVec words) {
    int32_t lanes[Vec::lanes];
    store(lanes, words);
    __builtin_memcpy(to, lanes, sizeof lanes);
  }

  static float number_at(const std::byte* page, int row, int column, const Shape& shape) {
    uint32_t words[Run::kWords];
    for (int w = 0; w < Run::kWords; ++w)
      __builtin_memcpy(words + w, page + shape.words(row, column) + w * shape.columns * 4,
                       sizeof *words);
    const std::byte* const step = page + shape.step(row, column / shape.group);
    return load_half(step + kRows * 2) +
           load_half(step) * static_cast<float>(Run::get(words, row % Run::kCodes));
  }

  static void decode(const std::byte* page, int first_row, int rows, int dim, int group, float* x) {
    const Shape shape(dim, group);
    for (int r = first_row; r < first_row + rows; ++r)
      for (int d = 0; d < dim; ++d) *x++ = number_at(page, r, d, shape);
  }

  // Weights of up to kBitsSum rows for one head and group, the steps of the rows folded in.
  struct Weights {
    alignas(64) float pair[kBitsSum / 2];
    float unit, leasts;
  };
  static constexpr int kWeightFloats = sizeof(Weights) / sizeof(float);

  static void weigh(const std::byte* page, const Shape& shape, int g, int rows, const float* p,
                    Weights& to) {
    alignas(64) float weight[kBitsSum];
    const int padded = (rows + kRows - 1) / kRows * kRows;
    Vec most = Vec::zero(), added = Vec::zero();
    for (int r = 0; r < padded; r += Vec::lanes) {
      const int part = rows - r;
      const Vec given = part >= Vec::lanes ? Vec::load(p + r)
                        : part > 0         ? Vec::load_part(p + r, part)
                                           : Vec::zero();
      const std::byte* const step = page + shape.step(r, g);
      const Vec folded = given * Vec::load_f16(step);
      added = mul_add(given, Vec::load_f16(step + kRows * 2), added);
      store(weight + r, folded);
      most = max(abs(folded), most);
    }
    const float size = largest(most);
    to.unit = size / kMost16;
    to.leasts = sum(added);
    whole_int16(weight, padded, size > kLeastSize ? kMost16 / size : 0, to.pair);
  }

  // Columns [d, d + Vecs * lanes) of the sums of `Heads` heads; the last vector may be a part of
  // one.
  template <int Heads, int Vecs>
  [[gnu::noinline]] static void sum_columns(const std::byte* page, const Shape& shape, int rows,
                                            int dim, const Weights* weights, float* acc, int d) {
    IVec total[Heads][Vecs];
#pragma GCC unroll 4
    for (int h = 0; h < Heads; ++h)
#pragma GCC unroll 4
      for (int j = 0; j < Vecs; ++j) total[h][j] = IVec::zero();
    const float* pairs = weights[0].pair;
    for (int r = 0; r < rows; r += Run::kCodes, pairs += Run::kPairs) {
      const std::byte* const from = page + shape.words(r, d);
      IVec words[Vecs][Run::kWords];
#pragma GCC unroll 4
      for (int j = 0; j < Vecs; ++j)
        load_words<Bits>(from + j * Vec::lanes * 4, shape.columns * 4, words[j]);
      add_run<Bits>(words, pairs, kWeightFloats, total);
    }
#pragma GCC unroll 4
    for (int h = 0; h < Heads; ++h)
#pragma GCC unroll 4
      for (int j = 0; j < Vecs; ++j) {
        float* const to = acc + static_cast<int64_t>(h) * dim + d + j * Vec::lanes;
        const int part = dim - d - j * Vec::lanes;
        const Vec more =
            mul_add(to_float(total[h][j]), Vec::all(weights[h].unit), Vec::all(weights[h].leasts));
        if (part >= Vec::lanes)
          store(to, Vec::load(to) + more);
        else
          store_part(to, part, Vec::load_part(to, part) + more);
      }
  }

  template <int Heads>
  static void sum_heads(const std::byte* page, int rows, int dim, int group, const float* p,
                        int64_t p_stride, float* acc) {
    const Shape shape(dim, group);
    Weights weights[Heads];
    for (int r = 0; r < rows; r += kBitsSum, page += kBitsSum / kRows * shape.tile_bytes) {
      const int now = int8_lesser(kBitsSum, rows - r);
      for (int first = 0; first < dim; first += group) {
        for (int h = 0; h < Heads; ++h)
          weigh(page, shape, first / group, now, p + h * p_stride + r, weights[h]);
        const int end = int8_lesser(dim, first + group);
        int d = first;
        for (; d + 2 * Vec::lanes <= end; d += 2 * Vec::lanes)
          sum_columns<Heads, 2>(page, shape, now, dim, weights, acc, d);
        for (; d < end; d += Vec::lanes)
          sum_columns<Heads, 1>(page, shape, now, dim, weights, acc, d);
      }
    }
  }

  static void accumulate(const std::byte* page, int rows, int dim, int group, const float* p,
                         int64_t p_stride, int heads, float* acc) {
    by_runs(heads, [&](auto count, int h) {
      const float* from = p + h * p_stride;
      float* to = acc + static_cast<int64_t>(h) * dim;
      sum_heads<decltype(count)::value>(page, rows, dim, group, from, p_stride, to);
    });
  }
};

template <int Bits, int Group>
struct ValuesOf {
  static constexpr bool kKeys = false, kPrepares = false;
  static constexpr Shares kShares = {.columns = false, .width = Group, .middle = true};
  static size_t bytes(int rows, int dim) { return GroupedValues<Bits>::bytes(rows, dim, Group); }
  static void encode(const float* x, int64_t stride, int rows, int dim, std::byte* page,
                     int /*first_row*/) {
    GroupedValues<Bits>::encode(x, stride, rows, dim, Group, page, {});
  }
  static void encode_cut(const float* x, int64_t stride, int rows, int dim, std::byte* page,
                         const Cut& cut) {
    GroupedValues<Bits>::encode(x, stride, rows, dim, Group, page, cut);
  }
  static float number_at(const std::byte* page, int row, int column, int dim) {
    return GroupedValues<Bits>::number_at(page, row, column, {dim, Group});
  }
  static void decode(const std::byte* page, int first_row, int rows, int dim, float* x) {
    GroupedValues<Bits>::decode(page, first_row, rows, dim, Group, x);
  }
  static void accumulate(const std::byte* page, int rows, int dim, const float* p, int64_t p_stride,
                         int heads, float* acc) {
    GroupedValues<Bits>::accumulate(page, rows, dim, Group, p, p_stride, heads, acc);
  }
  static constexpr PageKernels kTable = {bytes,   encode,  decode,    nullptr,
                                         nullptr, nullptr, accumulate};
};

}  // namespace PITH_TARGET
}  // namespace
}  // namespace pith

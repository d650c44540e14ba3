// Formats of codes beside which the outliers of a page lie (KVQuant, arXiv:2401.18079, which keeps
// a hundredth of all numbers so): a list of places, and of what the codes there fall short of.
//
//   page   = count, where the codes start, how many places a line has, where the amounts start
//            (uint32 each; the highest bit of the count: places are uint32)
//            places, ascending: line * places of a line + place; uint16, or uint32 in large pages
//            amounts: half of what is missing, f16
//            up to a multiple of 16 bytes, then the page of codes
//
// A line is what shares steps side by side: a column of keys that share them per channel, else a
// row. Steps of the codes span what is not in the list, and codes of what is end at that reach; a
// number of the list reads back as its code and the amount,
//   |decoded - x| <= 2^-11 |x - code| + 2^-24,
// with x within +-65504; the others are as near as the format says for numbers of their reach.
// Scores and sums are those of the codes, and then a multiplication and an addition for every
// number of the list, in its order. Coding a decoded page again may find other outliers.
#pragma once

#include "kernels/cut.inl.h"
#include "kernels/table.h"
#include "kernels/word.inl.h"
#include PITH_VEC

namespace pith {
namespace {
namespace PITH_TARGET {

constexpr int kOutlierHeader = 16;
constexpr uint32_t kWidePlaces = 0x80000000u;

inline void put_word(std::byte* p, uint32_t word) {
  __builtin_memcpy(p, &word, sizeof word);
}

struct OutlierLayout {
  int most;                // numbers in the list
  bool wide;               // places of 32 bits
  int64_t amounts, codes;  // where they start
  OutlierLayout(int rows, int dim) {
    const int64_t numbers = int64_t{rows} * dim;
    most = static_cast<int>((numbers + 99) / 100);
    wide = numbers > 65536;
    amounts = kOutlierHeader + int64_t{most} * (wide ? 4 : 2);
    codes = (amounts + int64_t{2} * most + 15) / 16 * 16;
  }
};

// Calls run(numbers, floats between them, how many, place of the first) for the numbers that share
// a step, in the order of places.
template <class Run>
inline void each_shared(const Shares& shares, const float* x, int64_t stride, int rows, int dim,
                        Run run) {
  if (shares.columns) {
    for (int d = 0; d < dim; ++d) run(x + d, stride, rows, int64_t{d} * rows);
    return;
  }
  const int width = shares.width > 0 ? shares.width : dim;
  for (int r = 0; r < rows; ++r)
    for (int d = 0; d < dim; d += width)
      run(x + r * stride + d, int64_t{1}, dim - d < width ? dim - d : width, int64_t{r} * dim + d);
}

// The largest of many numbers, in memory for `room` floats: a heap whose root is the least of them.
class Largest {
 public:
  Largest(std::byte* memory, int room) : at_(memory), room_(room) {}

  void add(float x) {
    if (size_ == room_) {
      if (!(x > get(0))) return;
      int i = 0;
      for (int child = 1; child < room_; child = 2 * i + 1) {
        if (child + 1 < room_ && get(child + 1) < get(child)) ++child;
        if (!(get(child) < x)) break;
        put(i, get(child));
        i = child;
      }
      put(i, x);
      return;
    }
    int i = size_++;
    for (; i > 0 && x < get((i - 1) / 2); i = (i - 1) / 2) put(i, get((i - 1) / 2));
    put(i, x);
  }
  bool full() const { return size_ == room_; }
  float least() const { return get(0); }

 private:
  float get(int i) const { return __builtin_bit_cast(float, word<uint32_t>(at_ + int64_t{4} * i)); }
  void put(int i, float x) { put_word(at_ + int64_t{4} * i, __builtin_bit_cast(uint32_t, x)); }

  std::byte* at_;
  int room_, size_ = 0;
};

// How far out a number of a page may lie to be coded: all but `layout.most` do. The memory of the
// list, from the last word of the header on, holds what is sorted.
inline Cut cut_of(const Shares& shares, const float* x, int64_t stride, int rows, int dim,
                  const OutlierLayout& layout, std::byte* page) {
  Largest largest(page + kOutlierHeader - 4, layout.most + 1);
  each_shared(shares, x, stride, rows, dim, [&](const float* first, int64_t step, int n, int64_t) {
    const Spread spread(first, step, n, shares.middle);
    for (int i = 0; i < n; ++i) largest.add(spread.out(first[i * step]));
  });
  return {
      .on = largest.full(), .middle = shares.middle, .most = largest.full() ? largest.least() : 0};
}

using NumberAt = float (*)(const std::byte* codes, int row, int column, int dim);

inline void put_outliers(const Shares& shares, const Cut& cut, const float* x, int64_t stride,
                         int rows, int dim, const OutlierLayout& layout, NumberAt number_at,
                         std::byte* page) {
  __builtin_memset(page, 0, static_cast<size_t>(layout.codes));
  uint32_t count = 0;
  each_shared(
      shares, x, stride, rows, dim, [&](const float* first, int64_t step, int n, int64_t place) {
        if (!cut.on) return;
        const Spread spread(first, step, n, shares.middle);
        for (int i = 0; i < n; ++i) {
          const float given = within_half(first[i * step]);
          if (!(spread.out(given) > cut.most)) continue;
          const auto at = static_cast<uint32_t>(place + i);
          const auto line = static_cast<int>(place + i) / (shares.columns ? rows : dim);
          const auto in_line = static_cast<int>(place + i) % (shares.columns ? rows : dim);
          const float code = number_at(page + layout.codes, shares.columns ? in_line : line,
                                       shares.columns ? line : in_line, dim);
          std::byte* const list = page + kOutlierHeader + int64_t{layout.wide ? 4 : 2} * count;
          __builtin_memcpy(list, &at, layout.wide ? 4 : 2);
          store_f16_part(page + layout.amounts + int64_t{2} * count, 1,
                         Vec::all(0.5f * (given - code)));
          ++count;
        }
      });
  put_word(page, count | (layout.wide ? kWidePlaces : 0));
  put_word(page + 4, static_cast<uint32_t>(layout.codes));
  put_word(page + 8, static_cast<uint32_t>(shares.columns ? rows : dim));
  put_word(page + 12, static_cast<uint32_t>(layout.amounts));
}

// Calls run(row, column, amount) for every number of the list.
template <bool Columns, class Run>
inline void each_outlier(const std::byte* page, Run run) {
  const uint32_t head = word<uint32_t>(page), count = head & ~kWidePlaces;
  const int64_t line_places = word<uint32_t>(page + 8);
  const std::byte* amounts = page + word<uint32_t>(page + 12);
  const int size = head & kWidePlaces ? 4 : 2;
  int line = 0;
  int64_t start = 0;
  for (uint32_t i = 0; i < count; ++i) {
    uint32_t place = 0;
    __builtin_memcpy(&place, page + kOutlierHeader + int64_t{size} * i, static_cast<size_t>(size));
    for (; place >= start + line_places; start += line_places) ++line;
    const int in_line = static_cast<int>(place - start);
    const float amount = 2 * load_half(amounts + int64_t{2} * i);
    if constexpr (Columns)
      run(in_line, line, amount);
    else
      run(line, in_line, amount);
  }
}

template <class Base>
struct WithOutliers {
  static constexpr Shares kShares = Base::kShares;
  static constexpr PageKernels kBase = Base::kTable;

  static const std::byte* codes(const std::byte* page) { return page + word<uint32_t>(page + 4); }

  static size_t bytes(int rows, int dim) {
    return static_cast<size_t>(OutlierLayout(rows, dim).codes) + kBase.bytes(rows, dim);
  }

  static void encode(const float* x, int64_t stride, int rows, int dim, std::byte* page,
                     int /*first_row*/) {
    const OutlierLayout layout(rows, dim);
    const Cut cut = cut_of(kShares, x, stride, rows, dim, layout, page);
    Base::encode_cut(x, stride, rows, dim, page + layout.codes, cut);
    put_outliers(kShares, cut, x, stride, rows, dim, layout, Base::number_at, page);
  }

  static bool sound(const std::byte* page, int rows, int dim) {
    const OutlierLayout layout(rows, dim);
    const uint32_t head = word<uint32_t>(page), count = head & ~kWidePlaces;
    if (((head & kWidePlaces) != 0) != layout.wide ||
        word<uint32_t>(page + 4) != static_cast<uint32_t>(layout.codes) ||
        word<uint32_t>(page + 8) != static_cast<uint32_t>(kShares.columns ? rows : dim) ||
        word<uint32_t>(page + 12) != static_cast<uint32_t>(layout.amounts) ||
        count > static_cast<uint32_t>(layout.most))
      return false;
    const int size = layout.wide ? 4 : 2;
    int64_t least = 0;
    for (uint32_t i = 0; i < count; ++i) {
      uint32_t place = 0;
      __builtin_memcpy(&place, page + kOutlierHeader + int64_t{size} * i,
                       static_cast<size_t>(size));
      if (place < least || place >= int64_t{rows} * dim) return false;
      least = int64_t{place} + 1;
    }
    return true;
  }

  static void decode(const std::byte* page, int first_row, int rows, int dim, float* x) {
    kBase.decode(codes(page), first_row, rows, dim, x);
    each_outlier<kShares.columns>(page, [&](int row, int column, float amount) {
      if (row >= first_row && row < first_row + rows)
        x[int64_t{row - first_row} * dim + column] += amount;
    });
  }

  // Where the format below wants queries in a form of its own, they follow as they are.
  static size_t query_floats(int heads, int dim) {
    return kBase.query_floats(heads, dim) + static_cast<size_t>(heads) * static_cast<size_t>(dim);
  }
  static void prepare(const float* q, int heads, int dim, float* prepared) {
    kBase.prepare(q, heads, dim, prepared);
    __builtin_memcpy(prepared + kBase.query_floats(heads, dim), q,
                     static_cast<size_t>(heads) * static_cast<size_t>(dim) * sizeof *q);
  }

  static void score(const std::byte* page, int rows, int dim, const float* q, int heads, float* out,
                    int64_t out_stride) {
    kBase.score(codes(page), rows, dim, q, heads, out, out_stride);
    const float* plain = q;
    if constexpr (Base::kPrepares) plain += kBase.query_floats(heads, dim);
    each_outlier<kShares.columns>(page, [&](int row, int column, float amount) {
      for (int h = 0; row < rows && h < heads; ++h)
        out[h * out_stride + row] += plain[int64_t{h} * dim + column] * amount;
    });
  }

  static void accumulate(const std::byte* page, int rows, int dim, const float* p, int64_t p_stride,
                         int heads, float* acc) {
    kBase.accumulate(codes(page), rows, dim, p, p_stride, heads, acc);
    each_outlier<kShares.columns>(page, [&](int row, int column, float amount) {
      for (int h = 0; row < rows && h < heads; ++h)
        acc[int64_t{h} * dim + column] += p[h * p_stride + row] * amount;
    });
  }

  static constexpr PageKernels table() {
    PageKernels t{bytes, encode, decode, nullptr, nullptr, nullptr, nullptr, sound};
    if constexpr (Base::kPrepares) {
      t.query_floats = query_floats;
      t.prepare = prepare;
    }
    if constexpr (Base::kKeys)
      t.score = score;
    else
      t.accumulate = accumulate;
    return t;
  }
};

}  // namespace PITH_TARGET
}  // namespace
}  // namespace pith

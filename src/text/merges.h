// Byte-pair merging: of all adjacent pairs of symbols that may become one, the pair of the lowest
// rank does, leftmost among equals, until none is left. O(n log n) for any input: a run of two
// million blanks is one word to most pre-tokenisers.
//
//   Merger ( clear ( add )* merge )*      then walk first, next(...), ... to kEnd
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

namespace pith {

struct MergedPair {
  static constexpr uint32_t kNone = UINT32_MAX;
  uint32_t rank = kNone;
  int32_t token = -1;
};

class Merger {
 public:
  static constexpr uint32_t kEnd = UINT32_MAX;

  struct Symbol {
    uint32_t begin;  // its first byte; it reaches to where the next one begins
    int32_t token;   // -1: no token has this text
    uint32_t prev, next;
    MergedPair pair;  // with the next one
  };

  void clear() { symbols_.clear(); }
  void add(uint32_t begin, int32_t token) {
    const auto index = static_cast<uint32_t>(symbols_.size());
    symbols_.push_back({begin, token, index - 1, index + 1, {}});
  }
  size_t size() const { return symbols_.size(); }
  uint32_t first() const { return symbols_.empty() ? kEnd : 0; }
  const Symbol& at(uint32_t index) const { return symbols_[index]; }
  // One past the last byte of a symbol of a text of `bytes`.
  uint32_t end(const Symbol& symbol, uint32_t bytes) const {
    return symbol.next == kEnd ? bytes : symbols_[symbol.next].begin;
  }

  // `pair(left, right)` says what two adjacent symbols become: MergedPair(const Symbol&, const
  // Symbol&). The right symbol's end is end(right, ...).
  template <class Pair>
  void merge(Pair&& pair) {
    if (symbols_.empty()) return;
    symbols_.front().prev = kEnd;
    symbols_.back().next = kEnd;
    for (uint32_t i = 0; i + 1 < symbols_.size(); ++i)
      symbols_[i].pair = pair(symbols_[i], symbols_[i + 1]);
    if (symbols_.size() <= kFew)
      merge_few(pair);
    else
      merge_many(pair);
  }

 private:
  // Below this many symbols, looking at all pairs beats a heap: most words have fewer than ten.
  static constexpr size_t kFew = 20;

  template <class Pair>
  void join(uint32_t left, Pair& pair) {
    Symbol& symbol = symbols_[left];
    const Symbol right = symbols_[symbol.next];
    symbols_[symbol.next].pair = {};  // so that no entry of the heap finds it alive
    symbol.token = symbol.pair.token;
    symbol.next = right.next;
    symbol.pair = {};
    if (symbol.next != kEnd) {
      symbols_[symbol.next].prev = left;
      symbol.pair = pair(symbol, symbols_[symbol.next]);
    }
    if (symbol.prev != kEnd) symbols_[symbol.prev].pair = pair(symbols_[symbol.prev], symbol);
  }

  template <class Pair>
  void merge_few(Pair& pair) {
    for (;;) {
      uint32_t best = kEnd, rank = MergedPair::kNone;
      for (uint32_t i = 0; i != kEnd; i = symbols_[i].next)
        if (symbols_[i].pair.rank < rank) rank = symbols_[best = i].pair.rank;
      if (best == kEnd) return;
      join(best, pair);
    }
  }

  // Entries are rank and place in one number. One is stale if the pair at its place has another
  // rank by now; a pair that changed was pushed again.
  template <class Pair>
  void merge_many(Pair& pair) {
    heap_.clear();
    const auto entry = [&](uint32_t i) {
      return static_cast<uint64_t>(symbols_[i].pair.rank) << 32 | i;
    };
    for (uint32_t i = 0; i < symbols_.size(); ++i)
      if (symbols_[i].pair.rank != MergedPair::kNone) heap_.push_back(entry(i));
    const auto later = std::greater<uint64_t>();
    std::make_heap(heap_.begin(), heap_.end(), later);
    const auto push = [&](uint32_t i) {
      if (i == kEnd || symbols_[i].pair.rank == MergedPair::kNone) return;
      heap_.push_back(entry(i));
      std::push_heap(heap_.begin(), heap_.end(), later);
    };
    while (!heap_.empty()) {
      std::pop_heap(heap_.begin(), heap_.end(), later);
      const auto place = static_cast<uint32_t>(heap_.back());
      const auto rank = static_cast<uint32_t>(heap_.back() >> 32);
      heap_.pop_back();
      if (symbols_[place].pair.rank != rank) continue;
      join(place, pair);
      push(symbols_[place].prev);
      push(place);
    }
  }

  std::vector<Symbol> symbols_;
  std::vector<uint64_t> heap_;
};

}  // namespace pith

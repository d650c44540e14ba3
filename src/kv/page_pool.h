// Cache memory under one hard limit, shared by all sessions of an engine. Everything a session
// holds is counted here, by class: pages, lanes, summaries, and the working memory of a prompt in
// flight. Running dry is a normal event: a step asks before it starts (`free_bytes`), so nothing
// fails half way.
//
// The limit is on used bytes: what was handed out, each page with its record. What the system
// holds beyond that is small and bounded. Pages come from slabs of 2 MiB of one page size; memory
// that was never handed out is not resident, an empty slab goes back to the system (one per page
// size may wait for the next page), and once more than kIdleBytes of freed pages (less under a
// small limit) are resident among used ones, they go back too. docs/store_format.md has the
// arithmetic.
//
// A pool and the stores in it belong to one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>

namespace pith {

enum class MemoryClass : uint8_t {
  pages_k,
  pages_v,
  pseudo,
  lanes,
  summaries,
  prompt,
  dropped,
  bases
};
inline constexpr int kMemoryClasses = 8;
const char* name(MemoryClass what);
// "12 MiB", rounded up: how sentences name amounts of cache memory.
std::string mebibytes(size_t bytes);

struct Slab;

// The record of a page. It stays where it is for the life of the page, and so does `data`.
struct Page {
  std::byte* data = nullptr;  // aligned to 64 bytes; not zeroed
  Slab* slab = nullptr;       // the pool's business
  uint32_t bytes = 0;         // as asked for
  int owners = 0;             // forks share pages until one of them writes
  MemoryClass what = MemoryClass::pages_k;
};

class PagePool {
 public:
  static constexpr size_t kSlabBytes = size_t{2} << 20;
  static constexpr size_t kIdleBytes = size_t{4} << 20;
  static constexpr size_t kIdleShare = 128;  // of the limit, if that is less

  explicit PagePool(size_t limit_bytes = std::numeric_limits<size_t>::max());
  ~PagePool();  // after every page was released
  PagePool(const PagePool&) = delete;
  PagePool& operator=(const PagePool&) = delete;

  // What a page counts for: its bytes rounded up to its slot, and its record.
  static size_t page_cost(size_t bytes);

  // A page with one owner. The caller has made sure that page_cost(bytes) is free. Throws
  // no_memory if the system refuses memory that the limit allows.
  Page* acquire(size_t bytes, MemoryClass what);
  void share(Page* page);    // one owner more
  void release(Page* page);  // by one owner

  // Memory that is not pages. `charge` is like acquire: the caller has asked before.
  void charge(size_t bytes, MemoryClass what);
  void refund(size_t bytes, MemoryClass what);

  size_t limit_bytes() const;
  size_t free_bytes() const;
  size_t used_bytes() const;
  size_t used_bytes(MemoryClass what) const;
  size_t peak_bytes() const;  // of used_bytes since the last reset_peak
  void reset_peak();
  size_t shared_pages() const;    // pages with several owners
  size_t mapped_bytes() const;    // address space of all slabs
  size_t resident_bytes() const;  // of it, pages in use and freed pages not given back yet

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pith

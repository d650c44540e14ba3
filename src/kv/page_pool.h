// Cache memory under one hard limit, shared by all sessions of an engine. Everything a session
// holds is counted here, by class: pages, lanes, summaries, and the working memory of a prompt in
// flight. Running dry is a normal event: a step asks before it starts (`free_bytes`), so nothing
// fails half way. Pages come from slabs of 2 MiB that go back to the system when empty, so
// resident memory follows use.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>

namespace pith {

enum class MemoryClass : uint8_t { pages_k, pages_v, pseudo, lanes, summaries, prompt };
inline constexpr int kMemoryClasses = 6;
const char* name(MemoryClass what);

struct Page {
  std::byte* data = nullptr;
  uint32_t bytes = 0;
  MemoryClass what = MemoryClass::pages_k;
  int owners = 0;  // forks share pages until one of them writes
};

class PagePool {
 public:
  explicit PagePool(size_t limit_bytes = std::numeric_limits<size_t>::max());
  ~PagePool();
  PagePool(const PagePool&) = delete;
  PagePool& operator=(const PagePool&) = delete;

  Page* acquire(size_t bytes, MemoryClass what);  // the caller has made sure that it fits
  void share(Page* page) { ++page->owners; }
  void release(Page* page);

  // Memory that is not pages. `charge` is like acquire: the caller has asked before.
  void charge(size_t bytes, MemoryClass what);
  void refund(size_t bytes, MemoryClass what);

  size_t limit_bytes() const;
  size_t free_bytes() const;
  size_t used_bytes() const;
  size_t used_bytes(MemoryClass what) const;
  size_t peak_bytes() const;   // of used_bytes since the last reset_peak
  void reset_peak();
  size_t mapped_bytes() const;  // what the system gave for pages: used pages and slack of slabs

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pith

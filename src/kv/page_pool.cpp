#include "kv/page_pool.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <map>
#include <set>
#include <string>
#include <sys/mman.h>
#include <system_error>
#include <vector>

#include "base/error.h"

#if defined(__SANITIZE_ADDRESS__)
#define PITH_POISONS_PAGES 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define PITH_POISONS_PAGES 1
#endif
#endif
#ifdef PITH_POISONS_PAGES
#include <sanitizer/asan_interface.h>
#endif

namespace pith {
namespace {

constexpr size_t kAlign = 64;         // of pages: a cache line, and the widest vector
constexpr size_t kSystemPage = 4096;  // smaller ones do not exist on the platforms we know
constexpr size_t kSlots = 4096;       // most pages of a slab: bounds its table of records
constexpr size_t kAlone = PagePool::kSlabBytes / 8;  // larger pages have a mapping each

size_t round_up(size_t n, size_t to) {
  return (n + to - 1) / to * to;
}

size_t slot_bytes(size_t bytes) {
  return std::max(kAlign, round_up(bytes, bytes > kAlone ? kSystemPage : kAlign));
}

// Freed pages are poisoned under the address sanitizer, so that a stale pointer is found.
void set_readable([[maybe_unused]] const std::byte* data, [[maybe_unused]] size_t bytes,
                  [[maybe_unused]] bool readable) {
#ifdef PITH_POISONS_PAGES
  if (readable)
    ASAN_UNPOISON_MEMORY_REGION(data, bytes);
  else
    ASAN_POISON_MEMORY_REGION(data, bytes);
#endif
}

std::byte* map_memory(size_t bytes) {
  // Whole slabs lie on their own size, so that the system may back one by one huge page.
  const size_t align = bytes == PagePool::kSlabBytes ? bytes : kSystemPage;
  const size_t span = bytes + align - kSystemPage;
  void* got = mmap(nullptr, span, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (got == MAP_FAILED)
    throw Error(Errc::no_memory, "the system refused " + std::to_string(span >> 10) +
                                     " KiB of cache memory below the cache limit (" +
                                     std::generic_category().message(errno) +
                                     "); lower the limit or free memory");
  std::byte* start = static_cast<std::byte*>(got);
  const size_t before =
      round_up(reinterpret_cast<uintptr_t>(start), align) - reinterpret_cast<uintptr_t>(start);
  if (before > 0) munmap(start, before);
  if (span - before > bytes) munmap(start + before + bytes, span - before - bytes);
  return start + before;
}

class Bits {
 public:
  Bits(size_t count, bool value) : words_((count + 63) / 64, value ? ~uint64_t{0} : 0) {
    if (value && count % 64 != 0) words_.back() >>= 64 - count % 64;
  }
  bool operator[](size_t i) const { return words_[i / 64] >> (i % 64) & 1; }
  void set(size_t i, bool value) {
    const uint64_t bit = uint64_t{1} << (i % 64);
    words_[i / 64] = value ? words_[i / 64] | bit : words_[i / 64] & ~bit;
    if (value) first_ = std::min(first_, i / 64);
  }
  size_t take_first() {  // clears and returns the lowest bit that is set; there is one
    while (words_[first_] == 0) ++first_;
    const size_t i = first_ * 64 + static_cast<size_t>(std::countr_zero(words_[first_]));
    words_[first_] &= words_[first_] - 1;
    return i;
  }

 private:
  std::vector<uint64_t> words_;
  size_t first_ = 0;  // no bit is set in the words before
};

}  // namespace

struct Slab {
  Slab(size_t slot, size_t bytes, size_t slots)
      : slot(slot),
        bytes(bytes),
        records(slots),
        free(slots, true),
        touched(slots, false),
        base(map_memory(bytes)) {}
  Slab(const Slab&) = delete;
  ~Slab() {
    set_readable(base, bytes, true);
    munmap(base, bytes);
  }

  const size_t slot, bytes;
  std::vector<Page> records;
  Bits free;
  Bits touched;  // handed out since the system last took the memory back
  size_t used = 0;
  size_t idle = 0;  // free slots that are resident
  std::byte* const base;
};

namespace {

struct ByAddress {
  bool operator()(const Slab* a, const Slab* b) const { return a->base < b->base; }
};

// All pages of one size. The lowest slab with room is filled first, so that the others drain.
struct SizeClass {
  std::map<std::byte*, std::unique_ptr<Slab>> slabs;
  std::set<Slab*, ByAddress> roomy;  // used in part
  Slab* empty = nullptr;             // waits for the next page
};

}  // namespace

struct PagePool::State {
  size_t limit = 0, used = 0, peak = 0;
  std::array<size_t, kMemoryClasses> by_class{};
  size_t mapped = 0;
  size_t handed_out = 0;          // bytes of slots in use
  size_t idle = 0;                // bytes of free slots that are resident
  size_t idle_most = kIdleBytes;  // a small limit is not exceeded by much either
  size_t trim_at = kIdleBytes;
  size_t shared = 0;  // pages with several owners
  std::map<size_t, SizeClass> sizes;

  void count(size_t bytes, MemoryClass what) {
    PITH_CHECK(bytes <= limit - used, "cache memory is taken only after asking for it");
    used += bytes;
    by_class[static_cast<size_t>(what)] += bytes;
    peak = std::max(peak, used);
  }
  void discount(size_t bytes, MemoryClass what) {
    PITH_CHECK(bytes <= by_class[static_cast<size_t>(what)], "more is given back than was taken");
    used -= bytes;
    by_class[static_cast<size_t>(what)] -= bytes;
  }

  Slab* add_slab(SizeClass& size, size_t slot) {
    const size_t slots = slot > kAlone ? 1 : std::min(kSlots, kSlabBytes / slot);
    const size_t bytes =
        slots == kSlabBytes / slot ? kSlabBytes : round_up(slot * slots, kSystemPage);
    auto slab = std::make_unique<Slab>(slot, bytes, slots);
    set_readable(slab->base, bytes, false);
    mapped += bytes;
    return (size.slabs[slab->base] = std::move(slab)).get();
  }

  void drop_slab(SizeClass& size, Slab* slab) {
    idle -= slab->idle * slab->slot;
    mapped -= slab->bytes;
    size.slabs.erase(slab->base);
  }

  // Gives the memory of freed pages back to the system, as far as it covers whole system pages.
  void trim(Slab& slab) {
    const size_t slots = slab.records.size();
    for (size_t i = 0; i < slots;) {
      if (!slab.free[i]) {
        ++i;
        continue;
      }
      const size_t first = i;
      bool resident = false;
      for (; i < slots && slab.free[i]; ++i) resident = resident || slab.touched[i];
      const size_t from = round_up(first * slab.slot, kSystemPage);
      const size_t to = (i == slots ? slab.bytes : i * slab.slot) / kSystemPage * kSystemPage;
      if (!resident || from >= to) continue;
      if (madvise(slab.base + from, to - from, MADV_DONTNEED) != 0) continue;
      for (size_t s = first; s < i; ++s)
        if (slab.touched[s] && s * slab.slot >= from && (s + 1) * slab.slot <= to) {
          slab.touched.set(s, false);
          --slab.idle;
          idle -= slab.slot;
        }
    }
  }
  void trim() {
    for (auto& [bytes, size] : sizes)
      for (auto& [base, slab] : size.slabs)
        if (slab->idle > 0) trim(*slab);
    trim_at = idle + idle_most;  // what cannot go back is not tried again for each page
  }
};

const char* name(MemoryClass what) {
  constexpr std::array<const char*, kMemoryClasses> kNames = {
      "keys", "values", "pseudo rows", "lanes", "summaries", "prompt", "dropped tokens", "bases"};
  return kNames[static_cast<size_t>(what)];
}

std::string mebibytes(size_t bytes) {
  return std::to_string((bytes + (size_t{1} << 20) - 1) >> 20) + " MiB";
}

PagePool::PagePool(size_t limit_bytes) : state_(std::make_unique<State>()) {
  state_->limit = limit_bytes;
  state_->trim_at = state_->idle_most =
      std::clamp(limit_bytes / kIdleShare, std::min(kSlabBytes / 8, kIdleBytes), kIdleBytes);
}

PagePool::~PagePool() {
  PITH_CHECK(state_->handed_out == 0, "a pool outlives the stores in it");
}

size_t PagePool::page_cost(size_t bytes) {
  return slot_bytes(bytes) + sizeof(Page);
}

Page* PagePool::acquire(size_t bytes, MemoryClass what) {
  State& s = *state_;
  PITH_CHECK(bytes <= std::numeric_limits<uint32_t>::max(), "a page is less than 4 GiB");
  PITH_CHECK(page_cost(bytes) <= free_bytes(), "a page is acquired only after asking for it");
  const size_t slot = slot_bytes(bytes);
  SizeClass& size = s.sizes[slot];
  Slab* slab = size.roomy.empty() ? size.empty : *size.roomy.begin();
  if (slab == nullptr) slab = s.add_slab(size, slot);
  if (slab->used == 0) {
    size.empty = nullptr;
    size.roomy.insert(slab);
  }
  const size_t i = slab->free.take_first();
  if (++slab->used == slab->records.size()) size.roomy.erase(slab);
  if (slab->touched[i]) {
    --slab->idle;
    s.idle -= slot;
  }
  slab->touched.set(i, true);
  s.trim_at = std::min(s.trim_at, s.idle + s.idle_most);
  s.handed_out += slot;
  s.count(page_cost(bytes), what);

  Page& page = slab->records[i];
  page = {slab->base + i * slot, slab, static_cast<uint32_t>(bytes), 1, what};
  set_readable(page.data, slot, true);
  return &page;
}

void PagePool::share(Page* page) {
  if (page->owners++ == 1) ++state_->shared;
}

void PagePool::release(Page* page) {
  PITH_CHECK(page->owners > 0, "a page is released once by each owner");
  State& s = *state_;
  if (--page->owners > 0) {
    if (page->owners == 1) --s.shared;
    return;
  }
  Slab* slab = page->slab;
  SizeClass& size = s.sizes[slab->slot];
  s.discount(page_cost(page->bytes), page->what);
  s.handed_out -= slab->slot;
  s.idle += slab->slot;
  ++slab->idle;
  set_readable(page->data, slab->slot, false);
  if (slab->used == slab->records.size()) size.roomy.insert(slab);
  slab->free.set(static_cast<size_t>(page - slab->records.data()), true);
  if (--slab->used == 0) {
    size.roomy.erase(slab);
    if (size.empty == nullptr && slab->slot <= kAlone)
      size.empty = slab;
    else
      s.drop_slab(size, slab);
  }
  if (s.idle > s.trim_at) s.trim();
}

void PagePool::charge(size_t bytes, MemoryClass what) {
  state_->count(bytes, what);
}

void PagePool::refund(size_t bytes, MemoryClass what) {
  state_->discount(bytes, what);
}

size_t PagePool::limit_bytes() const {
  return state_->limit;
}
size_t PagePool::free_bytes() const {
  return state_->limit - state_->used;
}
size_t PagePool::used_bytes() const {
  return state_->used;
}
size_t PagePool::used_bytes(MemoryClass what) const {
  return state_->by_class[static_cast<size_t>(what)];
}
size_t PagePool::peak_bytes() const {
  return state_->peak;
}
void PagePool::reset_peak() {
  state_->peak = state_->used;
}
size_t PagePool::shared_pages() const {
  return state_->shared;
}
size_t PagePool::mapped_bytes() const {
  return state_->mapped;
}
size_t PagePool::resident_bytes() const {
  return state_->handed_out + state_->idle;
}

}  // namespace pith

#include "kv/page_pool.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>
#include <set>
#include <unistd.h>
#include <vector>

#include "kv/counted_array.h"

namespace pith::test {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

// What the system has given this process, as it says itself.
size_t resident() {
  size_t total = 0, pages = 0;
  std::ifstream("/proc/self/statm") >> total >> pages;
  return pages * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

void fill(Page* page, int value) {
  std::memset(page->data, value, page->bytes);
}

bool holds(const Page* page, int value) {
  return std::all_of(page->data, page->data + page->bytes,
                     [&](std::byte b) { return b == static_cast<std::byte>(value); });
}

TEST(PagePool, CountsEachPageWithItsSlotAndItsRecord) {
  PagePool pool;
  EXPECT_EQ(PagePool::page_cost(1), 64 + sizeof(Page));
  EXPECT_EQ(PagePool::page_cost(4096), 4096 + sizeof(Page));
  EXPECT_EQ(PagePool::page_cost(4097), 4160 + sizeof(Page));
  Page* keys = pool.acquire(4096, MemoryClass::pages_k);
  Page* values = pool.acquire(100, MemoryClass::pages_v);
  EXPECT_EQ(pool.used_bytes(MemoryClass::pages_k), PagePool::page_cost(4096));
  EXPECT_EQ(pool.used_bytes(MemoryClass::pages_v), PagePool::page_cost(100));
  EXPECT_EQ(pool.used_bytes(), PagePool::page_cost(4096) + PagePool::page_cost(100));
  EXPECT_EQ(keys->bytes, 4096u);
  EXPECT_EQ(keys->owners, 1);
  pool.release(keys);
  pool.release(values);
  EXPECT_EQ(pool.used_bytes(), 0u);
}

TEST(PagePool, ChargesOtherMemoryByClassAndRemembersThePeak) {
  PagePool pool(1000);
  pool.charge(600, MemoryClass::prompt);
  pool.charge(300, MemoryClass::lanes);
  EXPECT_EQ(pool.free_bytes(), 100u);
  pool.refund(600, MemoryClass::prompt);
  EXPECT_EQ(pool.used_bytes(), 300u);
  EXPECT_EQ(pool.used_bytes(MemoryClass::lanes), 300u);
  EXPECT_EQ(pool.peak_bytes(), 900u);
  pool.reset_peak();
  EXPECT_EQ(pool.peak_bytes(), 300u);
  pool.refund(300, MemoryClass::lanes);
}

TEST(PagePool, HandsOutExactlyTheLimit) {
  PagePool pool(10 * PagePool::page_cost(4096));
  std::vector<Page*> pages;
  for (int i = 0; i < 10; ++i) pages.push_back(pool.acquire(4096, MemoryClass::pages_k));
  EXPECT_EQ(pool.free_bytes(), 0u);
  pool.release(pages.back());
  pages.back() = pool.acquire(4096, MemoryClass::pages_v);
  for (Page* page : pages) pool.release(page);
}

TEST(PagePoolDeathTest, RefusesMoreThanTheLimitAsABrokenPromise) {
  PagePool pool(PagePool::page_cost(4096) - 1);
  EXPECT_DEATH(pool.acquire(4096, MemoryClass::pages_k), "only after asking");
  EXPECT_DEATH(pool.charge(pool.limit_bytes() + 1, MemoryClass::lanes), "only after asking");
  EXPECT_DEATH(pool.refund(1, MemoryClass::lanes), "more is given back");
}

TEST(PagePool, KeepsASharedPageUntilItsLastOwnerReleasesIt) {
  PagePool pool;
  Page* page = pool.acquire(64, MemoryClass::pages_k);
  pool.share(page);
  pool.share(page);
  EXPECT_EQ(pool.shared_pages(), 1u);
  pool.release(page);
  EXPECT_EQ(pool.shared_pages(), 1u);
  pool.release(page);
  EXPECT_EQ(pool.shared_pages(), 0u);
  EXPECT_EQ(pool.used_bytes(), PagePool::page_cost(64));
  pool.release(page);
  EXPECT_EQ(pool.used_bytes(), 0u);
}

TEST(PagePool, MapsALargePageAloneAndUnmapsItAtOnce) {
  PagePool pool;
  Page* page = pool.acquire(5 * kMiB + 1, MemoryClass::pages_k);
  EXPECT_EQ(pool.mapped_bytes(), 5 * kMiB + 4096);
  fill(page, 7);
  EXPECT_TRUE(holds(page, 7));
  pool.release(page);
  EXPECT_EQ(pool.mapped_bytes(), 0u);
  EXPECT_EQ(pool.resident_bytes(), 0u);
}

TEST(PagePool, ServesTheNextPageFromMemoryThatWasFreed) {
  PagePool pool;
  Page* first = pool.acquire(4096, MemoryClass::pages_k);
  const std::byte* data = first->data;
  pool.release(first);
  EXPECT_EQ(pool.mapped_bytes(), PagePool::kSlabBytes);
  Page* second = pool.acquire(4096, MemoryClass::pages_v);
  EXPECT_EQ(second->data, data);
  pool.release(second);
}

TEST(PagePool, KeepsAtMostOneEmptySlabOfEachSize) {
  PagePool pool;
  std::vector<Page*> pages;
  for (int i = 0; i < 3000; ++i) pages.push_back(pool.acquire(4096, MemoryClass::pages_k));
  for (int i = 0; i < 3000; ++i) pages.push_back(pool.acquire(2048, MemoryClass::pages_v));
  EXPECT_EQ(pool.mapped_bytes(), (6 + 3) * PagePool::kSlabBytes);
  for (Page* page : pages) pool.release(page);
  EXPECT_EQ(pool.mapped_bytes(), 2 * PagePool::kSlabBytes);
}

TEST(PagePool, LetsResidentMemoryFollowUse) {
  const size_t before = resident();
  {
    PagePool pool;
    std::vector<Page*> pages;
    for (size_t i = 0; i < 256 * kMiB / 4096; ++i) {
      pages.push_back(pool.acquire(4096, MemoryClass::pages_k));
      fill(pages.back(), 1);
    }
    EXPECT_EQ(pool.mapped_bytes(), 256 * kMiB);
    EXPECT_GE(resident(), before + 250 * kMiB);
    // Every slab stays in use, but little of it.
    std::vector<Page*> kept;
    for (size_t i = 0; i < pages.size(); ++i)
      if (i % 64 == 5)
        kept.push_back(pages[i]);
      else
        pool.release(pages[i]);
    EXPECT_EQ(pool.mapped_bytes(), 256 * kMiB);
    EXPECT_LE(pool.resident_bytes(), pool.used_bytes() + PagePool::kIdleBytes);
    EXPECT_LE(resident(), before + 64 * kMiB);
    for (const Page* page : kept) EXPECT_TRUE(holds(page, 1));
    for (Page* page : kept) pool.release(page);
    EXPECT_EQ(pool.mapped_bytes(), PagePool::kSlabBytes);
  }
  EXPECT_LE(resident(), before + 48 * kMiB);
}

TEST(PagePool, DoesNotSearchAgainForMemoryThatCannotGoBack) {
  // Pages smaller than the system's, freed one by one between used ones: nothing can be returned,
  // and they are counted as resident until they are used again.
  PagePool pool;
  std::vector<Page*> pages;
  for (size_t i = 0; i < 16 * kMiB / 1024; ++i)
    pages.push_back(pool.acquire(1024, MemoryClass::pages_k));
  size_t freed = 0;
  for (size_t i = 0; i < pages.size(); i += 2, freed += 1024) pool.release(pages[i]);
  EXPECT_EQ(pool.resident_bytes(), 16 * kMiB);
  for (size_t i = 0; i < pages.size(); i += 2) pages[i] = pool.acquire(1024, MemoryClass::pages_v);
  EXPECT_EQ(pool.mapped_bytes(), 16 * kMiB);
  for (Page* page : pages) pool.release(page);
}

RC_GTEST_PROP(PagePool, NeverHandsOutMemoryTwiceAndCountsWhatIsHeld,
              (const std::vector<std::pair<uint16_t, bool>>& acts)) {
  constexpr size_t kSizes[] = {1, 64, 96, 512, 4096, 6144, 300000};
  PagePool pool;
  std::vector<std::pair<Page*, int>> held;
  size_t used = 0, peak = 0;
  int next = 0;
  for (const auto& [number, take] : acts) {
    if (take || held.empty()) {
      const size_t bytes = kSizes[number % std::size(kSizes)];
      Page* page = pool.acquire(bytes, number % 2 ? MemoryClass::pages_k : MemoryClass::pages_v);
      RC_ASSERT(reinterpret_cast<uintptr_t>(page->data) % 64 == 0u);
      fill(page, ++next);
      held.emplace_back(page, next);
      used += PagePool::page_cost(bytes);
    } else {
      const size_t i = number % held.size();
      RC_ASSERT(holds(held[i].first, held[i].second));
      used -= PagePool::page_cost(held[i].first->bytes);
      pool.release(held[i].first);
      held.erase(held.begin() + static_cast<long>(i));
    }
    peak = std::max(peak, used);
    RC_ASSERT(pool.used_bytes() == used);
    RC_ASSERT(pool.peak_bytes() == peak);
    RC_ASSERT(pool.mapped_bytes() >= pool.resident_bytes());
  }
  std::set<const std::byte*> places;
  for (const auto& [page, value] : held) {
    RC_ASSERT(holds(page, value));
    places.insert(page->data);
  }
  RC_ASSERT(places.size() == held.size());
  for (const auto& [page, value] : held) pool.release(page);
  RC_ASSERT(pool.used_bytes() == 0u);
}

TEST(CountedArray, GrowsByASixteenthAndSaysBefore) {
  PagePool pool;
  CountedArray<int32_t> lane(pool, MemoryClass::lanes);
  for (int i = 0; i < 10000; ++i) {
    const size_t before = lane.bytes(), growth = lane.growth(lane.size() + 1);
    lane.push_back(i);
    ASSERT_EQ(lane.bytes(), before + growth);
    ASSERT_EQ(pool.used_bytes(MemoryClass::lanes), lane.bytes());
  }
  EXPECT_LE(lane.bytes(), 10000 * 4 * 17 / 16 + 64);
  for (int i = 0; i < 10000; ++i) ASSERT_EQ(lane[i], i);
  lane.truncate(100);
  lane.fit();
  EXPECT_EQ(lane.bytes(), 400u);
  EXPECT_EQ(lane.growth(100), 0u);
  EXPECT_EQ(lane.growth(5000), 4 * 4900u);
}

}  // namespace
}  // namespace pith::test

// Beside coded pages an open one is as large as its rows, and scores that nobody reads again go:
// to the byte, and within what is asked for before.
#include <gtest/gtest.h>
#include <numeric>

#include "kv/store.h"
#include "support/cache_helpers.h"

namespace pith::test {
namespace {

constexpr int kDim = 64;
constexpr KvShape kShape{.layers = 1, .query_heads = 1, .heads = 1, .dim = kDim, .width = 32};

StoreSpec coded() {
  return {.k = channel_keys(2), .v = grouped_values(2, 64), .page_rows = 64, .keeps_scores = false};
}

void write_rows(KvStore& store, int rows) {
  std::vector<float> x;
  std::vector<int32_t> positions;
  for (int r = 0; r < rows; ++r) {
    for (const float value : exact_row(r, kDim)) x.push_back(value);
    positions.push_back(r);
  }
  HeadPlan plan;
  plan.keep.resize(static_cast<size_t>(rows));
  std::iota(plan.keep.begin(), plan.keep.end(), 0);
  const ConstMat given = ConstMat::packed(x.data(), {rows, kDim});
  store.at(0, 0).write(given, given, positions, {}, plan);
  store.seal(nullptr);
  store.forget_scores();
}

size_t plain(int rows) {
  return 2 * PagePool::page_cost(static_cast<size_t>(rows) * kDim * 2);
}

TEST(StoreGrowth, AnOpenPageHasRoomForItsRowsAndAFewMore) {
  const StoreSpec spec = coded();
  PagePool pool;
  KvStore store(kShape, spec, pool);
  write_rows(store, 64 + 38);
  EXPECT_EQ(store.bytes().open, plain(40));
  EXPECT_EQ(store.bytes().lanes, 102 * 4 + size_t{2 * 2 * 16} * 8) << "positions, and page tables";
  for (int r = 102; r < 128; ++r) {
    store.at(0, 0).append(exact_row(r, kDim), exact_row(r, kDim), r);
    EXPECT_EQ(store.bytes().open, plain((r + 1 - 64 + 7) / 8 * 8)) << r;
  }
  store.seal(nullptr);
  EXPECT_EQ(store.bytes().open, 0u);
  std::vector<float> scratch;
  const ConstMat keys = store.at(0, 0).keys(scratch);
  EXPECT_EQ(keys.dim[0], 128);
}

TEST(StoreGrowth, PlainStoresHaveWholePagesAndScores) {
  const StoreSpec spec{.page_rows = 64};
  PagePool pool;
  KvStore store(kShape, spec, pool);
  write_rows(store, 3);
  EXPECT_EQ(store.bytes().open, plain(64));
  EXPECT_EQ(store.at(0, 0).scores().size(), 3u);
}

// The rows it has are there until they are copied.
TEST(StoreGrowth, AStepAsksForThePageThatGrowsAndForItsRows) {
  const StoreSpec spec = coded();
  for (int rows = 1; rows <= 130; ++rows) {
    PagePool pool(size_t{1} << 20);
    KvStore store(kShape, spec, pool);
    write_rows(store, rows);
    const size_t filler = pool.free_bytes() - store.bytes_for_step();
    pool.charge(filler, MemoryClass::prompt);
    store.at(0, 0).append(exact_row(rows, kDim), exact_row(rows, kDim), rows);
    store.seal(nullptr);
    pool.refund(filler, MemoryClass::prompt);
    EXPECT_EQ(store.at(0, 0).rows(), rows + 1);
  }
}

}  // namespace
}  // namespace pith::test

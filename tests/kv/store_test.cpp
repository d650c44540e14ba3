#include "kv/store.h"

#include <algorithm>
#include <cmath>
#include <gtest/gtest.h>
#include <numeric>

#include "base/error.h"
#include "base/random.h"
#include "support/cache_helpers.h"

namespace pith::test {
namespace {

constexpr int kDim = 16;
constexpr KvShape kShape{.layers = 2, .query_heads = 4, .heads = 2, .dim = kDim, .width = 32};

HeadPlan keep_all(int rows) {
  HeadPlan plan;
  plan.keep.resize(static_cast<size_t>(rows));
  std::iota(plan.keep.begin(), plan.keep.end(), 0);
  return plan;
}

// Writes rows with ids first, first + 1, ... at positions of the same numbers into one head.
void write_rows(HeadCache& head, int first, int rows, const HeadPlan& plan) {
  std::vector<float> k, v, scores;
  std::vector<int32_t> positions;
  for (int r = first; r < first + rows; ++r) {
    for (const float x : exact_row(r, kDim)) k.push_back(x);
    for (const float x : exact_row(r + 500, kDim)) v.push_back(x);
    positions.push_back(r);
    scores.push_back(static_cast<float>(r) / 2);
  }
  head.write(ConstMat::packed(k.data(), {rows, kDim}), ConstMat::packed(v.data(), {rows, kDim}),
             positions, scores, plan);
}
void write_rows(HeadCache& head, int first, int rows) {
  write_rows(head, first, rows, keep_all(rows));
}
void write_everywhere(KvStore& store, int first, int rows) {
  for (int l = 0; l < kShape.layers; ++l)
    for (int h = 0; h < kShape.heads; ++h) write_rows(store.at(l, h), first, rows);
}
void step(KvStore& store, int id) {
  for (int l = 0; l < kShape.layers; ++l)
    for (int h = 0; h < kShape.heads; ++h)
      store.at(l, h).append(exact_row(id, kDim), exact_row(id + 500, kDim), id);
}
std::vector<int32_t> positions_of(const HeadCache& head) {
  return {head.positions().begin(), head.positions().end()};
}
// Every row still has the vectors that were written with its position.
void expect_true_to_positions(const HeadCache& head) {
  const PlainRows read = read_paged(head.paged({}), kDim);
  ASSERT_EQ(read.k.size(), static_cast<size_t>(head.rows()));
  for (size_t r = 0; r < read.k.size(); ++r) {
    EXPECT_EQ(read.k[r], exact_row(read.positions[r], kDim)) << "row " << r;
    EXPECT_EQ(read.v[r], exact_row(read.positions[r] + 500, kDim)) << "row " << r;
  }
}

TEST(KvStore, StartsEmptyAndTakesNoMemory) {
  PagePool pool;
  const StoreSpec spec;
  KvStore store(kShape, spec, pool);
  EXPECT_EQ(pool.used_bytes(), 0u);
  EXPECT_EQ(store.rows(), 0);
  EXPECT_EQ(store.at(1, 1).paged({}).rows(), 0);
  store.seal(nullptr);
  store.mark();
  store.rewind();
  EXPECT_EQ(store.fork()->rows(), 0);
  EXPECT_EQ(pool.used_bytes(), 0u);
}

TEST(KvStore, StoresOnlyTheRowsThatAPlanKeeps) {
  PagePool pool;
  const StoreSpec spec;
  KvStore store(kShape, spec, pool);
  HeadCache& head = store.at(0, 1);
  write_rows(head, 0, 100, {{0, 3, 4, 5, 50, 99}, {}});
  EXPECT_EQ(positions_of(head), (std::vector<int32_t>{0, 3, 4, 5, 50, 99}));
  EXPECT_EQ(head.scores()[4], 25.0f);
  expect_true_to_positions(head);
  EXPECT_EQ(pool.used_bytes(MemoryClass::pages_k), PagePool::page_cost(32 * kDim * 2));
  EXPECT_EQ(store.at(0, 0).rows(), 0);
}

TEST(KvStore, HoldsNoRowsOneRowAndExactlyOnePage) {
  for (const int rows : {0, 1, 31, 32, 33, 64}) {
    PagePool pool;
    const StoreSpec spec;
    KvStore store(kShape, spec, pool);
    write_everywhere(store, 0, rows);
    const size_t pages = static_cast<size_t>((rows + 31) / 32) * 4;
    EXPECT_EQ(pool.used_bytes(MemoryClass::pages_k), pages * PagePool::page_cost(32 * kDim * 2));
    const PagedHead open = store.at(1, 0).paged({});
    EXPECT_EQ(open.sealed_k.size(), 0u);
    EXPECT_EQ(open.open_rows, rows);
    store.seal(nullptr);
    const PagedHead sealed = store.at(1, 0).paged({});
    EXPECT_EQ(sealed.sealed_k.size(), static_cast<size_t>(rows / 32));
    EXPECT_EQ(sealed.open_rows, rows % 32);
    EXPECT_EQ(sealed.rows(), rows);
    expect_true_to_positions(store.at(1, 0));
  }
}

TEST(KvStore, SealsOnlyPagesOlderThanTheTail) {
  PagePool pool;
  const StoreSpec spec{.k = Quant::f32, .page_rows = 8, .tail_rows = 10};
  KvStore store(kShape, spec, pool);
  HeadCache& head = store.at(0, 0);
  write_rows(head, 0, 17);
  store.seal(nullptr);
  EXPECT_EQ(head.sealed_rows(), 0);
  write_rows(head, 17, 1);
  store.seal(nullptr);
  EXPECT_EQ(head.sealed_rows(), 8);
  EXPECT_EQ(head.paged({}).k_quant, Quant::f32);
  EXPECT_EQ(head.paged({}).open_rows, 10);
  expect_true_to_positions(head);
}

TEST(KvStore, SealingInTheOpenFormatMovesNoByte) {
  PagePool pool;
  const StoreSpec spec;
  KvStore store(kShape, spec, pool);
  write_everywhere(store, 0, 100);
  const std::byte* first = store.at(0, 0).paged({}).open_k[0];
  const size_t used = pool.used_bytes();
  pool.charge(pool.free_bytes(), MemoryClass::prompt);  // so none could be taken
  store.seal(nullptr);
  EXPECT_EQ(store.at(0, 0).paged({}).sealed_k[0], first);
  pool.refund(pool.used_bytes() - used, MemoryClass::prompt);
}

TEST(KvStore, DropsRowsOfCodedPagesByCodingTheRestAgain) {
  PagePool pool;
  const StoreSpec spec{.k = Quant::f32, .v = Quant::f32, .page_rows = 4};
  KvStore store(kShape, spec, pool);
  HeadCache& head = store.at(0, 0);
  write_rows(head, 0, 18);
  store.seal(nullptr);
  ASSERT_EQ(head.sealed_rows(), 16);
  const std::byte* second = head.paged({}).sealed_k[1];
  // Row 8 goes: pages 0 and 1 stay, of the other sealed rows 4 fill a page and 3 are open again.
  HeadPlan plan = keep_all(18);
  plan.keep.erase(plan.keep.begin() + 8);
  EXPECT_EQ(head.apply(plan), 7);
  EXPECT_EQ(head.sealed_rows(), 12);
  EXPECT_EQ(head.paged({}).sealed_k[1], second);
  EXPECT_EQ(head.paged({}).open_rows, 5);
  expect_true_to_positions(head);
  store.seal(nullptr);
  EXPECT_EQ(head.sealed_rows(), 16);
  expect_true_to_positions(head);
}

TEST(KvStore, DropsAWholeCodedPageWithoutCodingAnythingAgain) {
  PagePool pool;
  const StoreSpec spec{.k = Quant::f32, .v = Quant::f32, .page_rows = 4};
  KvStore store(kShape, spec, pool);
  HeadCache& head = store.at(0, 0);
  write_rows(head, 0, 16);
  store.seal(nullptr);
  const std::byte* last = head.paged({}).sealed_k[3];
  EXPECT_EQ(head.apply({{0, 1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 15}, {}}), 0);
  EXPECT_EQ(head.paged({}).sealed_k[2], last);
  EXPECT_EQ(head.sealed_rows(), 12);
  expect_true_to_positions(head);
}

TEST(KvStore, DropsEveryRow) {
  PagePool pool;
  const StoreSpec spec;
  KvStore store(kShape, spec, pool);
  write_rows(store.at(0, 0), 0, 100);
  store.seal(nullptr);
  store.at(0, 0).apply({});
  EXPECT_EQ(store.at(0, 0).rows(), 0);
  EXPECT_EQ(pool.used_bytes(MemoryClass::pages_k), 0u);
  write_rows(store.at(0, 0), 7, 2);
  expect_true_to_positions(store.at(0, 0));
}

TEST(KvStore, ShrinkingOpenPagesTakesNoMemoryAndGivesTheRestBack) {
  PagePool pool;
  const StoreSpec spec;
  KvStore store(kShape, spec, pool);
  write_rows(store.at(0, 0), 0, 3200);
  HeadPlan plan;
  for (int r = 1; r < 3200; r += 10) plan.keep.push_back(r);
  EXPECT_EQ(store.bytes_for_apply(), 0u);
  const size_t used = pool.used_bytes(), filler = pool.free_bytes();
  pool.charge(filler, MemoryClass::prompt);
  store.at(0, 0).apply(plan);
  pool.refund(filler, MemoryClass::prompt);
  expect_true_to_positions(store.at(0, 0));
  EXPECT_LE(pool.used_bytes(), used / 10 + 1024);
}

TEST(KvStore, AForkSharesPagesUntilOneSideWrites) {
  PagePool pool;
  const StoreSpec spec;
  KvStore store(kShape, spec, pool);
  write_everywhere(store, 0, 100);
  store.seal(nullptr);
  const size_t pages = pool.used_bytes(MemoryClass::pages_k);
  const std::unique_ptr<KvStore> fork = store.fork();
  EXPECT_EQ(pool.used_bytes(MemoryClass::pages_k), pages);
  EXPECT_EQ(store.bytes().sealed + fork->bytes().sealed,
            size_t{2} * 4 * 3 * PagePool::page_cost(32 * kDim * 2));

  // Each head's last page is copied by the first to write; the other then owns its page alone.
  step(*fork, 1000);
  EXPECT_EQ(pool.used_bytes(MemoryClass::pages_k), pages + 4 * PagePool::page_cost(32 * kDim * 2));
  step(store, 2000);
  EXPECT_EQ(pool.used_bytes(MemoryClass::pages_k), pages + 4 * PagePool::page_cost(32 * kDim * 2));
  EXPECT_EQ(store.at(1, 1).positions().back(), 2000);
  EXPECT_EQ(fork->at(1, 1).positions().back(), 1000);
  for (int h = 0; h < 2; ++h) {
    expect_true_to_positions(store.at(1, h));
    expect_true_to_positions(fork->at(1, h));
  }
}

TEST(KvStore, AForkOutlivesItsOriginal) {
  PagePool pool;
  const StoreSpec spec;
  auto store = std::make_unique<KvStore>(kShape, spec, pool);
  write_everywhere(*store, 0, 70);
  const std::unique_ptr<KvStore> fork = store->fork();
  store.reset();
  step(*fork, 70);
  expect_true_to_positions(fork->at(0, 0));
  EXPECT_EQ(pool.used_bytes(), fork->bytes().total());
}

TEST(KvStore, AForkThatDoesNotFitIsRefusedInASentence) {
  PagePool pool(size_t{64} << 10);
  const StoreSpec spec;
  KvStore store(kShape, spec, pool);
  write_everywhere(store, 0, 100);
  const size_t filler = pool.free_bytes() - store.bytes_for_fork() + 1;
  pool.charge(filler, MemoryClass::prompt);
  try {
    store.fork();
    FAIL() << "the fork was made";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Errc::no_memory);
    EXPECT_NE(std::string(e.what()).find("raise the cache limit"), std::string::npos) << e.what();
  }
  pool.refund(filler, MemoryClass::prompt);
}

TEST(KvStore, RewindDropsTheRowsOfAPromptAndRestoresThePseudoRows) {
  PagePool pool;
  const StoreSpec spec{.pseudo_rows = 1};
  KvStore store(kShape, spec, pool);
  HeadCache& head = store.at(0, 0);
  const PseudoRow old{exact_row(900, kDim), exact_row(901, kDim), 5};
  write_rows(head, 0, 40, {keep_all(40).keep, {old}});
  store.mark();
  write_rows(head, 40, 60);
  HeadPlan plan{{}, {PseudoRow{exact_row(1, kDim), exact_row(2, kDim), 9}}};
  for (int r = 10; r < 100; r += 2) plan.keep.push_back(r);
  head.apply(plan);
  EXPECT_EQ(head.pseudo()[0].weight, 9);
  store.rewind();
  EXPECT_EQ(head.rows(), 15);  // the plan had dropped 25 of the old 40
  EXPECT_EQ(head.positions().back(), 38);
  ASSERT_EQ(head.pseudo().size(), 1u);
  EXPECT_EQ(head.pseudo()[0].weight, 5);
  EXPECT_EQ(head.paged({}).pseudo_log_weight[0], std::log(5.0f));
  write_rows(head, 200, 30);
  store.rewind();
  EXPECT_EQ(head.rows(), 15);
  expect_true_to_positions(head);
}

TEST(KvStore, WriteAddsPseudoRowsAndApplyReplacesThem) {
  PagePool pool;
  const StoreSpec spec{.pseudo_rows = 2};
  KvStore store(kShape, spec, pool);
  HeadCache& head = store.at(0, 0);
  const auto row = [](int id) {
    return PseudoRow{exact_row(id, kDim), exact_row(id + 1, kDim), 2};
  };
  write_rows(head, 0, 4, {{3}, {row(1)}});
  write_rows(head, 4, 4, {{0}, {row(2), row(3)}});
  EXPECT_EQ(head.pseudo().size(), 3u);
  EXPECT_EQ(head.paged({}).pseudo_v.dim[0], 3);
  EXPECT_EQ(head.paged({}).pseudo_k.row(2)[5], exact_row(3, kDim)[5]);
  head.apply({{0, 1}, {row(7)}});
  EXPECT_EQ(head.pseudo().size(), 1u);
  EXPECT_EQ(head.pseudo()[0].k, exact_row(7, kDim));
  EXPECT_EQ(pool.used_bytes(MemoryClass::pseudo), store.bytes().pseudo);
}

TEST(KvStore, RowsCompactedByAnyPlanKeepTheirVectors) {
  PagePool pool;
  const StoreSpec spec{.page_rows = 8};
  Random random(3);
  for (int round = 0; round < 50; ++round) {
    KvStore store(kShape, spec, pool);
    HeadCache& head = store.at(0, 0);
    write_rows(head, 0, 100);
    HeadPlan plan;
    for (int r = 0; r < 100; ++r)
      if (random.below(100) < 2 * static_cast<uint64_t>(round)) plan.keep.push_back(r);
    head.apply(plan);
    EXPECT_EQ(positions_of(head), plan.keep);
    expect_true_to_positions(head);
  }
}

TEST(KvStore, RepackTurnsOnlyTheKeysThatMove) {
  PagePool pool;
  const StoreSpec spec{.open = Quant::f32, .page_rows = 4};
  KvStore store(kShape, spec, pool);
  HeadCache& head = store.at(0, 0);
  write_rows(head, 0, 20);
  head.apply({{0, 1, 12, 13, 14, 15, 16, 17, 18, 19}, {}});
  const std::vector<int32_t> closed = {10, 11, 12, 13, 14, 15, 16, 17, 18, 19};
  std::vector<int32_t> turned;
  head.repack(closed, [&](Mat keys, std::span<const int32_t> by) {
    for (size_t r = 0; r < by.size(); ++r) {
      turned.push_back(by[r]);
      for (float& x : keys.row(static_cast<int64_t>(r))) x += 1000.0f * static_cast<float>(by[r]);
    }
  });
  EXPECT_EQ(turned, (std::vector<int32_t>{10, 10, 0, 0}));  // pages without a gap are not read
  EXPECT_EQ(positions_of(head), closed);
  const PlainRows read = read_paged(head.paged({}), kDim);
  EXPECT_EQ(read.k[1][3], exact_row(1, kDim)[3] + 10000);
  EXPECT_EQ(read.v[1], exact_row(501, kDim));
  EXPECT_EQ(read.k[2], exact_row(12, kDim));
}

TEST(KvStore, AReaderSeesTheChosenPagesAndTheOpenRows) {
  class FirstKey final : public PageSummary {
   public:
    int floats(int) const override { return 1; }
    void summarise(ConstMat k_page, std::span<float> summary) const override {
      summary[0] = k_page.row(0)[0];
    }
  } reader;
  PagePool pool;
  const StoreSpec spec{.page_rows = 4};
  KvStore store(kShape, spec, pool);
  HeadCache& head = store.at(0, 0);
  write_rows(head, 0, 18);
  store.seal(&reader);
  ASSERT_EQ(head.summaries().dim[0], 4);
  EXPECT_EQ(head.summaries().row(3)[0], exact_row(12, kDim)[0]);
  EXPECT_EQ(pool.used_bytes(MemoryClass::summaries), store.bytes().summaries);

  const size_t used = pool.used_bytes();
  const std::vector<int32_t> chosen = {1, 3};
  const PagedHead paged = head.paged(chosen);
  EXPECT_EQ(pool.used_bytes(), used);
  const std::vector<int32_t> rows = {4, 5, 6, 7, 12, 13, 14, 15, 16, 17};
  EXPECT_EQ(std::vector<int32_t>(paged.row_numbers.begin(), paged.row_numbers.end()), rows);
  EXPECT_EQ(paged.rows(), 10);
  const PlainRows read = read_paged(paged, kDim);
  EXPECT_EQ(read.positions, rows);
  for (size_t r = 0; r < rows.size(); ++r) EXPECT_EQ(read.k[r], exact_row(rows[r], kDim));
  EXPECT_TRUE(head.paged({}).row_numbers.empty());
}

TEST(KvStore, AsksForExactlyWhatAStepTakesWhereNothingIsCoded) {
  PagePool pool;
  const StoreSpec spec;
  KvStore store(kShape, spec, pool);
  write_everywhere(store, 0, 30);
  for (int id = 30; id < 400; ++id) {
    const size_t asked = store.bytes_for_step(), before = pool.used_bytes();
    step(store, id);
    store.seal(nullptr);
    ASSERT_EQ(pool.used_bytes(), before + asked) << "token " << id;
  }
}

TEST(KvStore, AsksForExactlyWhatALayerTakesIfAllRowsStay) {
  PagePool pool;
  const StoreSpec spec;
  KvStore store(kShape, spec, pool);
  for (int layer = 0; layer < kShape.layers; ++layer) {
    const size_t asked = store.bytes_for_layer(77), before = pool.used_bytes();
    for (int h = 0; h < kShape.heads; ++h) write_rows(store.at(layer, h), 0, 77);
    EXPECT_EQ(pool.used_bytes(), before + asked);
  }
}

TEST(KvStore, CountsFourPercentOnTopOfTheNumbersAtHeadSize64) {
  // docs/store_format.md: 4096 bytes of numbers in each page, its record and entry in the page
  // table, and 8 bytes of lanes for each row.
  KvShape shape = kShape;
  shape.dim = 64;
  PagePool pool;
  const StoreSpec spec;
  KvStore store(shape, spec, pool);
  const int rows = 32000;
  const std::vector<float> x(static_cast<size_t>(rows) * 64, 1.0f);
  std::vector<int32_t> positions(static_cast<size_t>(rows));
  std::iota(positions.begin(), positions.end(), 0);
  const ConstMat mat = ConstMat::packed(x.data(), {rows, 64});
  store.at(0, 0).write(mat, mat, positions, {}, keep_all(rows));
  const double plain = 2.0 * rows * 64 * 2;
  EXPECT_EQ(static_cast<double>(pool.used_bytes()), plain + rows * 8 + rows / 32 * 2 * (32 + 16));
  EXPECT_LT(static_cast<double>(pool.used_bytes()), 1.045 * plain);
}

TEST(KvStore, ValuesBeyondTheOpenFormatAreNotHiddenByTheStore) {
  PagePool pool;
  const StoreSpec wide{.k = Quant::f32, .v = Quant::f32, .open = Quant::f32};
  KvStore store(kShape, wide, pool);
  std::vector<float> row(kDim, 1e30f);
  store.at(0, 0).append(row, row, 0);
  EXPECT_EQ(read_paged(store.at(0, 0).paged({}), kDim).k[0], row);
}

TEST(KvStore, RowsOf8BitPagesStayWhatTheyAreWhenOthersLeave) {
  PagePool pool;
  const StoreSpec spec{.k = Quant::q8_keys, .v = Quant::q8_values};
  KvStore store(kShape, spec, pool);
  HeadCache& head = store.at(0, 0);
  const int rows = 150;
  std::vector<float> x(static_cast<size_t>(rows) * kDim);
  Random random(3);
  for (float& value : x) value = random.normal();
  std::vector<int32_t> positions(static_cast<size_t>(rows));
  std::iota(positions.begin(), positions.end(), 0);
  const ConstMat given = ConstMat::packed(x.data(), {rows, kDim});
  head.write(given, given, positions, {}, keep_all(rows));
  store.seal(nullptr);
  EXPECT_EQ(head.sealed_rows(), 128);
  std::vector<float> before, after;
  head.keys(before);
  HeadPlan plan;
  for (int r = 3; r < rows; r += r % 7 + 1) plan.keep.push_back(r);
  head.apply(plan);
  head.keys(after);
  // Rows coded again keep their codes; those that became open again are rounded to f16 once.
  for (size_t i = 0; i < plan.keep.size(); ++i)
    for (size_t d = 0; d < kDim; ++d) {
      const float was = before[static_cast<size_t>(plan.keep[i]) * kDim + d];
      const bool open = static_cast<int>(i) >= head.sealed_rows();
      ASSERT_NEAR(after[i * kDim + d], was, open ? std::abs(was) * 0x1p-11f : 0) << "row " << i;
    }
}

TEST(KvStore, RowsThatAPlanRewritesGetTheirNewVectorsAndNoOthersChange) {
  for (const Quant quant : {Quant::f16, Quant::q8_values}) {
    PagePool pool;
    const StoreSpec spec{.k = Quant::f16, .v = quant};
    KvStore store(kShape, spec, pool);
    HeadCache& head = store.at(1, 0);
    write_rows(head, 0, 100);  // three pages sealed, four rows open
    store.seal(nullptr);
    const auto fork = store.fork();
    std::vector<float> before, after, other;
    head.values(before);
    HeadPlan plan;
    for (int r = 0; r < 100; ++r)
      if (r != 7 && r != 50) plan.keep.push_back(r);
    for (const int32_t row : {5, 40, 97}) {
      plan.rewritten.push_back({.row = row, .k = {}, .v = exact_row(row + 900, kDim)});
      if (row == 40) plan.rewritten.back().k = exact_row(901, kDim);
    }
    head.apply(plan);
    EXPECT_EQ(head.rows(), 98);
    head.values(after);
    std::vector<float> keys;
    head.keys(keys);
    for (size_t i = 0; i < plan.keep.size(); ++i) {
      const int32_t row = plan.keep[i];
      const bool rewritten = row == 5 || row == 40 || row == 97;
      const std::vector<float> key = row == 40 ? exact_row(901, kDim) : exact_row(row, kDim);
      for (size_t d = 0; d < kDim; ++d) {
        EXPECT_EQ(keys[i * kDim + d], key[d]);
        const float was = before[static_cast<size_t>(row) * kDim + d];
        const float expected = rewritten ? exact_row(row + 900, kDim)[d] : was;
        EXPECT_NEAR(after[i * kDim + d], expected, quant == Quant::f16 ? 0 : 0.7) << row;
      }
    }
    std::as_const(*fork).at(1, 0).values(other);
    EXPECT_EQ(other, before) << "a fork keeps what it had";
  }
}

using KvStoreDeathTest = ::testing::Test;
TEST(KvStoreDeathTest, RefusesPlansThatNameRowsTwiceOrRowsThatDoNotExist) {
  PagePool pool;
  const StoreSpec spec;
  KvStore store(kShape, spec, pool);
  write_rows(store.at(0, 0), 0, 10);
  EXPECT_DEATH(store.at(0, 0).apply({{3, 3}, {}}), "ascending order");
  EXPECT_DEATH(store.at(0, 0).apply({{9, 10}, {}}), "existing rows");
  EXPECT_DEATH(store.at(0, 0).apply({{}, {PseudoRow{}}}), "pseudo_rows");
}
TEST(KvStoreDeathTest, RefusesFormatsThatCannotDoWhatTheirSideDoes) {
  PagePool pool;
  const StoreSpec open{.open = Quant::q8_keys}, k{.k = Quant::q8_values}, v{.v = Quant::q8_keys};
  EXPECT_DEATH(KvStore(kShape, open, pool), "open rows are plain");
  EXPECT_DEATH(KvStore(kShape, k, pool), "queries can meet keys");
  EXPECT_DEATH(KvStore(kShape, v, pool), "values can be summed");
}

}  // namespace
}  // namespace pith::test

// A store that begins with the sealed pages of another one is the store that wrote all its rows,
// and takes no more memory than it asked for.
#include <algorithm>
#include <gtest/gtest.h>
#include <numeric>

#include "kv/store.h"
#include "support/cache_helpers.h"

namespace pith::test {
namespace {

constexpr int kDim = 16;
constexpr KvShape kShape{.layers = 3, .query_heads = 4, .heads = 2, .dim = kDim, .width = 32};

class Extremes final : public PageSummary {
 public:
  int floats(int) const override { return 2; }
  void summarise(ConstMat k, std::span<float> summary) const override {
    summary[0] = summary[1] = k.row(0)[0];
    for (int64_t r = 0; r < k.dim[0]; ++r)
      for (const float x : k.row(r)) {
        summary[0] = std::min(summary[0], x);
        summary[1] = std::max(summary[1], x);
      }
  }
  int group_pages() const override { return 3; }
  void join(ConstMat summaries, std::span<float> group) const override {
    std::ranges::copy(summaries.row(0), group.begin());
    for (int64_t r = 1; r < summaries.dim[0]; ++r) {
      group[0] = std::min(group[0], summaries.row(r)[0]);
      group[1] = std::max(group[1], summaries.row(r)[1]);
    }
  }
};

struct Format {
  StoreSpec spec;
  const PageSummary* summary = nullptr;
};

std::vector<Format> formats() {
  static const Extremes extremes;
  StoreSpec plain{.page_rows = 8};
  StoreSpec bits{.k = channel_keys(4), .v = grouped_values(4, 32), .page_rows = 8, .tail_rows = 5};
  StoreSpec turned{.k = Quant::q8_keys, .v = Quant::q8_values, .page_rows = 16};
  auto bases = std::make_shared<BasisTable>();
  bases->k = bases->v = {shuffling_basis(kDim)};
  turned.basis = bases;
  StoreSpec wide{.k = Quant::f32, .v = Quant::f32, .page_rows = 8};  // more than open pages take
  return {{plain}, {plain, &extremes}, {bits}, {bits, &extremes}, {turned}, {wide, &extremes}};
}

// Rows `first` to 75 of a layer; those before come from `from`, if there are any.
void write_layer(KvStore& store, int layer, int rows, int first, const KvStore* from,
                 const PageSummary* summary) {
  for (int h = 0; h < kShape.heads; ++h) {
    std::vector<float> k, v, scores;
    std::vector<int32_t> positions;
    for (int r = 0; r < rows; ++r) {
      for (const float x : exact_row(r + 100 * h + 7 * layer, kDim)) k.push_back(x);
      for (const float x : exact_row(r + 100 * h + 7 * layer + 500, kDim)) v.push_back(x);
      positions.push_back(r);
      scores.push_back(static_cast<float>(r) / 4);
    }
    HeadCache& head = store.at(layer, h);
    if (from) head.adopt(from->at(layer, h), first, rows, positions, scores, summary);
    HeadPlan plan;
    plan.keep.resize(static_cast<size_t>(rows - first));
    std::iota(plan.keep.begin(), plan.keep.end(), first);
    head.write(ConstMat::packed(k.data(), {rows, kDim}), ConstMat::packed(v.data(), {rows, kDim}),
               positions, scores, plan);
  }
}

void fill(KvStore& store, int rows, const PageSummary* summary) {
  store.mark();
  for (int l = 0; l < kShape.layers; ++l) write_layer(store, l, rows, 0, nullptr, summary);
  store.seal(summary);
}

template <class T>
std::vector<T> copy(std::span<const T> x) {
  return {x.begin(), x.end()};
}

std::vector<float> copy(ConstMat x) {
  return x.data ? std::vector<float>(x.data, x.data + x.dim[0] * x.dim[1]) : std::vector<float>();
}

void expect_equal(const KvStore& a, const KvStore& b) {
  for (int l = 0; l < kShape.layers; ++l)
    for (int h = 0; h < kShape.heads; ++h) {
      const HeadCache &x = a.at(l, h), &y = b.at(l, h);
      EXPECT_EQ(copy(x.positions()), copy(y.positions()));
      EXPECT_EQ(copy(x.scores()), copy(y.scores()));
      EXPECT_EQ(x.sealed_rows(), y.sealed_rows());
      EXPECT_EQ(copy(x.summaries()), copy(y.summaries()));
      EXPECT_EQ(copy(x.groups()), copy(y.groups()));
      std::vector<float> one, other;
      EXPECT_EQ(copy(x.keys(one)), copy(y.keys(other)));
      EXPECT_EQ(copy(x.values(one)), copy(y.values(other)));
    }
}

TEST(StoreShare, IsTheStoreThatWroteAllRowsAndTakesNoMoreThanItAskedFor) {
  for (const auto& [spec, summary] : formats())
    for (const int rows : {64, 70, 75})
      for (int pages = 1; pages * spec.page_rows <= 60; ++pages) {
        PagePool pool(size_t{1} << 20);
        KvStore first(kShape, spec, pool), whole(kShape, spec, pool), shares(kShape, spec, pool);
        fill(first, 75, summary);
        fill(whole, rows, summary);
        const int adopted = std::min(pages * spec.page_rows, first.sealed_rows());
        shares.mark();
        for (int l = 0; l < kShape.layers; ++l) {
          const size_t needed = shares.bytes_for_layer(rows, summary, adopted);
          EXPECT_LT(needed, shares.bytes_for_layer(rows, summary));
          const size_t filler = pool.free_bytes() - needed;
          pool.charge(filler, MemoryClass::prompt);
          write_layer(shares, l, rows, adopted, &first, summary);
          if (l + 1 == kShape.layers) shares.seal(summary);  // or the pool ends the process
          pool.refund(filler, MemoryClass::prompt);
        }
        expect_equal(shares, whole);
        EXPECT_GT(pool.shared_pages(), 0u);
      }
}

TEST(StoreShare, GivesUpItsSharesWhenThePromptIs) {
  for (const auto& [spec, summary] : formats()) {
    PagePool pool(size_t{1} << 20);
    KvStore first(kShape, spec, pool);
    fill(first, 75, summary);
    const KvStore* const from = &first;
    const size_t before = pool.used_bytes();
    {
      KvStore shares(kShape, spec, pool);
      shares.mark();
      write_layer(shares, 0, 75, 32, from, summary);
      shares.rewind();
      EXPECT_EQ(shares.rows(), 0);
      EXPECT_EQ(pool.shared_pages(), 0u);
    }
    EXPECT_EQ(pool.used_bytes(), before);
  }
}

TEST(StoreShare, AForkOfTheFirstRowsHasThemAndNoOthers) {
  for (const auto& [spec, summary] : formats()) {
    PagePool pool(size_t{1} << 20);
    KvStore all(kShape, spec, pool), first(kShape, spec, pool);
    fill(all, 75, summary);
    const int rows = all.sealed_rows();
    const auto fork = all.fork_first(rows);
    EXPECT_EQ(fork->rows(), int64_t{rows} * kShape.layers * kShape.heads);
    EXPECT_EQ(fork->sealed_rows(), rows);
    EXPECT_EQ(pool.shared_pages(),
              static_cast<size_t>(2 * kShape.layers * kShape.heads * (rows / spec.page_rows)));
    for (int l = 0; l < kShape.layers; ++l) {
      std::vector<float> few, many;
      const ConstMat k = std::as_const(*fork).at(l, 1).keys(few);
      const ConstMat same = std::as_const(all).at(l, 1).keys(many);
      EXPECT_TRUE(std::equal(few.begin(), few.end(), many.begin()));
      EXPECT_EQ(k.dim[0], rows);
      EXPECT_EQ(same.dim[0], 75);
    }
  }
}

}  // namespace
}  // namespace pith::test

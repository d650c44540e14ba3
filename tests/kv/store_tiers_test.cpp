// Tiers of a head: pages of different formats side by side, in an order that scores gave.
#include <algorithm>
#include <cmath>
#include <gtest/gtest.h>
#include <numeric>

#include "kv/head_image.h"
#include "kv/store.h"
#include "support/cache_helpers.h"

namespace pith::test {
namespace {

constexpr int kDim = 16;
constexpr KvShape kShape{.layers = 2, .query_heads = 4, .heads = 2, .dim = kDim, .width = 32};
constexpr PageFormats kFour = {Quant::q4_channels, Quant::q4_groups32},
                      kTwo = {Quant::q2_channels, Quant::q2_groups32};

StoreSpec tiered() {
  StoreSpec spec;
  spec.page_rows = 8;
  spec.tiers = {{.share = 0.3, .formats = kFour}, {.share = 0.3, .formats = kTwo}};
  return spec;
}

void write_rows(HeadCache& head, int first, int rows) {
  std::vector<float> k, v, scores;
  std::vector<int32_t> positions;
  HeadPlan plan;
  for (int r = 0; r < rows; ++r) {
    for (const float x : exact_row(first + r, kDim)) k.push_back(x);
    for (const float x : exact_row(first + r + 500, kDim)) v.push_back(x);
    positions.push_back(first + r);
    scores.push_back(static_cast<float>(first + r) / 2);
    plan.keep.push_back(r);
  }
  head.write(ConstMat::packed(k.data(), {rows, kDim}), ConstMat::packed(v.data(), {rows, kDim}),
             positions, scores, plan);
}

// Odd rows first, then even ones; the first pages plain, in four and in two bits.
void arrange(HeadCache& head) {
  std::vector<int32_t> order;
  for (int odd = 1; odd >= 0; --odd)
    for (int r = head.sealed_rows(); r < head.rows(); ++r)
      if (r % 2 == odd) order.push_back(r);
  constexpr uint8_t kTiers[] = {0, 1, 2};
  head.arrange(order, kTiers);
}

// Largest distance of a page's numbers from what was written with their positions.
double off(const HeadCache& head, int page) {
  std::vector<float> k(8 * kDim), v(8 * kDim);
  head.copy_keys(page * 8, 8, k.data());
  head.copy_values(page * 8, 8, v.data());
  double most = 0;
  for (int r = 0; r < 8; ++r) {
    const int32_t position = head.positions()[static_cast<size_t>(page * 8 + r)];
    EXPECT_EQ(head.scores()[static_cast<size_t>(page * 8 + r)], position / 2.0f);
    const auto key = exact_row(position, kDim), value = exact_row(position + 500, kDim);
    for (size_t d = 0; d < kDim; ++d) {
      const size_t at = static_cast<size_t>(r) * kDim + d;
      most = std::max<double>({most, std::abs(k[at] - key[d]), std::abs(v[at] - value[d])});
    }
  }
  return most;
}

TEST(StoreTiers, HoldRowsAsTheyAreArrangedInTheFormatOfEachPage) {
  PagePool pool;
  const StoreSpec spec = tiered();
  KvStore store(kShape, spec, pool);
  HeadCache& head = store.at(1, 0);
  write_rows(head, 0, 45);
  arrange(head);
  store.seal(nullptr);
  EXPECT_EQ(head.sealed_rows(), 40);
  EXPECT_EQ(head.positions()[0], 1);
  EXPECT_EQ(head.positions()[44], 44);
  EXPECT_EQ(off(head, 0), 0);
  EXPECT_GT(off(head, 1), 0);
  EXPECT_GT(off(head, 2), 2 * off(head, 1));
  EXPECT_EQ(off(head, 3), 0) << "pages behind those of tiers are plain";
  const PagedHead paged = head.paged({});
  ASSERT_EQ(paged.format_of.size(), 5u);
  EXPECT_EQ(paged.format(0), (PageFormats{Quant::f16, Quant::f16}));
  EXPECT_EQ(paged.format(1), kFour);
  EXPECT_EQ(paged.format(2), kTwo);
  // A later turn leaves them where they are, arranges its own, and can be given up.
  std::vector<float> before, after;
  head.keys(before);
  store.mark();
  write_rows(head, 100, 30);
  store.rewind();
  head.keys(after);
  EXPECT_EQ(after, before);
  write_rows(head, 100, 30);
  arrange(head);
  store.seal(nullptr);
  EXPECT_EQ(off(head, 1) > 0 && off(head, 6) > 0 && off(head, 7) > 0, true);
  EXPECT_EQ(off(head, 5), 0);
}

TEST(StoreTiers, AskBeforeForAllThatTheyTake) {
  PagePool pool;
  const StoreSpec spec = tiered();
  KvStore store(kShape, spec, pool);
  for (int l = 0; l < 2; ++l) {
    const size_t asked = pool.used_bytes() + store.bytes_for_layer(150);
    pool.reset_peak();
    for (int h = 0; h < 2; ++h) write_rows(store.at(l, h), 0, 150);
    if (l == 1) {
      for (int i = 0; i < 4; ++i) arrange(store.at(i / 2, i % 2));
      store.seal(nullptr);
    }
    EXPECT_LE(pool.peak_bytes(), asked);
  }
  for (int i = 0; i < 40; ++i) {
    const size_t asked = pool.used_bytes() + store.bytes_for_step();
    pool.reset_peak();
    for (int l = 0; l < 2; ++l)
      for (int h = 0; h < 2; ++h)
        store.at(l, h).append(exact_row(i, kDim), exact_row(i, kDim), 200 + i);
    store.seal(nullptr);
    EXPECT_LE(pool.peak_bytes(), asked);
  }
  EXPECT_EQ(store.bytes().total(), pool.used_bytes());
}

TEST(StoreTiers, ComeBackFromAnImageAndAreSharedByForks) {
  PagePool pool;
  const StoreSpec spec = tiered();
  KvStore store(kShape, spec, pool), other(kShape, spec, pool);
  HeadCache& head = store.at(0, 1);
  write_rows(head, 0, 45);
  arrange(head);
  store.seal(nullptr);
  HeadImage image = head.image();
  HeadCache& back = other.at(0, 1);
  ASSERT_EQ(back.why_not(image, nullptr), "");
  const size_t asked = pool.used_bytes() + back.restore_bytes(image);
  back.restore(image, nullptr);
  EXPECT_LE(pool.used_bytes(), asked);
  const auto fork = store.fork();
  for (const HeadCache* one : {&std::as_const(back), &std::as_const(*fork).at(0, 1)}) {
    std::vector<float> k, v, k_was, v_was;
    one->keys(k);
    head.keys(k_was);
    one->values(v);
    head.values(v_was);
    EXPECT_EQ(k, k_was);
    EXPECT_EQ(v, v_was);
    EXPECT_EQ(one->bytes().lanes > 0, true);
    EXPECT_TRUE(std::ranges::equal(one->paged({}).format_of, head.paged({}).format_of));
  }
  std::swap(image.k[1], image.k[2]);
  EXPECT_EQ(other.at(1, 0).why_not(image, nullptr), "has a page of another size");
  std::swap(image.v[1], image.v[2]);
  std::vector<uint8_t> tiers(image.tiers.begin(), image.tiers.end());
  std::swap(tiers[1], tiers[2]);
  image.tiers = tiers;
  EXPECT_EQ(other.at(1, 0).why_not(image, nullptr), "");
  tiers[1] = 9;
  EXPECT_EQ(other.at(1, 0).why_not(image, nullptr), "has a page of a tier that there is not");
}

class First final : public PageSummary {
  int floats(int) const override { return 1; }
  void summarise(ConstMat k, std::span<float> to) const override { to[0] = k.row(0)[0]; }
};

TEST(StoreTiers, OfAReadersChoiceAreForkedWithinWhatAForkAsksFor) {
  PagePool pool;
  const StoreSpec spec = tiered();
  const First summary;
  KvStore store(kShape, spec, pool);
  for (int i = 0; i < 4; ++i) {
    write_rows(store.at(i / 2, i % 2), 0, 45 + 100 * i);
    arrange(store.at(i / 2, i % 2));
  }
  store.seal(&summary);
  const size_t asked = pool.used_bytes() + store.bytes_for_fork();
  pool.charge(pool.free_bytes() - store.bytes_for_fork(), MemoryClass::prompt);
  const size_t filled = pool.used_bytes() + store.bytes_for_fork() - asked;
  const auto fork = store.fork();
  EXPECT_EQ(pool.used_bytes(), asked + filled) << "to the byte";
  pool.refund(filled, MemoryClass::prompt);
  EXPECT_EQ(std::as_const(*fork).at(1, 1).paged(std::vector<int32_t>{1}).format(0), kFour);
}

TEST(StoreTiers, OfAReadersChoiceKeepTheirFormats) {
  PagePool pool;
  StoreSpec spec = tiered();
  KvStore store(kShape, spec, pool);
  const First summary;
  HeadCache& head = store.at(0, 0);
  write_rows(head, 0, 45);
  arrange(head);
  store.seal(&summary);
  const PagedHead paged = head.paged(std::vector<int32_t>{0, 2, 4});
  EXPECT_EQ(paged.format(0).k, Quant::f16);
  EXPECT_EQ(paged.format(1), kTwo);
  EXPECT_EQ(paged.format(2).v, Quant::f16);
}

TEST(HadamardBases, AreRotationsThatTheFastFormAgreesWith) {
  for (const int dim : {8, 16, 24, 64, 80}) {
    const auto table = hadamard_bases(dim, 3);
    const Basis& basis = table->k.at(0);
    Basis matrix = basis;
    matrix.hadamard = 0;
    const std::vector<float> row = exact_row(7, dim);
    std::vector<float> fast(row.size()), slow(row.size()), back(row.size());
    to_basis(basis, row.data(), 1, fast.data());
    to_basis(matrix, row.data(), 1, slow.data());
    double size = 0, turned = 0;
    for (size_t d = 0; d < row.size(); ++d) {
      EXPECT_NEAR(fast[d], slow[d], 1e-4);
      size += row[d] * row[d];
      turned += fast[d] * fast[d];
    }
    EXPECT_NEAR(turned / size, 1, 1e-5);
    from_basis(basis, fast.data(), 1, back.data());
    for (size_t d = 0; d < row.size(); ++d) EXPECT_NEAR(back[d], row[d], 1e-4);
    from_basis(matrix, fast.data(), 1, back.data());
    for (size_t d = 0; d < row.size(); ++d) EXPECT_NEAR(back[d], row[d], 1e-4);
  }
}

}  // namespace
}  // namespace pith::test

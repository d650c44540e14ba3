#include "kernels/attn_state.h"

#include <algorithm>
#include <cmath>
#include <gtest/gtest.h>
#include <numeric>
#include <vector>

#include "support/attention_oracle.h"

namespace pith {
namespace {

using test::AttentionOracle;
using test::normal_numbers;
using test::worst;

constexpr int kDim = 24;

struct OwnState {
  std::vector<float> acc = std::vector<float>(kDim);
  AttnState state{.acc = acc};
  OwnState() = default;
  OwnState(const OwnState&) = delete;

  std::vector<float> answer() const {
    std::vector<float> out(kDim);
    finish(state, out);
    return out;
  }
};

struct Rows {
  std::vector<float> logits, values;
  explicit Rows(int count, float spread = 4)
      : logits(normal_numbers(static_cast<size_t>(count), 1, spread)),
        values(normal_numbers(static_cast<size_t>(count) * kDim, 2)) {}
  int count() const { return static_cast<int>(logits.size()); }
  std::span<const float> value(int r) const {
    return std::span(values).subspan(static_cast<size_t>(r) * kDim, kDim);
  }
  void absorb_into(AttnState& state, int first, int last) const {
    for (int r = first; r < last; ++r) absorb(state, logits[static_cast<size_t>(r)], value(r));
  }
  AttentionOracle oracle() const {
    AttentionOracle all;
    for (int r = 0; r < count(); ++r) all.add(logits[static_cast<size_t>(r)], value(r));
    return all;
  }
};

TEST(AttnState, AbsorbedRowsGiveTheirSoftmaxMean) {
  const Rows rows(57, 10);
  OwnState s;
  rows.absorb_into(s.state, 0, rows.count());
  EXPECT_LT(worst(s.answer(), rows.oracle().out(kDim)), 1e-6);
  EXPECT_FLOAT_EQ(s.state.max, static_cast<float>(rows.oracle().max()));
  EXPECT_NEAR(s.state.sum, rows.oracle().sum(), 1e-5);
}

TEST(AttnState, StatesOfDisjointRowsMergeToTheUnionInAnyOrder) {
  const Rows rows(40, 10);
  const int cuts[] = {0, 7, 8, 8, 31, 40};  // five parts, one of them empty
  std::vector<int> order = {0, 1, 2, 3, 4};
  const std::vector<double> expected = rows.oracle().out(kDim);
  do {
    OwnState total;
    for (int part : order) {
      OwnState s;
      rows.absorb_into(s.state, cuts[part], cuts[part + 1]);
      merge(total.state, s.state);
    }
    ASSERT_LT(worst(total.answer(), expected), 1e-6);
  } while (std::next_permutation(order.begin(), order.end()));
}

TEST(AttnState, MergingTwoMergedStatesIsTheUnionToo) {
  const Rows rows(20);
  OwnState a, b, c, d;
  rows.absorb_into(a.state, 0, 5);
  rows.absorb_into(b.state, 5, 6);
  rows.absorb_into(c.state, 6, 13);
  rows.absorb_into(d.state, 13, 20);
  merge(a.state, b.state);
  merge(c.state, d.state);
  merge(a.state, c.state);
  EXPECT_LT(worst(a.answer(), rows.oracle().out(kDim)), 1e-6);
}

TEST(AttnState, EqualRowsAreOneRowOfTheirWeight) {
  const Rows rows(3);
  for (const int n : {1, 2, 9, 1000}) {
    OwnState many, one;
    rows.absorb_into(many.state, 1, 3);
    rows.absorb_into(one.state, 1, 3);
    for (int i = 0; i < n; ++i) absorb(many.state, rows.logits[0], rows.value(0));
    absorb(one.state, rows.logits[0] + std::log(static_cast<float>(n)), rows.value(0));
    const std::vector<float> a = many.answer(), b = one.answer();
    for (size_t d = 0; d < kDim; ++d) EXPECT_NEAR(a[d], b[d], 5e-5) << n << " rows";
  }
}

TEST(AttnState, ARowOfWeightZeroIsNotSeen) {
  const Rows rows(3);
  OwnState s, t;
  absorb(s.state, std::log(0.0f), rows.value(0));  // first of all, where it could do most harm
  EXPECT_EQ(s.answer(), std::vector<float>(kDim, 0));
  rows.absorb_into(s.state, 1, 3);
  rows.absorb_into(t.state, 1, 3);
  absorb(s.state, std::log(0.0f), rows.value(0));
  EXPECT_EQ(s.answer(), t.answer());
}

TEST(AttnState, NothingIsZeroNotNan) {
  OwnState empty, other, some;
  EXPECT_EQ(empty.answer(), std::vector<float>(kDim, 0));
  merge(empty.state, other.state);
  EXPECT_EQ(empty.answer(), std::vector<float>(kDim, 0));
  EXPECT_EQ(empty.state.sum, 0);

  const Rows rows(4);
  rows.absorb_into(some.state, 0, 4);
  const std::vector<float> before = some.answer();
  merge(some.state, empty.state);
  EXPECT_EQ(some.answer(), before);
  merge(empty.state, some.state);
  EXPECT_EQ(empty.answer(), before);
}

TEST(AttnState, FarApartLogitsNeitherOverflowNorVanish) {
  const Rows rows(2);
  for (const float high : {1e4f, 3e38f}) {
    OwnState up, down;
    absorb(up.state, -high, rows.value(0));
    absorb(up.state, high, rows.value(1));
    absorb(down.state, high, rows.value(1));
    absorb(down.state, -high, rows.value(0));
    for (size_t d = 0; d < kDim; ++d) {
      EXPECT_EQ(up.answer()[d], rows.value(1)[d]);
      EXPECT_EQ(down.answer()[d], rows.value(1)[d]);
    }
  }
}

TEST(AttnState, AStateMayFinishInPlace) {
  const Rows rows(5);
  OwnState s;
  rows.absorb_into(s.state, 0, 5);
  const std::vector<float> expected = s.answer();
  finish(s.state, s.acc);
  EXPECT_EQ(s.acc, expected);
}

}  // namespace
}  // namespace pith

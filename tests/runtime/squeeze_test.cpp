// Rows go where they matter least, page by page, and memory comes back.
#include "runtime/squeeze.h"

#include <algorithm>
#include <cmath>
#include <gtest/gtest.h>
#include <set>

#include "support/tiny_model.h"
#include "support/tiny_sessions.h"

namespace pith::test {
namespace {

struct Fixture {
  Engine engine{loaded_tiny_model("llama"), tiny_options(1)};
  std::vector<std::unique_ptr<Session>> owned;
  std::vector<Session*> sessions;

  Session& open(const std::string& spec, int tokens, uint64_t seed = 1) {
    owned.push_back(open_tiny(engine, spec));
    sessions.push_back(owned.back().get());
    engine.prefill(*owned.back(), tiny_tokens(tiny_model("llama"), tokens, seed));
    return *owned.back();
  }
};

TEST(Squeeze, FreesWhatItIsAskedForAndNoMoreThanAPageOfEachSideBeyond) {
  Fixture f;
  f.open("full", 300);
  f.open("snapkv:budget=0.5", 400, 2);
  const size_t before = f.engine.pool().used_bytes();
  const size_t wanted = before / 3;
  const Squeezed done = squeeze(f.sessions, wanted);
  EXPECT_GE(done.bytes, wanted);
  EXPECT_EQ(before - f.engine.pool().used_bytes(), done.bytes);
  EXPECT_LE(done.bytes, wanted + wanted / 4 + 4 * PagePool::page_cost(32 * 8 * 4));
  EXPECT_GT(done.rows[0], 0);
}

TEST(Squeeze, LeavesSinksAndTheNewestRowsInEveryHead) {
  Fixture f;
  Session& s = f.open("full", 300);
  squeeze(f.sessions, size_t{1} << 30, {.sinks = 5, .recent = 40});
  const KvShape& shape = s.store->shape();
  for (int l = 0; l < shape.layers; ++l)
    for (int h = 0; h < shape.heads; ++h) {
      const auto positions = std::as_const(*s.store).at(l, h).positions();
      const std::set<int32_t> kept(positions.begin(), positions.end());
      for (int p = 0; p < 5; ++p) EXPECT_TRUE(kept.contains(p));
      for (int p = 260; p < 300; ++p) EXPECT_TRUE(kept.contains(p));
      EXPECT_LT(kept.size(), 45u + 32u) << "all the rest may go, but for what fills a page";
      EXPECT_TRUE(std::ranges::is_sorted(positions));
    }
}

// By sorting all rows of the session by norms of its own.
TEST(Squeeze, TakesTheRowsOfSmallestValueNormOverKeyNorm) {
  Fixture f;
  Session& s = f.open("full", 300);
  const KvShape& shape = s.store->shape();
  std::vector<std::vector<double>> ratios;
  for (int l = 0; l < shape.layers; ++l)
    for (int h = 0; h < shape.heads; ++h) {
      std::vector<float> ks, vs;
      const ConstMat k = std::as_const(*s.store).at(l, h).keys(ks);
      const ConstMat v = std::as_const(*s.store).at(l, h).values(vs);
      auto& of = ratios.emplace_back();
      for (int r = 0; r < 300; ++r) {
        double kk = 0, vv = 0;
        for (const float x : k.row(r)) kk += static_cast<double>(x) * x;
        for (const float x : v.row(r)) vv += static_cast<double>(x) * x;
        of.push_back(std::sqrt(vv / kk));
      }
    }
  squeeze(f.sessions, f.engine.pool().used_bytes() / 3);
  double dearest_gone = 0, cheapest_block_kept = 1e30;
  for (int l = 0; l < shape.layers; ++l)
    for (int h = 0; h < shape.heads; ++h) {
      const auto positions = std::as_const(*s.store).at(l, h).positions();
      const auto& of = ratios[static_cast<size_t>(l * shape.heads + h)];
      std::vector<bool> kept(300);
      for (const int32_t p : positions) kept[static_cast<size_t>(p)] = true;
      std::vector<double> stay;
      double gone = 0;
      for (int r = 4; r < 268; ++r) {
        if (kept[static_cast<size_t>(r)])
          stay.push_back(of[static_cast<size_t>(r)]);
        else
          gone = std::max(gone, of[static_cast<size_t>(r)]);
      }
      // Within a head the order is exact; over heads, the next page of rows is dearer.
      std::ranges::sort(stay);
      if (!stay.empty()) {
        EXPECT_LE(gone, stay.front());
        if (stay.size() >= 32) cheapest_block_kept = std::min(cheapest_block_kept, stay[31]);
      }
      dearest_gone = std::max(dearest_gone, gone);
    }
  EXPECT_LE(dearest_gone, cheapest_block_kept);
}

class SqueezeByScores : public ::testing::TestWithParam<const char*> {};

TEST_P(SqueezeByScores, GoesByTheRunningScoresOfSessionsThatKeepThem) {
  Fixture f;
  Session& s = f.open(GetParam(), 300);
  Session* const one = &s;
  for (int32_t token = 5; token < 25; ++token) f.engine.decode({&one, 1}, {&token, 1});
  const auto lane = std::as_const(*s.store).at(1, 0).scores();
  const auto rows = std::as_const(*s.store).at(1, 0).positions();
  std::vector<std::pair<float, int32_t>> order;
  for (size_t i = 4; i < lane.size() - 100; ++i) order.emplace_back(lane[i], rows[i]);
  std::ranges::sort(order);
  squeeze(f.sessions, f.engine.pool().used_bytes() / 4);
  const auto left = std::as_const(*s.store).at(1, 0).positions();
  const std::set<int32_t> kept(left.begin(), left.end());
  bool gone = true;
  for (const auto& [score, position] : order) {
    const bool here = kept.contains(position);
    EXPECT_FALSE(gone == false && !here) << "a row that matters more went first";
    gone = !here;
  }
}

INSTANTIATE_TEST_SUITE_P(Squeeze, SqueezeByScores,
                         ::testing::Values("h2o:budget=200", "h2o:mass=squares,budget=1.0"));

TEST(Squeeze, ASessionGoesOnAfterwards) {
  Fixture f;
  Session& s = f.open("full:cache=q8", 300);
  squeeze(f.sessions, f.engine.pool().used_bytes() / 2);
  Session* const one = &s;
  for (int32_t token = 5; token < 45; ++token) f.engine.decode({&one, 1}, {&token, 1});
  for (const float x : s.logits) ASSERT_TRUE(std::isfinite(x));
  EXPECT_EQ(std::as_const(*s.store).at(0, 0).positions().back(), 339);
}

TEST(Squeeze, LeavesSessionsAloneWhosePositionsOrTiersMeanSomethingElse) {
  for (const char* spec : {"lazyllm:revive=1", "tiers:f16=0.2,q4=0.4,q2=0.4,page=8"}) {
    Fixture f;
    Session& s = f.open(spec, 300);
    const auto before = s.store->rows();
    const Squeezed done = squeeze(f.sessions, size_t{1} << 30);
    EXPECT_EQ(done.bytes, 0u) << spec;
    EXPECT_EQ(s.store->rows(), before) << spec;
  }
}

}  // namespace
}  // namespace pith::test

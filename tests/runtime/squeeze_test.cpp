// Rows go where they matter least, page by page, and memory comes back.
#include "runtime/squeeze.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <gtest/gtest.h>
#include <numeric>
#include <set>

#include "base/error.h"
#include "support/tiny_model.h"
#include "support/tiny_sessions.h"

namespace pith::test {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitizedHere = true;
#else
constexpr bool kSanitizedHere = false;
#endif

size_t peak_kib() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    size_t kib = 0;
    if (word == "VmHWM:" && status >> kib) return kib;
  }
  return 0;
}

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

// Formats of few bits, whose plain pages are large beside theirs, and tails that stay plain.
class SqueezeOfCodes : public ::testing::TestWithParam<const char*> {};

TEST_P(SqueezeOfCodes, FreesPagesWhenNothingIsFreeAndLeavesRowsInCodes) {
  Fixture f;
  Session& s = f.open(GetParam(), 391);
  PagePool& pool = f.engine.pool();
  const KvShape& shape = s.store->shape();
  const size_t before = pool.used_bytes(), filler = pool.free_bytes();
  int sealed = 0;
  for (int l = 0; l < shape.layers; ++l)
    for (int h = 0; h < shape.heads; ++h) sealed += s.store->at(l, h).sealed_rows();
  pool.charge(filler, MemoryClass::prompt);
  const size_t wanted = before / 4;
  const Squeezed done = squeeze(f.sessions, wanted);
  pool.refund(filler, MemoryClass::prompt);
  EXPECT_GE(done.bytes, wanted);
  EXPECT_EQ(before - pool.used_bytes(), done.bytes);
  const auto plain_page = static_cast<size_t>(s.policy->store.page_rows) * 8 * 2;
  EXPECT_LE(done.bytes, wanted + wanted / 3 + 4 * PagePool::page_cost(plain_page));
  EXPECT_GT(done.rows[0], 0);
  for (int l = 0; l < shape.layers; ++l)
    for (int h = 0; h < shape.heads; ++h) {
      const HeadCache& cache = std::as_const(*s.store).at(l, h);
      EXPECT_TRUE(std::ranges::is_sorted(cache.positions()));
      EXPECT_TRUE(cache.rows() == 391 || cache.rows() % s.policy->store.page_rows == 0);
      EXPECT_LE(cache.rows() - cache.sealed_rows(),
                s.policy->store.tail_rows + s.policy->store.page_rows);
      sealed -= cache.sealed_rows();
    }
  EXPECT_LE(sealed, done.rows[0]) << "no more rows of codes are missing than went";
  Session* const one = &s;
  for (int32_t token = 5; token < 45; ++token) f.engine.decode({&one, 1}, {&token, 1});
  for (const float x : s.logits) ASSERT_TRUE(std::isfinite(x));
}

INSTANTIATE_TEST_SUITE_P(Squeeze, SqueezeOfCodes,
                         ::testing::Values("kivi:bits=2", "kivi:bits=4,residual=40",
                                           "kivi:bits=2,residual=128", "turboquant",
                                           "full:cache=q8,rotate=hadamard",
                                           "quest:pages=4+kivi:bits=4"));

// 600 tokens where 16 KiB are free, which is less than what they take in any of these formats.
TEST(Squeeze, MakesRoomForTheNextTokenOfASessionThatIsAlone) {
  for (const char* spec : {"full", "kivi:bits=2", "h2o:mass=squares,budget=1.0"})
    for (const bool exact : {false, true}) {
      EngineOptions options = tiny_options(1, 512, size_t{512} << 10);
      options.exact = exact;
      Engine engine(loaded_tiny_model("llama"), options);
      PagePool& pool = engine.pool();
      const auto session = open_tiny(engine, spec);
      engine.prefill(*session, tiny_tokens(tiny_model("llama"), 200));
      const size_t filler = pool.free_bytes() - (size_t{16} << 10);
      pool.charge(filler, MemoryClass::prompt);
      int tokens = 0;
      const auto write = [&] {
        for (Session* const one = session.get(); tokens < 600; ++tokens) {
          const int32_t token = 5 + tokens % 40;
          engine.decode({&one, 1}, {&token, 1});
        }
      };
      if (exact) {
        EXPECT_THROW(write(), Error) << spec;
        EXPECT_EQ(session->rows_squeezed, 0) << spec;
      } else {
        write();
        EXPECT_EQ(tokens, 600) << spec;
        EXPECT_GT(session->rows_squeezed, 0) << spec;
        EXPECT_GT(session->pages_squeezed, 0) << spec;
      }
      EXPECT_EQ(session->store->rows() + session->rows_squeezed, 4 * (200 + tokens)) << spec;
      EXPECT_LE(pool.peak_bytes(), pool.limit_bytes()) << spec;
      pool.refund(filler, MemoryClass::prompt);
      EXPECT_EQ(session->fork()->rows_squeezed, session->rows_squeezed) << spec;
    }
}

TEST(Squeeze, LeavesRowsThatForksShare) {
  Fixture f;
  Session& s = f.open("kivi:bits=4", 200);
  const auto fork = s.fork();
  EXPECT_EQ(squeeze(f.sessions, size_t{1} << 30).rows[0], 0);
  Session* const one = &s;
  for (int32_t token = 5; token < 130; ++token) f.engine.decode({&one, 1}, {&token, 1});
  EXPECT_GT(squeeze(f.sessions, size_t{1} << 30).bytes, 0u);
  const auto kept = std::as_const(*s.store).at(0, 0).positions();
  EXPECT_TRUE(std::ranges::equal(kept.first(192), fork->store->at(0, 0).positions().first(192)));
  EXPECT_LT(kept.size(), 325u);
}

// Lists of rows are worth several bytes a row, a few bits' rows little more than ten.
TEST(Squeeze, TakesLittleMemoryBesideTheCache) {
  if (kSanitizedHere) GTEST_SKIP() << "sanitizers hold memory of their own";
  constexpr KvShape kMany{.layers = 8, .query_heads = 16, .heads = 16, .dim = 8, .width = 128};
  constexpr int kRows = 8192;
  PagePool pool;
  Session session(kMany, make_policy("kivi:bits=2", kMany), pool, {});
  std::vector<float> x(size_t{kRows} * 8);
  std::vector<int32_t> positions(kRows);
  std::iota(positions.begin(), positions.end(), 0);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * 7 % 97) / 13;
  HeadPlan plan;
  plan.keep = positions;
  const ConstMat rows = ConstMat::packed(x.data(), {kRows, 8});
  for (int i = 0; i < 128; ++i)
    session.store->at(i / 16, i % 16).write(rows, rows, positions, {}, plan);
  session.store->seal(nullptr);
  Session* const one = &session;
  if (!std::ofstream("/proc/self/clear_refs").put('5').flush())
    GTEST_SKIP() << "this system does not let a process reset its peak";
  const size_t before = peak_kib();
  EXPECT_GT(squeeze({&one, 1}, pool.used_bytes() / 100).rows[0], 5000);
  EXPECT_LT(peak_kib() - before, 1500u) << "4 bytes for each of 1 Mi rows are 4096 KiB";
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

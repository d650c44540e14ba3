#include <algorithm>
#include <cmath>
#include <gtest/gtest.h>
#include <limits>
#include <string>
#include <vector>

#include "kernels/table.h"
#include "support/attention_oracle.h"
#include "support/kernel_tables.h"
#include "support/same_bits.h"

namespace pith {
namespace {

using test::AttentionOracle;
using test::normal_numbers;
using test::worst;

constexpr float kMinusInf = -std::numeric_limits<float>::infinity();
constexpr float kGuard = 12345.5f;

// Whether the jobs of `tile` multiply 16-bit integers. Set by the fixture.
bool int16 = false;

// Integers are held to four times the error that 13-bit queries and 14- or 13-bit keys give to
// logits of this size, and 12-bit values to sums.
double bound_of(double floats, double integers = 4e-3) {
  return int16 ? integers : floats;
}

struct Shape {
  int dim = 64, heads = 1, queries = 1;
  int rows = 1;  // the queries are the last of them
};

// A prompt of random rows and the state of its last queries.
struct Prompt {
  Shape shape;
  AttentionRule rule;
  std::vector<float> slopes;
  std::vector<float> q, k, v;
  std::vector<int32_t> positions;

  explicit Prompt(Shape s, uint64_t seed = 1) : shape(s) {
    const auto heads = static_cast<size_t>(s.heads), dim = static_cast<size_t>(s.dim);
    q = normal_numbers(static_cast<size_t>(s.queries) * heads * dim, seed, 2);
    k = normal_numbers(static_cast<size_t>(s.rows) * dim, seed + 1);
    v = normal_numbers(static_cast<size_t>(s.rows) * dim, seed + 2);
    rule.scale = 1 / std::sqrt(static_cast<float>(dim));
    for (int r = 0; r < s.rows; ++r) positions.push_back(r);
  }

  int64_t first_row() const { return shape.rows - shape.queries; }
  size_t states() const {
    return static_cast<size_t>(shape.queries) * static_cast<size_t>(shape.heads);
  }
  std::span<const float> query(int i, int h) const {
    return std::span(q).subspan(static_cast<size_t>((i * shape.heads + h) * shape.dim),
                                static_cast<size_t>(shape.dim));
  }
  std::span<const float> row(const std::vector<float>& of, int r) const {
    return std::span(of).subspan(static_cast<size_t>(r) * static_cast<size_t>(shape.dim),
                                 static_cast<size_t>(shape.dim));
  }

  AttentionOracle oracle(int i, int h) const {
    AttentionOracle o;
    const int64_t q_pos = positions[static_cast<size_t>(first_row() + i)];
    for (int r = 0; r < shape.rows; ++r) {
      const int64_t k_pos = positions[static_cast<size_t>(r)];
      if (r > first_row() + i || (rule.window > 0 && k_pos <= q_pos - rule.window))
        o.skip();
      else
        o.add(test::oracle_logit(query(i, h), row(k, r), rule, h, q_pos, k_pos), row(v, r));
    }
    return o;
  }
};

struct Result {
  std::vector<float> out, max, sum;
  explicit Result(const Prompt& p)
      : out(p.q.size(), 0), max(p.states(), kMinusInf), sum(p.states(), 0) {}
};

// The job of queries [first, first + count) of the prompt.
TileJob tile(const KernelTable& table, const Prompt& p, Result& to, int first, int count,
             std::vector<float>& scratch) {
  scratch.assign(table.tile_scratch(count, p.shape.heads, p.shape.dim), kGuard);
  TileJob job;
  const int64_t stride = static_cast<int64_t>(p.shape.heads) * p.shape.dim;
  job.q = p.q.data() + first * stride;
  job.q_row_stride = stride;
  job.queries = count;
  job.heads = p.shape.heads;
  job.k = p.k.data();
  job.v = p.v.data();
  job.kv_stride = p.shape.dim;
  job.first_row = p.first_row() + first;
  job.keys = job.first_row + count;
  job.q_pos = p.positions.data() + job.first_row;
  job.k_pos = p.positions.data();
  job.dim = p.shape.dim;
  job.scale = p.rule.scale;
  job.softcap = p.rule.softcap;
  job.window = p.rule.window;
  job.alibi = p.rule.alibi.empty() ? nullptr : p.rule.alibi.data();
  job.out = to.out.data() + first * stride;
  job.out_row_stride = stride;
  job.max = to.max.data() + static_cast<int64_t>(first) * p.shape.heads;
  job.sum = to.sum.data() + static_cast<int64_t>(first) * p.shape.heads;
  job.int16 = int16;
  job.scratch = scratch.data();
  return job;
}

Result attend(const KernelTable& table, const Prompt& p, const std::vector<int>& tiles) {
  Result to(p);
  std::vector<float> scratch;
  int first = 0;
  for (int count : tiles) {
    table.attend_tile(tile(table, p, to, first, count, scratch));
    first += count;
  }
  EXPECT_EQ(first, p.shape.queries);
  return to;
}

Result attend(const KernelTable& table, const Prompt& p) {
  return attend(table, p, {p.shape.queries});
}

void expect_matches_oracle(const Prompt& p, const Result& to, double bound = bound_of(2e-5)) {
  const auto dim = static_cast<size_t>(p.shape.dim);
  for (int i = 0; i < p.shape.queries; ++i)
    for (int h = 0; h < p.shape.heads; ++h) {
      const auto at = static_cast<size_t>(i * p.shape.heads + h);
      const AttentionOracle o = p.oracle(i, h);
      std::vector<float> out(to.out.begin() + static_cast<int64_t>(at * dim),
                             to.out.begin() + static_cast<int64_t>((at + 1) * dim));
      if (to.sum[at] > 0)
        for (float& x : out) x /= to.sum[at];
      ASSERT_LT(worst(out, o.out(p.shape.dim)), bound) << "query " << i << " head " << h;
      if (o.max() > -1e300)
        ASSERT_NEAR(to.max[at], o.max(), bound * (1 + std::abs(o.max())));
      else
        ASSERT_EQ(to.max[at], kMinusInf);
      ASSERT_NEAR(to.sum[at], o.sum(), 5 * bound * (1 + o.sum()));
    }
}

void expect_same_bits(const Result& a, const Result& b) {
  EXPECT_TRUE(test::same_bits(a.out, b.out));
  EXPECT_TRUE(test::same_bits(a.max, b.max));
  EXPECT_TRUE(test::same_bits(a.sum, b.sum));
}

class AttendTile : public ::testing::TestWithParam<std::tuple<std::string, bool>> {
 protected:
  void SetUp() override { int16 = std::get<1>(GetParam()); }
  const KernelTable& table() const { return table_; }

 private:
  const KernelTable& table_ = kernels_named(std::get<0>(GetParam()));
};

TEST_P(AttendTile, EqualsTheDefinitionForEveryDim) {
  for (int dim = 8; dim <= 256; dim += 8) {
    SCOPED_TRACE("dim " + std::to_string(dim));
    const int odd = dim / 8;
    const Prompt p(
        {.dim = dim, .heads = 1 + odd % 3, .queries = 1 + odd % 9, .rows = 60 + 5 * odd});
    expect_matches_oracle(p, attend(table(), p));
  }
}

TEST_P(AttendTile, EqualsTheDefinitionForOddCounts) {
  for (const int dim : {40, 72})
    for (const int heads : {1, 3, 8})
      for (const int queries : {1, 2, 13, 31})
        for (const int behind : {0, 1, 63, 65}) {
          SCOPED_TRACE(::testing::Message() << "dim " << dim << " heads " << heads << " queries "
                                            << queries << " rows before " << behind);
          const Prompt p(
              {.dim = dim, .heads = heads, .queries = queries, .rows = behind + queries});
          expect_matches_oracle(p, attend(table(), p));
        }
}

TEST_P(AttendTile, CapsLogits) {
  Prompt p({.dim = 64, .heads = 2, .queries = 40, .rows = 150});
  p.rule.scale = 1;  // so that the cap bites
  for (const float cap : {5.0f, 50.0f}) {
    p.rule.softcap = cap;
    expect_matches_oracle(p, attend(table(), p), bound_of(5e-5, 3e-2));
  }
}

TEST_P(AttendTile, LeavesRowsBehindTheWindow) {
  for (const int window : {1, 2, 17, 64, 65, 1000}) {
    SCOPED_TRACE("window " + std::to_string(window));
    Prompt p({.dim = 16, .heads = 2, .queries = 70, .rows = 250});
    p.rule.window = window;
    expect_matches_oracle(p, attend(table(), p));
  }
}

TEST_P(AttendTile, CountsWindowsInPositionsNotInRows) {
  Prompt p({.dim = 32, .heads = 1, .queries = 70, .rows = 300});
  for (int r = 0; r < 300; ++r) p.positions[static_cast<size_t>(r)] = 7 * r + r % 5;
  p.rule.window = 333;
  expect_matches_oracle(p, attend(table(), p));
}

TEST_P(AttendTile, AnswersNothingWhereTheWindowHoldsNoRow) {
  // A query is always inside its own window in a prompt; a tile over older rows only may see none.
  Prompt p({.dim = 16, .heads = 2, .queries = 3, .rows = 80});
  p.rule.window = 10;
  Result to(p);
  std::vector<float> scratch;
  TileJob job = tile(table(), p, to, 0, 3, scratch);
  const std::vector<int32_t> later = {500, 501, 502};
  job.q_pos = later.data();
  table().attend_tile(job);
  expect_same_bits(to, Result(p));
}

TEST_P(AttendTile, TakesAlibiFromPositionsHoweverLarge) {
  for (const int base : {0, 1000000, 16000000}) {
    SCOPED_TRACE("positions from " + std::to_string(base));
    Prompt p({.dim = 48, .heads = 3, .queries = 33, .rows = 200});
    for (int r = 0; r < 200; ++r) p.positions[static_cast<size_t>(r)] = base + 3 * r;
    p.slopes = {0.5f, 0.0625f, 0.00390625f};
    p.rule.alibi = p.slopes;
    expect_matches_oracle(p, attend(table(), p));
  }
}

TEST_P(AttendTile, CombinesCapSlopesAndWindow) {
  Prompt p({.dim = 72, .heads = 2, .queries = 50, .rows = 211});
  p.slopes = {0.25f, 0.01f};
  p.rule = {.scale = 0.5f, .softcap = 8, .window = 77, .alibi = p.slopes};
  expect_matches_oracle(p, attend(table(), p), bound_of(5e-5, 2e-2));
}

TEST_P(AttendTile, GivesTheSameBitsHoweverAPromptIsCut) {
  for (const int dim : {64, 72}) {
    Prompt p({.dim = dim, .heads = 3, .queries = 120, .rows = 253});
    for (const int window : {0, 90}) {
      p.rule.window = window;
      const Result whole = attend(table(), p);
      expect_same_bits(attend(table(), p, {64, 56}), whole);
      expect_same_bits(attend(table(), p, {1, 5, 32, 33, 20, 29}), whole);
      expect_same_bits(attend(table(), p, std::vector<int>(120, 1)), whole);
    }
  }
}

TEST_P(AttendTile, GoesOnFromTheStateThatEarlierKeysGave) {
  const Prompt p({.dim = 40, .heads = 2, .queries = 20, .rows = 300});
  Result to(p);
  std::vector<float> scratch;
  TileJob job = tile(table(), p, to, 0, 20, scratch);
  job.keys = 128;
  table().attend_tile(job);
  job.first_key = 128;
  job.keys = 300;
  table().attend_tile(job);
  expect_same_bits(to, attend(table(), p));
}

TEST_P(AttendTile, GivesMaximaAndSumsAloneWithoutValues) {
  const Prompt p({.dim = 40, .heads = 2, .queries = 20, .rows = 300});
  const Result whole = attend(table(), p);
  Result to(p);
  std::vector<float> scratch;
  TileJob job = tile(table(), p, to, 0, 20, scratch);
  job.v = nullptr;
  job.out = nullptr;
  table().attend_tile(job);
  EXPECT_TRUE(test::same_bits(to.max, whole.max));
  EXPECT_TRUE(test::same_bits(to.sum, whole.sum));
}

TEST_P(AttendTile, ReadsHeadsAndRowsWithStrides) {
  const Prompt p({.dim = 24, .heads = 2, .queries = 9, .rows = 70});
  const Result whole = attend(table(), p);
  // The same prompt with the group in the middle of wider rows.
  const int64_t wide = 100, row = 56;
  std::vector<float> q(9 * wide, kGuard), out(9 * wide, kGuard);
  std::vector<float> k(70 * row, kGuard), v(70 * row, kGuard);
  for (int i = 0; i < 9; ++i) std::copy_n(p.q.data() + i * 48, 48, q.data() + i * wide + 4);
  for (int i = 0; i < 9; ++i) std::fill_n(out.data() + i * wide + 8, 48, 0.0f);
  for (int r = 0; r < 70; ++r) std::copy_n(p.k.data() + r * 24, 24, k.data() + r * row);
  for (int r = 0; r < 70; ++r) std::copy_n(p.v.data() + r * 24, 24, v.data() + r * row);
  Result to(p);
  std::vector<float> scratch;
  TileJob job = tile(table(), p, to, 0, 9, scratch);
  job.q = q.data() + 4;
  job.q_row_stride = job.out_row_stride = wide;
  job.k = k.data();
  job.v = v.data();
  job.kv_stride = row;
  job.out = out.data() + 8;
  table().attend_tile(job);
  for (int64_t i = 0; i < 9; ++i)
    for (int64_t d = 0; d < wide; ++d) {
      const float expected =
          d >= 8 && d < 56 ? whole.out[static_cast<size_t>(i * 48 + d - 8)] : kGuard;
      ASSERT_EQ(out[static_cast<size_t>(i * wide + d)], expected) << "row " << i << " column " << d;
    }
}

TEST_P(AttendTile, TouchesNothingBehindItsScratchAndReadsNoKeyBehindTheLast) {
  for (const int dim : {8, 72, 136}) {
    const Prompt p({.dim = dim, .heads = 5, .queries = 7, .rows = 71});
    const Result whole = attend(table(), p);
    Prompt longer = p;  // rows that do not exist yet
    longer.k.resize(longer.k.size() + static_cast<size_t>(60 * dim), NAN);
    longer.v.resize(longer.v.size() + static_cast<size_t>(60 * dim), NAN);
    Result to(p);
    std::vector<float> scratch;
    TileJob job = tile(table(), longer, to, 0, 7, scratch);
    const size_t used = scratch.size();
    scratch.resize(used + 64, kGuard);
    job.scratch = scratch.data();
    table().attend_tile(job);
    for (size_t i = used; i < scratch.size(); ++i) ASSERT_EQ(scratch[i], kGuard);
    expect_same_bits(to, whole);
  }
}

TEST_P(AttendTile, StandsLogitsOfAnySize) {
  Prompt p({.dim = 16, .heads = 1, .queries = 4, .rows = 140});
  p.rule.scale = 3000;  // differences far beyond the reach of exp
  const Result to = attend(table(), p);
  for (float x : to.out) EXPECT_TRUE(std::isfinite(x));
  if (!int16) expect_matches_oracle(p, to, 1e-3);
}

// ---- tile_mass

// [heads, rows] by `how`, in float64.
std::vector<double> oracle_mass(const Prompt& p, Mass how, bool shared) {
  const auto rows = static_cast<size_t>(p.shape.rows);
  std::vector<double> mass(static_cast<size_t>(shared ? 1 : p.shape.heads) * rows);
  for (int i = 0; i < p.shape.queries; ++i)
    for (int h = 0; h < p.shape.heads; ++h) {
      const std::vector<double> probs = p.oracle(i, h).probs();
      for (size_t r = 0; r < rows; ++r) {
        double& to = mass[(shared ? 0 : static_cast<size_t>(h)) * rows + r];
        if (how == Mass::sum) to += probs[r];
        if (how == Mass::squares) to += probs[r] * probs[r];
        if (how == Mass::most) to = std::max(to, probs[r]);
      }
    }
  return mass;
}

std::vector<float> gathered(const KernelTable& table, const Prompt& p, Mass how, bool shared,
                            const std::vector<int64_t>& cuts) {
  Result state = attend(table, p);
  const auto rows = static_cast<size_t>(p.shape.rows);
  std::vector<float> mass(static_cast<size_t>(shared ? 1 : p.shape.heads) * rows, 0);
  std::vector<float> scratch;
  for (size_t c = 0; c + 1 < cuts.size(); ++c) {
    TileJob job = tile(table, p, state, 0, p.shape.queries, scratch);
    job.first_key = cuts[c];
    job.keys = cuts[c + 1];
    table.tile_mass(job, how, mass.data(), shared ? 0 : p.shape.rows);
  }
  return mass;
}

TEST_P(AttendTile, GathersWhatEveryRowReceives) {
  for (const int dim : {64, 72})
    for (const Mass how : {Mass::sum, Mass::squares, Mass::most})
      for (const bool shared : {false, true}) {
        Prompt p({.dim = dim, .heads = 3, .queries = 19, .rows = 205});
        p.slopes = {0.1f, 0.01f, 0.001f};
        p.rule.alibi = p.slopes;
        p.rule.window = 150;
        const std::vector<float> mass = gathered(table(), p, how, shared, {0, 205});
        EXPECT_LT(worst(mass, oracle_mass(p, how, shared)), bound_of(2e-5));
        // Columns are independent, so ranges of keys may be gathered apart.
        EXPECT_TRUE(test::same_bits(mass, gathered(table(), p, how, shared, {0, 64, 192, 205})));
      }
}

TEST_P(AttendTile, GivesAwayOneUnitOfAttentionPerQuery) {
  const Prompt p({.dim = 128, .heads = 1, .queries = 32, .rows = 1000});
  const std::vector<float> mass = gathered(table(), p, Mass::sum, false, {0, 1000});
  double total = 0;
  for (float x : mass) total += x;
  EXPECT_NEAR(total, 32, 1e-4);
}

TEST_P(AttendTile, GathersNothingFromQueriesThatSawNothing) {
  const Prompt p({.dim = 16, .heads = 2, .queries = 5, .rows = 30});
  Result state(p);  // (-inf, 0)
  std::vector<float> mass(60, 0), scratch;
  table().tile_mass(tile(table(), p, state, 0, 5, scratch), Mass::sum, mass.data(), 30);
  EXPECT_EQ(mass, std::vector<float>(60, 0));
}

TEST_P(AttendTile, GathersIntoItsColumnsOnly) {
  const Prompt p({.dim = 16, .heads = 1, .queries = 5, .rows = 71});
  Result state = attend(table(), p);
  std::vector<float> mass(71 + 64, kGuard), scratch;
  std::fill_n(mass.begin(), 71, 0.0f);
  table().tile_mass(tile(table(), p, state, 0, 5, scratch), Mass::sum, mass.data(), 71);
  for (size_t r = 71; r < mass.size(); ++r) EXPECT_EQ(mass[r], kGuard);
}

// Numbers of a model's kind: one column of the keys is ten times as large as the others.
TEST_P(AttendTile, StandsKeysWithALargeColumn) {
  Prompt p({.dim = 128, .heads = 2, .queries = 20, .rows = 500});
  for (size_t i = 5; i < p.k.size(); i += 128) p.k[i] = 10 + p.k[i];
  for (size_t i = 5; i < p.q.size(); i += 128) p.q[i] *= 0.1f;
  expect_matches_oracle(p, attend(table(), p), bound_of(5e-5, 8e-3));
}

// A first row that takes nearly all attention and has hardly any value, as in trained models.
TEST_P(AttendTile, AddsUpSmallWeightsBesideARowThatTakesNearlyAll) {
  Prompt p({.dim = 64, .heads = 2, .queries = 20, .rows = 1500});
  for (size_t i = 0; i < 64; ++i) p.v[i] *= 1e-3f;
  for (float& x : p.q) x *= 0.2f;
  for (size_t i = 0; i < 64; ++i) {
    p.k[i] = 0;
    for (int row = 0; row < 40; ++row) p.k[i] += p.q[static_cast<size_t>(row) * 64 + i];
    p.k[i] *= 4;
  }
  const Result to = attend(table(), p);
  expect_matches_oracle(p, to, bound_of(2e-5, 1e-3));
}

TEST_P(AttendTile, SaysSoWhereARowThatIsSeenIsNotANumber) {
  for (const bool key : {true, false}) {
    Prompt p({.dim = 16, .heads = 1, .queries = 6, .rows = 100});
    (key ? p.k : p.v)[97 * 16 + 3] = NAN;
    const Result to = attend(table(), p);
    for (int i = 3; i < 6; ++i) {
      float answer = 0;
      for (size_t d = 0; d < 16; ++d) answer += to.out[static_cast<size_t>(i) * 16 + d];
      EXPECT_FALSE(std::isfinite(answer / to.sum[static_cast<size_t>(i)])) << "query " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Tables, AttendTile,
                         ::testing::Combine(::testing::ValuesIn(test::tables_here()),
                                            ::testing::Bool()),
                         [](const auto& info) {
                           return std::get<0>(info.param) +
                                  (std::get<1>(info.param) ? "_int16" : "_f32");
                         });

}  // namespace
}  // namespace pith

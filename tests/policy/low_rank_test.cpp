// How many directions each head keeps.
#include "policy/low_rank.h"

#include <algorithm>
#include <cmath>
#include <gtest/gtest.h>
#include <numeric>

#include "base/random.h"

namespace pith {
namespace {

// Harm falls by half from step to step, from another height in each head.
HeadBases some_bases(int dim = 64) {
  HeadBases bases{3, 2, dim, {}, {}, {}, {}};
  bases.directions.resize(bases.sides() * static_cast<size_t>(dim * dim));
  Random random(3);
  for (size_t side = 0; side < bases.sides(); ++side) {
    const float height = random.uniform(0.1f, 10.0f);
    for (int d = 0; d < dim; ++d) {
      bases.harm.push_back(height * std::exp2(-static_cast<float>(d) / 16));
      bases.directions[(side * static_cast<size_t>(dim) + static_cast<size_t>(d)) *
                           static_cast<size_t>(dim) +
                       static_cast<size_t>(d)] = 1;
    }
  }
  return bases;
}

int64_t sum(const std::vector<int>& ranks) {
  return std::accumulate(ranks.begin(), ranks.end(), int64_t{0});
}

double left_out(const HeadBases& bases, const std::vector<int>& ranks) {
  double harm = 0;
  for (size_t side = 0; side < ranks.size(); ++side)
    for (int d = ranks[side]; d < bases.dim; ++d)
      harm += bases.harm[side * static_cast<size_t>(bases.dim) + static_cast<size_t>(d)];
  return harm;
}

TEST(Ranks, SpendASizeExactlyInWholeSteps) {
  const HeadBases bases = some_bases();
  for (const int step : {4, 16, 32})
    for (int64_t size = step * 12; size <= 64 * 12; size += 37)
      for (const auto& ranks : {ranks_of_size(bases, size, step), even_ranks(bases, size, step)}) {
        EXPECT_EQ(sum(ranks), size / step * step);
        for (const int rank : ranks) EXPECT_EQ(rank % step, 0);
      }
}

TEST(Ranks, LeaveOutTheLeastThatASizeAllows) {
  // Steps are few enough to try all ranks of four sides.
  HeadBases bases = some_bases(32);
  bases.layers = 1;
  bases.harm.resize(4 * 32);
  for (const int64_t size : {32, 48, 80, 112}) {
    const double found = left_out(bases, ranks_of_size(bases, size, 8));
    double best = 1e30;
    for (int code = 0; code < 256; ++code) {
      std::vector<int> ranks;
      for (int side = 0; side < 4; ++side) ranks.push_back(8 * ((code >> (2 * side)) % 4 + 1));
      if (sum(ranks) <= size) best = std::min(best, left_out(bases, ranks));
    }
    EXPECT_NEAR(found, best, 1e-5 * best);
  }
}

TEST(Ranks, NeverFallBelowAStepAndReachTheDimension) {
  const HeadBases bases = some_bases(24);
  for (const int rank : ranks_of_size(bases, 0, 16)) EXPECT_EQ(rank, 16);
  for (const int rank : ranks_of_size(bases, 24 * 12, 16)) EXPECT_EQ(rank, 24);
  for (const int rank : even_ranks(bases, 1000000, 16)) EXPECT_EQ(rank, 24);
  for (const int rank : ranks_of_size(bases, 0, 100)) EXPECT_EQ(rank, 24);
}

TEST(Bases, OfHeadsThatKeepEverythingAreNone) {
  const HeadBases bases = some_bases();
  std::vector<int> ranks(bases.sides(), 64);
  ranks[3] = 16;
  ranks[7] = 48;
  const auto table = basis_table(bases, ranks);
  ASSERT_EQ(table->k.size(), 6u);
  ASSERT_EQ(table->v.size(), 6u);
  for (size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(table->k[i].rank, i == 3 ? 16 : 0);
    EXPECT_EQ(table->v[i].rank, i == 1 ? 48 : 0);
  }
}

TEST(Bases, OfTheFirstChannelsNeedNoMatrices) {
  HeadBases bases = some_bases();
  std::swap_ranges(bases.directions.begin() + 5 * 64, bases.directions.begin() + 6 * 64,
                   bases.directions.begin() + 20 * 64);  // of the first head's keys
  const auto table = basis_table(bases, std::vector<int>(bases.sides(), 16));
  EXPECT_FALSE(table->k[0].leading());
  EXPECT_EQ(table->k[0].up.size(), 16u * 64u);
  EXPECT_EQ(table->k[0].up[5 * 64 + 20], 1.0f);
  EXPECT_EQ(table->k[0].down[20 * 16 + 5], 1.0f);
  for (size_t i = 1; i < 6; ++i) EXPECT_TRUE(table->k[i].leading());
  for (const Basis& basis : table->v) EXPECT_TRUE(basis.leading());
}

TEST(Bases, OfChannelPairsAreUnitVectors) {
  HeadBases bases = some_bases(8);
  for (int i = 0; i < 6; ++i)
    for (const int channel : {2, 6, 0, 4, 3, 7, 1, 5}) {
      bases.channels.push_back(channel);
      bases.channel_harm.push_back(static_cast<float>(i));
    }
  const std::vector<float> values(bases.directions.begin() + 6 * 64, bases.directions.end());
  const HeadBases pairs = with_channel_pairs(bases);
  for (size_t head = 0; head < 6; ++head) {
    EXPECT_EQ(pairs.harm[head * 8], static_cast<float>(head));
    for (size_t r = 0; r < 8; ++r)
      for (size_t d = 0; d < 8; ++d)
        EXPECT_EQ(pairs.directions[head * 64 + r * 8 + d],
                  static_cast<int>(d) == bases.channels[r] ? 1.0f : 0.0f);
  }
  EXPECT_TRUE(std::equal(values.begin(), values.end(), pairs.directions.begin() + 6 * 64));
}

TEST(Bases, OfTurnedPairsAreTheSameInTheNewChannels) {
  HeadBases bases = some_bases(8);
  Random random(7);
  for (float& x : bases.directions) x = random.uniform(-1, 1);
  for (int i = 0; i < 6; ++i)
    for (const int channel : {2, 6, 0, 4, 3, 7, 1, 5}) {
      bases.channels.push_back(channel);
      bases.channel_harm.push_back(static_cast<float>(i));
      bases.turned_harm.push_back(static_cast<float>(channel));
    }
  for (int i = 0; i < 24; ++i) {
    const float angle = random.uniform(-3, 3);
    bases.turns.push_back(std::cos(angle));
    bases.turns.push_back(std::sin(angle));
  }
  const std::vector<float> map = pair_directions(bases);
  const HeadBases turned = with_turned_pairs(bases);
  for (size_t head = 0; head < 6; ++head) {
    std::vector<float> x(8), y(8);
    for (float& value : x) value = random.uniform(-1, 1);
    for (size_t r = 0; r < 8; ++r)
      for (size_t d = 0; d < 8; ++d) y[r] += map[head * 64 + r * 8 + d] * x[d];
    for (size_t r = 0; r < 8; ++r) {
      double before = 0, after = 0;
      for (size_t d = 0; d < 8; ++d) {
        before += double{bases.directions[head * 64 + r * 8 + d]} * double{x[d]};
        after += double{turned.directions[head * 64 + r * 8 + d]} * double{y[d]};
      }
      EXPECT_NEAR(after, before, 1e-6);
      EXPECT_EQ(turned.channels[head * 8 + r], 7 - static_cast<int>(r)) << "by their own harm";
      EXPECT_EQ(turned.channel_harm[head * 8 + r], static_cast<float>(7 - r));
    }
  }
  EXPECT_TRUE(turned.turns.empty());
}

}  // namespace
}  // namespace pith

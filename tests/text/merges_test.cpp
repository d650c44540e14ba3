#include "text/merges.h"

#include <gtest/gtest.h>
#include <map>
#include <rapidcheck/gtest.h>

namespace pith {
namespace {

using Pairs = std::map<std::pair<int32_t, int32_t>, MergedPair>;

// The definition, one full look at all pairs per merge.
std::vector<int32_t> merged_slowly(std::vector<int32_t> tokens, const Pairs& pairs) {
  for (;;) {
    MergedPair best;
    size_t place = 0;
    for (size_t i = 0; i + 1 < tokens.size(); ++i) {
      const auto found = pairs.find({tokens[i], tokens[i + 1]});
      if (found != pairs.end() && found->second.rank < best.rank) best = found->second, place = i;
    }
    if (best.rank == MergedPair::kNone) return tokens;
    tokens[place] = best.token;
    tokens.erase(tokens.begin() + static_cast<std::ptrdiff_t>(place) + 1);
  }
}

std::vector<int32_t> merged(const std::vector<int32_t>& tokens, const Pairs& pairs) {
  Merger merger;
  for (size_t i = 0; i < tokens.size(); ++i) merger.add(static_cast<uint32_t>(i), tokens[i]);
  merger.merge([&](const Merger::Symbol& left, const Merger::Symbol& right) {
    const auto found = pairs.find({left.token, right.token});
    return found == pairs.end() ? MergedPair{} : found->second;
  });
  std::vector<int32_t> out;
  for (uint32_t i = merger.first(); i != Merger::kEnd; i = merger.at(i).next)
    out.push_back(merger.at(i).token);
  return out;
}

// Tokens 0 to 3 are there from the start; each rule makes a token of any two, also one that
// merges again at a lower rank than the pairs it came from. Ranks may be equal.
Pairs random_pairs() {
  Pairs pairs;
  const auto rules = *rc::gen::inRange(0, 24);
  for (int32_t token = 4; token < 4 + rules; ++token) {
    const int32_t left = *rc::gen::inRange(0, token), right = *rc::gen::inRange(0, token);
    pairs.try_emplace({left, right},
                      MergedPair{static_cast<uint32_t>(*rc::gen::inRange(0, 12)), token});
  }
  return pairs;
}

RC_GTEST_PROP(Merger, DoesWhatOneLookAtAllPairsPerMergeDoes, ()) {
  const Pairs pairs = random_pairs();
  const auto tokens =
      *rc::gen::container<std::vector<int32_t>>(*rc::gen::inRange(0, 90), rc::gen::inRange(0, 4));
  RC_ASSERT(merged(tokens, pairs) == merged_slowly(tokens, pairs));
}

// Runs are where many pairs have one rank and the leftmost decides.
RC_GTEST_PROP(Merger, TakesTheLeftmostOfEqualPairsInLongRuns, ()) {
  const Pairs pairs = random_pairs();
  std::vector<int32_t> tokens;
  for (int part = 0; part < 4; ++part)
    tokens.insert(tokens.end(), *rc::gen::inRange(0, 40), *rc::gen::inRange(0, 4));
  RC_ASSERT(merged(tokens, pairs) == merged_slowly(tokens, pairs));
}

TEST(Merger, MergesAMillionEqualSymbolsPairwise) {
  const Pairs pairs = {{{0, 0}, {0, 1}}, {{1, 1}, {1, 2}}};
  const auto out = merged(std::vector<int32_t>((1 << 20) + 3, 0), pairs);
  ASSERT_EQ(out.size(), (1u << 18) + 2);
  EXPECT_EQ(out.front(), 2);
  EXPECT_EQ(out[out.size() - 2], 1);
  EXPECT_EQ(out.back(), 0);
}

TEST(Merger, LeavesNothingOfNothing) {
  EXPECT_TRUE(merged({}, {}).empty());
}

}  // namespace
}  // namespace pith

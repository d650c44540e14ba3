#include <algorithm>

#include "gtest/gtest.h"
#include "support/recorded_rows.h"
#include "support/toy_prompt.h"
#include "support/vote_oracle.h"

namespace pith::test {
namespace {

TEST(Snapkv, KeepsTheRowsThatTheLastQueriesAttendTo) {
  ToyPrompt prompt("snapkv:budget=60,window=16");
  prompt.plant = [](int, Cube q, Cube k, Cube) {
    // The last queries of both heads of the first group ask for rows 100 and 250.
    for (const int row : {100, 250})
      for (int64_t i = q.dim[0] - 16; i < q.dim[0]; ++i)
        for (int h = 0; h < 2; ++h)
          for (int d = 0; d < 16; ++d) k[0].row(row)[d] = q[i].row(h)[d] = d % 2 ? 2.0f : -2.0f;
  };
  prompt.prefill(400);
  for (int l = 0; l < 4; ++l) {
    const auto kept = prompt.kept(l, 0);
    EXPECT_EQ(kept.size(), 60u);
    for (const int row : {100, 250})  // and their neighbours, which share the vote
      for (int near = row - 3; near <= row + 3; ++near)
        EXPECT_TRUE(std::ranges::binary_search(kept, near)) << near;
  }
}

TEST(Snapkv, AgreesWithAVoteInFloat64ForEveryPooling) {
  const std::pair<const char*, OraclePool> kinds[] = {
      {"max", OraclePool::max}, {"mean", OraclePool::mean}, {"none", OraclePool::none}};
  for (const auto& [name, pool] : kinds) {
    ToyPrompt prompt("snapkv:budget=48,window=12,width=5,pool=" + std::string(name));
    std::vector<RecordedLayer> seen;
    record_layers(prompt, seen);
    prompt.prefill(200);
    int differing = 0;
    for (int l = 0; l < 4; ++l) {
      const ConstCube q = seen[static_cast<size_t>(l)].queries();
      const ConstCube k = seen[static_cast<size_t>(l)].keys();
      const auto votes = oracle_votes(q, k, {.window = 12, .width = 5, .pool = pool});
      const auto swapped =
          oracle_votes(q, k, {.window = 12, .width = 5, .pool = pool, .pool_after_sum = true});
      for (int h = 0; h < 2; ++h) {
        EXPECT_EQ(prompt.kept(l, h), oracle_best(votes[static_cast<size_t>(h)], 36, 12))
            << name << " layer " << l << " head " << h;
        differing += prompt.kept(l, h) != oracle_best(swapped[static_cast<size_t>(h)], 36, 12);
      }
    }
    // Only with max does it matter that heads are pooled one by one; then the test can tell.
    EXPECT_EQ(differing > 0, pool == OraclePool::max);
  }
}

TEST(Snapkv, KeepsEverythingThatIsGenerated) {
  ToyPrompt prompt("snapkv:budget=40,window=8");
  prompt.prefill(100);
  const auto before = prompt.kept(0, 0);
  prompt.decode(20);
  auto after = prompt.kept(0, 0);
  ASSERT_EQ(after.size(), 60u);
  EXPECT_EQ(after.back(), 119);
  after.resize(40);
  EXPECT_EQ(after, before);
}

TEST(Snapkv, GoesOnVotingWhileGeneratingIfAskedToReduce) {
  ToyPrompt prompt("snapkv:budget=40,window=8,reduce_every=4");
  prompt.prefill(100);
  for (int i = 1; i <= 40; ++i) {
    prompt.decode(1);
    EXPECT_EQ(prompt.kept(3, 1).size(), 40u + static_cast<size_t>(i % 4));
    EXPECT_EQ(prompt.kept(3, 1).back(), 99 + i);
  }
}

}  // namespace
}  // namespace pith::test

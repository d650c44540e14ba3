// What every registered method promises, without a line of code by its author. Methods that need
// a calibration file get one with random numbers.
#include <algorithm>
#include <numeric>
#include <set>

#include "gtest/gtest.h"
#include "policy/describe.h"
#include "policy/registry.h"
#include "support/method_specs.h"
#include "support/toy_prompt.h"

namespace pith::test {
namespace {

using namespace std::string_literals;

constexpr int kPage = 32;  // rows, the default

KvShape window_shape() {
  KvShape shape = toy_shape();
  shape.windows = {0, 40, 0, 40};
  return shape;
}

// A share that leaves every method something to choose, and rows of 300 tokens it comes to.
const std::string kShare = "0.15";
constexpr int kShareOf300 = 45;

class EveryMethod : public ::testing::TestWithParam<std::string> {
 protected:
  std::string spec(const std::string& budget, bool neutral = false,
                   const KvShape& shape = toy_shape()) const {
    return spec_of(*method_, budget, shape, neutral);
  }
  bool brings_budget() const {
    const std::vector<std::string> roles = describe(*method_).roles;
    return std::ranges::find(roles, "budget") != roles.end();
  }
  const Method* method_ = find_method(GetParam());
};

TEST_P(EveryMethod, IsTheSamePolicyAfterItsSpecIsPrintedAndParsed) {
  for (const std::string& budget : {kShare, "100"s, "10MiB"s, "1.0"s}) {
    ToyPrompt first(spec(budget));
    ToyPrompt second(first.policy().spec);
    EXPECT_EQ(first.policy().spec, second.policy().spec);
    for (ToyPrompt* prompt : {&first, &second}) {
      prompt->prefill(150);
      prompt->decode(5);
    }
    EXPECT_EQ(first.heads(), second.heads()) << first.policy().spec;
  }
}

TEST_P(EveryMethod, DocumentsItselfAndEveryOption) {
  EXPECT_FALSE(method_->summary.empty());
  EXPECT_FALSE(method_->source.empty());
  EXPECT_FALSE(method_->cost.empty());
  const std::string family(method_->family.substr(0, method_->family.find(": ")));
  EXPECT_TRUE(
      std::set<std::string>({"selection", "quantisation", "attention", "hybrid", "baseline"})
          .contains(family))
      << method_->family;
  std::set<std::string> keys;
  for (const OptionDoc& option : describe(*method_).options) {
    EXPECT_FALSE(option.doc.empty()) << option.key;
    EXPECT_FALSE(option.type.empty()) << option.key;
    EXPECT_TRUE(keys.insert(option.key).second) << option.key << " is read twice";
  }
}

TEST_P(EveryMethod, KeepsRowsInOrderOnceWithinItsBudget) {
  for (const std::string& budget : {kShare, "60"s, "0.5MiB"s})
    for (const int tokens : {40, 100, 333}) {
      ToyPrompt prompt(spec(budget));
      const Policy& policy = prompt.policy();
      prompt.prefill(tokens);
      for (int l = 0; l < 4; ++l)
        for (int h = 0; h < 2; ++h) {
          const auto kept = prompt.kept(l, h);
          ASSERT_FALSE(kept.empty());
          EXPECT_EQ(std::ranges::adjacent_find(kept, std::greater_equal()), kept.end());
          EXPECT_GE(kept.front(), 0);
          EXPECT_EQ(kept.back(), tokens - 1) << "the last row stays";
          for (int r = 0; r < std::min(policy.protect.sink, tokens); ++r)
            EXPECT_TRUE(std::ranges::binary_search(kept, r)) << "sink " << r;
          for (int r = std::max(0, tokens - policy.protect.recent); r < tokens; ++r)
            EXPECT_TRUE(std::ranges::binary_search(kept, r)) << "recent " << r;
        }
    }
}

TEST_P(EveryMethod, SpendsABudgetExactly) {
  for (const auto& [budget, rows] : {std::pair(kShare, kShareOf300), std::pair("60"s, 60)}) {
    ToyPrompt prompt(spec(budget));
    if (!prompt.policy().amount) GTEST_SKIP() << "takes no budget";
    prompt.prefill(300);
    // A method that brings a budget shares it out among layers too; a limit may be left unspent.
    size_t all = 0, promised = 0;
    for (int l = 0; l < 4; ++l) {
      size_t total = 0;
      for (int h = 0; h < 2; ++h) total += prompt.kept(l, h).size();
      const size_t expected = static_cast<size_t>(2 * std::min(rows, prompt.rows_into(l)));
      EXPECT_TRUE(brings_budget() || total == expected) << total << " of " << expected;
      all += total;
      promised += expected;
    }
    if (GetParam() == "coverage") {
      EXPECT_LE(all, promised);
    } else {
      EXPECT_EQ(all, promised);
    }
    EXPECT_EQ(prompt.compressor().stats().rows_kept, prompt.store().rows());
    EXPECT_EQ(prompt.compressor().stats().rows_seen, 300 * 8);
  }
}

TEST_P(EveryMethod, StaysBelowABudgetOfBytes) {
  for (const size_t kib : {70, 100, 160}) {
    ToyPrompt prompt(spec(std::to_string(kib) + "KiB"));
    if (!prompt.policy().amount) GTEST_SKIP() << "takes no budget";
    prompt.prefill(450);
    EXPECT_LE(prompt.store().bytes().total(), kib * 1024);
    // Where pages are coded there is room for one of each head that is not full, and plain.
    const StoreSpec& store = prompt.policy().store;
    const size_t page = PagePool::page_cost(static_cast<size_t>(store.page_rows) * 16 * 2);
    const size_t spare = is_plain(store.k) && store.tiers.empty() ? 0 : 8 * 2 * page;
    EXPECT_TRUE(GetParam() == "coverage" ||          // a limit may be left unspent
                prompt.store().rows() == 8 * 450 ||  // everything fits
                prompt.store().bytes().total() + spare >= kib * 1024 * 6 / 10)
        << prompt.store().bytes().total();
  }
}

TEST_P(EveryMethod, WithABudgetOfThePromptHoldsTheBytesOfFull) {
  for (const KvShape& shape : {toy_shape(), window_shape()})
    for (const std::string& budget : {"1.0"s, "100000"s}) {
      const std::string text = spec(budget, true, shape);
      ToyPrompt prompt(text, shape),
          full("full:page=" + std::to_string(prompt.policy().store.page_rows), shape);
      for (ToyPrompt* p : {&prompt, &full}) {
        p->prefill(150);
        p->decode(9);
      }
      EXPECT_EQ(prompt.heads(), full.heads()) << text;
      EXPECT_EQ(prompt.outputs(), full.outputs()) << text;
    }
}

TEST_P(EveryMethod, LeavesTheRowsItKeepsAsTheyWere) {
  ToyPrompt prompt(spec(kShare)), full("full");
  if (prompt.policy().store.repack_positions) GTEST_SKIP() << "turns keys";
  if (GetParam() == "merge") GTEST_SKIP() << "changes values";
  const StoreSpec& store = prompt.policy().store;
  if (!is_plain(store.k) || !store.tiers.empty()) GTEST_SKIP() << "codes rows";
  for (ToyPrompt* p : {&prompt, &full}) {
    p->prefill(200);
    p->decode(40);
  }
  for (int l = 0; l < 4; ++l)
    for (int h = 0; h < 2; ++h) {
      const ToyHead some = prompt.head(l, h), all = full.head(l, h);
      for (size_t r = 0; r < some.positions.size(); ++r) {
        const size_t from = static_cast<size_t>(some.positions[r]) * 16;
        EXPECT_TRUE(std::equal(&some.k[r * 16], &some.k[r * 16] + 16, &all.k[from]));
        EXPECT_TRUE(std::equal(&some.v[r * 16], &some.v[r * 16] + 16, &all.v[from]));
      }
    }
}

TEST_P(EveryMethod, TakesPromptsOfAnyLength) {
  for (const KvShape& shape : {toy_shape(), window_shape()})
    for (const int tokens : {1, 2, 7, 8, 9, 31, kPage, kPage + 1, 4 * kPage}) {
      ToyPrompt prompt(spec(kShare, false, shape), shape);
      prompt.prefill(tokens);
      prompt.decode(3);
      EXPECT_EQ(prompt.kept(3, 1).back(), prompt.compressor().query_position(tokens + 3) - 1);
    }
}

TEST_P(EveryMethod, TakesAModelOfOneLayer) {
  KvShape shape = toy_shape();
  shape.layers = 1;
  ToyPrompt prompt(spec(kShare, false, shape), shape);
  prompt.prefill(100);
  prompt.decode(2);
  EXPECT_EQ(prompt.rows_into(0), 100);
}

TEST_P(EveryMethod, KeepsTheSameRowsOnAnyNumberOfThreads) {
  ToyPrompt one(spec(kShare), toy_shape(), 1), two(spec(kShare), toy_shape(), 2),
      three(spec(kShare), toy_shape(), 3);
  for (ToyPrompt* prompt : {&one, &two, &three}) {
    prompt->prefill(700);
    prompt->decode(20);
  }
  EXPECT_EQ(one.heads(), two.heads());
  EXPECT_EQ(one.heads(), three.heads());
  EXPECT_EQ(one.outputs(), two.outputs());
}

TEST_P(EveryMethod, HoldsNothingOfASessionWhenTwoAreInterleaved) {
  const auto policy = make_policy(spec(kShare), toy_shape());
  ToyPrompt a(policy, toy_shape(), 1, 5), b(policy, toy_shape(), 1, 6);
  ToyPrompt a_alone(policy, toy_shape(), 1, 5), b_alone(policy, toy_shape(), 1, 6);
  a.begin(200);
  b.begin(333);
  for (bool more = true; more;) {
    const bool more_a = a.run_layer();
    more = b.run_layer();
    ASSERT_EQ(more_a, more);
  }
  for (int i = 0; i < 30; ++i) {
    a.decode(1);
    b.decode(1);
  }
  a_alone.prefill(200);
  a_alone.decode(30);
  b_alone.prefill(333);
  b_alone.decode(30);
  EXPECT_EQ(a.heads(), a_alone.heads());
  EXPECT_EQ(b.heads(), b_alone.heads());
  EXPECT_EQ(a.outputs(), a_alone.outputs());
  EXPECT_EQ(b.outputs(), b_alone.outputs());
}

TEST_P(EveryMethod, GeneratesTheSameOnAForkAndNeitherDisturbsTheOther) {
  ToyPrompt original(spec(kShare)), alone(spec(kShare));
  original.prefill(200);
  original.decode(5);
  const auto fork = original.fork();
  const auto before = original.heads();
  EXPECT_EQ(fork->heads(), before);
  fork->decode(40);
  EXPECT_EQ(original.heads(), before);
  original.decode(40);
  EXPECT_EQ(original.heads(), fork->heads());
  EXPECT_EQ(original.outputs(), fork->outputs());
  alone.prefill(200);
  alone.decode(45);
  EXPECT_EQ(original.heads(), alone.heads());
}

TEST_P(EveryMethod, KeepsEarlierTurnsWhereItDoesNotReduceWhileGenerating) {
  ToyPrompt prompt(spec(kShare));
  prompt.prefill(200);
  prompt.decode(7);
  const auto before = prompt.kept(2, 0);
  prompt.prefill(120);
  const auto after = prompt.kept(2, 0);
  if (prompt.policy().reduce_every == 0) {
    ASSERT_GE(after.size(), before.size());
    EXPECT_TRUE(std::equal(before.begin(), before.end(), after.begin()));
  } else if (prompt.policy().amount) {
    // The share of both prompts together, and what they have generated between reductions.
    size_t all = 0;
    for (int l = 0; l < 4; ++l)
      for (int h = 0; h < 2; ++h) all += prompt.kept(l, h).size();
    EXPECT_LE(all, 8 * 48u);
  }
  EXPECT_EQ(after.back() + 1, prompt.compressor().query_position(327));
}

std::vector<std::string> names() {
  std::vector<std::string> all;
  for (const Method& method : methods()) all.emplace_back(method.name);
  return all;
}
INSTANTIATE_TEST_SUITE_P(Methods, EveryMethod, ::testing::ValuesIn(names()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace pith::test

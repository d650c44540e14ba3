#include <algorithm>
#include <cmath>
#include <gtest/gtest.h>
#include <numeric>

#include "base/error.h"
#include "policy/registry.h"
#include "support/toy_prompt.h"

namespace pith::test {
namespace {

// Rows as they were planted, by call: the layers of the prompt, then those of each round.
struct Rows {
  std::vector<float> q, k, v;
  int64_t count = 0;
};

struct Recorded {
  std::vector<Rows> calls;
  explicit Recorded(ToyPrompt& prompt) {
    prompt.plant = [this](int, Cube q, Cube k, Cube v) {
      const auto copy = [](Cube x) {
        return std::vector<float>(x.data, x.data + x.dim[0] * x.stride[0]);
      };
      calls.push_back({copy(q), copy(k), copy(v), k.dim[1]});
    };
  }
};

constexpr int kLayers = 4, kHeads = 2, kGroup = 2, kDim = 16, kWidth = 32;

const float* row_of(const std::vector<float>& x, int64_t rows, int64_t head, int64_t row) {
  return &x[static_cast<size_t>((head * rows + row) * kDim)];
}

// The score of every row of a head by its definition: for each chunk, attention of the pass's
// queries over sinks, chunk and the pass up to itself.
std::vector<double> oracle_scores(const Recorded& recorded, const ToyPrompt& prompt, int tokens,
                                  int chunk, int sink, int layer, int head, bool plus) {
  std::vector<double> scores(static_cast<size_t>(tokens), 0.0);
  const Rows& cache = recorded.calls[static_cast<size_t>(layer)];
  const WeightMatrix wo = prompt.output_projection();
  const auto* w = reinterpret_cast<const float*>(wo.data);
  for (int round = 0; round * chunk < tokens; ++round) {
    const int first = round * chunk, last = std::min(tokens, first + chunk);
    const Rows& pass = recorded.calls[static_cast<size_t>((round + 1) * kLayers + layer)];
    std::vector<const float*> keys;
    for (int r = 0; r < std::min(sink, first); ++r)
      keys.push_back(row_of(cache.k, cache.count, head, r));
    const size_t before = keys.size();
    for (int r = first; r < last; ++r) keys.push_back(row_of(cache.k, cache.count, head, r));
    for (int64_t i = 0; i < pass.count; ++i) {
      keys.push_back(row_of(pass.k, pass.count, head, i));
      for (int g = 0; g < kGroup; ++g) {
        const int query_head = head * kGroup + g;
        const float* q = &pass.q[static_cast<size_t>((i * kHeads * kGroup + query_head) * kDim)];
        std::vector<double> p;
        double sum = 0;
        for (const float* k : keys) {
          double z = 0;
          for (int d = 0; d < kDim; ++d) z += double{q[d]} * double{k[d]};
          p.push_back(std::exp(z / 4));
          sum += p.back();
        }
        for (int r = first; r < last; ++r) {
          double score = p[before + static_cast<size_t>(r - first)] / sum;
          if (plus) {
            const float* v = row_of(cache.v, cache.count, head, r);
            double squares = 0;
            for (int o = 0; o < kWidth; ++o) {
              double x = 0;
              for (int d = 0; d < kDim; ++d)
                x += double{w[o * kHeads * kGroup * kDim + query_head * kDim + d]} * double{v[d]};
              squares += x * x;
            }
            score *= std::sqrt(squares) / static_cast<double>(1 + i % 7);  // as ToyPrompt says
          }
          scores[static_cast<size_t>(r)] = std::max(scores[static_cast<size_t>(r)], score);
        }
      }
    }
  }
  return scores;
}

TEST(Kvzip, KeepsWhatRepeatingThePromptAttendsTo) {
  for (const bool plus : {false, true}) {
    const std::string spec =
        std::string("kvzip:budget=60,chunk=80,share=even,cache=f32") + (plus ? ",plus=true" : "");
    ToyPrompt prompt(spec);
    Recorded recorded(prompt);
    prompt.prefill(200);
    ASSERT_EQ(recorded.calls.size(), 4u * kLayers);  // the prompt and three chunks
    EXPECT_EQ(recorded.calls[kLayers].count, 3 + 3 + 80);
    EXPECT_EQ(recorded.calls[2 * kLayers].count, 3 + 8 + 3 + 80);
    EXPECT_EQ(recorded.calls[3 * kLayers].count, 3 + 8 + 3 + 40);
    for (int l = 0; l < kLayers; ++l)
      for (int h = 0; h < kHeads; ++h) {
        const auto scores = oracle_scores(recorded, prompt, 200, 80, 4, l, h, plus);
        std::vector<int32_t> order(195);
        std::iota(order.begin(), order.end(), 4);
        std::ranges::stable_sort(order, std::greater(),
                                 [&](int32_t r) { return scores[static_cast<size_t>(r)]; });
        order.resize(55);
        for (const int32_t always : {0, 1, 2, 3, 199}) order.push_back(always);
        std::ranges::sort(order);
        EXPECT_EQ(prompt.kept(l, h), order) << spec << " layer " << l << " head " << h;
      }
  }
}

TEST(Kvzip, HasOneThresholdForAllLayersAndHeads) {
  ToyPrompt prompt("kvzip:budget=0.3,cache=f32");
  Recorded recorded(prompt);
  prompt.prefill(200);
  std::vector<std::pair<double, std::array<int, 3>>> all;
  for (int l = 0; l < kLayers; ++l)
    for (int h = 0; h < kHeads; ++h) {
      const auto scores = oracle_scores(recorded, prompt, 200, 2000, 4, l, h, false);
      for (int r = 4; r < 199; ++r) all.push_back({scores[static_cast<size_t>(r)], {l, h, r}});
    }
  std::ranges::stable_sort(all, std::greater(), [](const auto& row) { return row.first; });
  all.resize(8 * (60 - 5));
  size_t rows = 0, least = 1000, most = 0;
  for (int l = 0; l < kLayers; ++l)
    for (int h = 0; h < kHeads; ++h) {
      const auto kept = prompt.kept(l, h);
      rows += kept.size();
      least = std::min(least, kept.size());
      most = std::max(most, kept.size());
    }
  EXPECT_EQ(rows, 8u * 60);
  EXPECT_LT(least, most);
  for (const auto& [score, row] : all)
    EXPECT_TRUE(std::ranges::binary_search(prompt.kept(row[0], row[1]), row[2])) << row[2];
}

TEST(Kvzip, RefusesARouterASecondScorerAndASecondBudget) {
  EXPECT_THROW(make_policy("kvzip+fastkv", toy_shape()), Error);
  EXPECT_THROW(make_policy("kvzip+snapkv", toy_shape()), Error);
  EXPECT_THROW(make_policy("kvzip+spans:calibration=none", toy_shape()), Error);
}

}  // namespace
}  // namespace pith::test

#include <algorithm>
#include <cmath>
#include <gtest/gtest.h>
#include <memory>
#include <string>
#include <vector>

#include "backend/cpu_backend.h"
#include "support/attention_oracle.h"
#include "support/paged_rows.h"
#include "support/same_bits.h"

namespace pith {
namespace {

using test::AttentionOracle;
using test::normal_numbers;
using test::PagedLayout;
using test::PagedRows;
using test::worst;

// One layer of a prompt: all rows at once, earlier turns if any.
struct Layer {
  int rows, heads, group, dim;
  std::vector<float> q, k, v;  // [rows, query heads, dim], [heads, rows, dim]
  std::vector<int32_t> positions;
  std::vector<std::unique_ptr<PagedRows>> earlier;  // [heads] or empty
  AttentionRule rule;

  Layer(int rows, int heads, int group, int dim, int first_position = 0)
      : rows(rows), heads(heads), group(group), dim(dim) {
    const auto n = static_cast<size_t>(rows * heads * dim);
    q = normal_numbers(n * static_cast<size_t>(group), 1, 1.5f);
    k = normal_numbers(n, 2);
    v = normal_numbers(n, 3);
    rule.scale = 1 / std::sqrt(static_cast<float>(dim));
    for (int r = 0; r < rows; ++r) positions.push_back(first_position + 2 * r);
  }

  ConstCube queries() const { return ConstCube::packed(q.data(), {rows, heads * group, dim}); }
  ConstCube keys() const { return ConstCube::packed(k.data(), {heads, rows, dim}); }
  ConstCube values() const { return ConstCube::packed(v.data(), {heads, rows, dim}); }

  // Rows of earlier turns come first, then this prompt's.
  AttentionOracle oracle(int row, int query_head) const {
    AttentionOracle o;
    const int head = query_head / group;
    const std::span<const float> query = queries()[row].row(query_head);
    const int64_t q_pos = positions[static_cast<size_t>(row)];
    if (!earlier.empty())
      earlier[static_cast<size_t>(head)]->add_to(o, query, rule, query_head, q_pos);
    for (int r = 0; r < rows; ++r) {
      const int64_t k_pos = positions[static_cast<size_t>(r)];
      if (r > row || (rule.window > 0 && k_pos <= q_pos - rule.window))
        o.skip();
      else
        o.add(test::oracle_logit(query, keys()[head].row(r), rule, query_head, q_pos, k_pos),
              values()[head].row(r));
    }
    return o;
  }
};

struct Answer {
  std::vector<float> out, mass;
};

Answer attend(Backend& backend, const Layer& layer, const std::vector<int>& tiles,
              Mass mass = Mass::none, const ReadPlan* reads = nullptr) {
  Answer answer;
  answer.out.assign(layer.q.size(), NAN);
  answer.mass.assign(static_cast<size_t>(layer.heads * layer.rows), 0);
  std::vector<PagedHead> cached;
  for (const auto& head : layer.earlier) cached.push_back(head->head());
  int first = 0;
  for (const int tile : tiles) {
    DenseAttention job{
        .q = layer.queries(),
        .k = layer.keys(),
        .v = layer.values(),
        .cached = cached,
        .first_row = first,
        .positions = layer.positions,
        .rule = layer.rule,
        .out = Cube::packed(answer.out.data(), {layer.rows, layer.heads * layer.group, layer.dim}),
        .mass = mass,
        .column_mass = Mat::packed(answer.mass.data(), {layer.heads, layer.rows}),
        .reads = reads};
    job.q.data += first * job.q.stride[0];
    job.out.data += first * job.out.stride[0];
    job.q.dim[0] = job.out.dim[0] = tile;
    backend.attend(job);
    first += tile;
  }
  EXPECT_EQ(first, layer.rows);
  return answer;
}

void expect_matches_oracle(const Layer& layer, const Answer& answer, double bound = 2e-5) {
  for (int r = 0; r < layer.rows; ++r)
    for (int h = 0; h < layer.heads * layer.group; ++h) {
      const auto at = static_cast<size_t>((r * layer.heads * layer.group + h) * layer.dim);
      ASSERT_LT(worst(std::span(answer.out).subspan(at, static_cast<size_t>(layer.dim)),
                      layer.oracle(r, h).out(layer.dim)),
                bound)
          << "row " << r << " head " << h;
    }
}

TEST(PromptAttention, EqualsTheDefinitionForGroupsOfAnySize) {
  const auto backend = make_cpu_backend(2);
  for (const int group : {1, 2, 3, 7}) {
    SCOPED_TRACE("group " + std::to_string(group));
    const Layer layer(90, 2, group, group == 3 ? 72 : 32);
    expect_matches_oracle(layer, attend(*backend, layer, {90}));
  }
}

TEST(PromptAttention, APromptOfOneTokenSeesItself) {
  const auto backend = make_cpu_backend(2);
  const Layer layer(1, 2, 2, 16);
  const Answer answer = attend(*backend, layer, {1});
  for (size_t h = 0; h < 4; ++h)
    for (size_t d = 0; d < 16; ++d)
      EXPECT_FLOAT_EQ(answer.out[h * 16 + d], layer.v[h / 2 * 16 + d]);
}

TEST(PromptAttention, FollowsTheRuleOfItsLayer) {
  const auto backend = make_cpu_backend(2);
  const std::vector<float> slopes = {0.5f, 0.25f, 0.06f, 0.001f};
  Layer layer(120, 2, 2, 40);
  layer.rule = {.scale = 0.4f, .softcap = 6, .window = 77, .alibi = slopes};
  expect_matches_oracle(layer, attend(*backend, layer, {120}), 5e-5);
}

void add_earlier(Layer& layer, PagedLayout layout) {
  layout.dim = layer.dim;
  for (int h = 0; h < layer.heads; ++h) {
    layout.open_rows += 3 * h;  // ragged
    layer.earlier.push_back(std::make_unique<PagedRows>(layout, static_cast<uint64_t>(20 + h)));
  }
}

TEST(PromptAttention, SeesAllRowsOfEarlierTurns) {
  const auto backend = make_cpu_backend(2);
  for (const int rank : {0, 16}) {
    for (const int pages : {0, 1, 21}) {
      SCOPED_TRACE(::testing::Message() << "rank " << rank << " pages " << pages);
      Layer layer(70, 2, 2, 32, 3000);
      add_earlier(layer, {.sealed_pages = pages,
                          .open_rows = 37,
                          .pseudo_rows = 2,
                          .k_rank = rank,
                          .v_rank = rank});
      expect_matches_oracle(layer, attend(*backend, layer, {70}), 3e-5);
    }
  }
}

TEST(PromptAttention, AppliesWindowsSlopesAndCapsToEarlierTurns) {
  const auto backend = make_cpu_backend(2);
  const std::vector<float> slopes = {0.05f, 0.025f, 0.006f, 0.001f};
  Layer layer(70, 2, 2, 32, 800);
  add_earlier(layer,
              {.sealed_pages = 20, .open_rows = 30, .pseudo_rows = 1, .first_position = 100});
  layer.rule = {.scale = 0.3f, .softcap = 9, .window = 250, .alibi = slopes};
  expect_matches_oracle(layer, attend(*backend, layer, {70}), 5e-5);
}

TEST(PromptAttention, HeadsThatKeptNothingStandAmongOthers) {
  const auto backend = make_cpu_backend(2);
  Layer layer(20, 2, 1, 16, 500);
  layer.earlier.push_back(std::make_unique<PagedRows>(PagedLayout{.dim = 16}, 1));
  layer.earlier.push_back(std::make_unique<PagedRows>(PagedLayout{.dim = 16, .open_rows = 50}, 2));
  expect_matches_oracle(layer, attend(*backend, layer, {20}));

  // A head that never held a row has no page size either.
  std::vector<PagedHead> cached(2);
  cached[1] = layer.earlier[1]->head();
  std::vector<float> out(layer.q.size());
  backend->attend(DenseAttention{.q = layer.queries(),
                                 .k = layer.keys(),
                                 .v = layer.values(),
                                 .cached = cached,
                                 .positions = layer.positions,
                                 .rule = layer.rule,
                                 .out = Cube::packed(out.data(), {20, 2, 16}),
                                 .column_mass = {}});
  EXPECT_TRUE(test::same_bits(out, attend(*backend, layer, {20}).out));
}

TEST(PromptAttention, CutsAndThreadsDoNotChangeABit) {
  for (const bool with_earlier : {false, true}) {
    Layer layer(150, 2, 3, 24, 2000);
    if (with_earlier) add_earlier(layer, {.sealed_pages = 10, .open_rows = 5, .pseudo_rows = 1});
    const Answer whole = attend(*make_cpu_backend(1), layer, {150}, Mass::sum);
    for (const int threads : {1, 2, 5}) {
      const auto backend = make_cpu_backend(threads);
      for (const std::vector<int>& tiles :
           {std::vector<int>{150}, {64, 64, 22}, {1, 70, 79}, std::vector<int>(150, 1)}) {
        const Answer answer = attend(*backend, layer, tiles, Mass::sum);
        EXPECT_TRUE(test::same_bits(answer.out, whole.out)) << threads << " threads";
        EXPECT_TRUE(test::same_bits(answer.mass, whole.mass)) << threads << " threads";
      }
    }
  }
}

TEST(PromptAttention, GathersWhatRowsReceiveOnlyWhenAsked) {
  const auto backend = make_cpu_backend(2);
  Layer layer(130, 2, 2, 16, 500);
  add_earlier(layer, {.sealed_pages = 2, .open_rows = 9, .pseudo_rows = 1});
  for (const Mass how : {Mass::none, Mass::sum, Mass::squares, Mass::most}) {
    SCOPED_TRACE(static_cast<int>(how));
    const Answer answer = attend(*backend, layer, {50, 80}, how);
    std::vector<double> expected(answer.mass.size());
    for (int r = 0; r < layer.rows && how != Mass::none; ++r)
      for (int h = 0; h < layer.heads * layer.group; ++h) {
        const auto head = static_cast<size_t>(h / layer.group);
        const std::vector<double> probs = layer.oracle(r, h).probs();
        const size_t before = probs.size() - static_cast<size_t>(layer.rows);
        for (size_t c = 0; c < static_cast<size_t>(layer.rows); ++c) {
          double& to = expected[head * static_cast<size_t>(layer.rows) + c];
          const double p = probs[before + c];
          if (how == Mass::sum) to += p;
          if (how == Mass::squares) to += p * p;
          if (how == Mass::most) to = std::max(to, p);
        }
      }
    EXPECT_LT(worst(answer.mass, expected), 2e-5);
  }
}

TEST(PromptAttention, LeavesPaddingOfWiderRowsAlone) {
  const auto backend = make_cpu_backend(2);
  const Layer layer(30, 1, 2, 16);
  std::vector<float> out(30 * 50, 3.5f);
  DenseAttention job{.q = layer.queries(),
                     .k = layer.keys(),
                     .v = layer.values(),
                     .positions = layer.positions,
                     .rule = layer.rule,
                     .out = {out.data() + 9, {30, 2, 16}, {50, 16, 1}},
                     .column_mass = {}};
  backend->attend(job);
  const Answer packed = attend(*backend, layer, {30});
  for (size_t i = 0; i < out.size(); ++i) {
    const size_t column = i % 50;
    const bool outside = column < 9 || column >= 41;
    EXPECT_EQ(out[i], outside ? 3.5f : packed.out[i / 50 * 32 + column - 9]);
  }
}

// ---- plans of what is read

// Every other block of 64 rows before the block of the query, and other ones for other heads.
ReadPlan some_rows(const Layer& layer) {
  ReadPlan plan;
  plan.begin(layer.heads, layer.rows);
  for (int64_t head = 0; head < layer.heads; ++head)
    for (int64_t block = 0; block < plan.blocks(); ++block) {
      const int64_t own = block * ReadPlan::kBlock;
      for (int64_t row = 64 * head; row + 64 < own; row += 128)
        plan.at(head, block).push_back({row, row + 64});
      plan.at(head, block).push_back({own, std::min<int64_t>(layer.rows, own + 128)});
    }
  return plan;
}

bool reads_row(const ReadPlan& plan, int head, int row, int key) {
  for (const RowRange& range : plan.at(head, row / ReadPlan::kBlock))
    if (key >= range.first && key < range.last) return true;
  return false;
}

TEST(ReadPlans, OfEveryRowChangeNoBit) {
  Layer layer(450, 2, 3, 24, 2000);
  add_earlier(layer, {.sealed_pages = 3, .open_rows = 5, .pseudo_rows = 1});
  const auto backend = make_cpu_backend(2);
  const Answer all = attend(*backend, layer, {450}, Mass::sum);
  for (const int64_t piece : {64, 128, 192, 448, 512}) {
    ReadPlan plan;
    plan.begin(2, 450);
    for (std::vector<RowRange>& ranges : plan.ranges)
      for (int64_t row = 0; row < 450; row += piece)
        ranges.push_back({row, std::min<int64_t>(450, row + piece)});
    for (const std::vector<int>& tiles : {std::vector<int>{450}, {7, 200, 43, 200}}) {
      const Answer planned = attend(*backend, layer, tiles, Mass::sum, &plan);
      EXPECT_TRUE(test::same_bits(planned.out, all.out)) << "ranges of " << piece;
      EXPECT_TRUE(test::same_bits(planned.mass, all.mass)) << "ranges of " << piece;
    }
  }
}

TEST(ReadPlans, LimitWhatEachBlockOfQueriesReads) {
  Layer layer(450, 2, 2, 16, 2000);
  layer.rule.window = 700;  // positions go in twos
  add_earlier(layer, {.sealed_pages = 2, .open_rows = 5, .pseudo_rows = 1});
  const ReadPlan plan = some_rows(layer);
  const Answer answer = attend(*make_cpu_backend(2), layer, {100, 350}, Mass::sum, &plan);
  std::vector<double> mass(answer.mass.size());
  for (int r = 0; r < layer.rows; ++r)
    for (int h = 0; h < 4; ++h) {
      AttentionOracle oracle;
      const std::span<const float> q = layer.queries()[r].row(h);
      const int64_t q_pos = layer.positions[static_cast<size_t>(r)];
      layer.earlier[static_cast<size_t>(h / 2)]->add_to(oracle, q, layer.rule, h, q_pos);
      const size_t before = oracle.rows();
      for (int c = 0; c < layer.rows; ++c) {
        const int64_t k_pos = layer.positions[static_cast<size_t>(c)];
        if (c > r || k_pos <= q_pos - 700 || !reads_row(plan, h / 2, r, c))
          oracle.skip();
        else
          oracle.add(test::oracle_logit(q, layer.keys()[h / 2].row(c), layer.rule, h, q_pos, k_pos),
                     layer.values()[h / 2].row(c));
      }
      const auto at = static_cast<size_t>((r * 4 + h) * 16);
      ASSERT_LT(worst(std::span(answer.out).subspan(at, 16), oracle.out(16)), 2e-5);
      const std::vector<double> probs = oracle.probs();
      for (size_t c = 0; c < 450; ++c)
        mass[static_cast<size_t>(h / 2) * 450 + c] += probs[before + c];
    }
  EXPECT_LT(worst(answer.mass, mass), 2e-5);
}

TEST(ReadPlans, AreTheSameBitsForAnyCutAndThreads) {
  const Layer layer(450, 2, 2, 16);
  const ReadPlan plan = some_rows(layer);
  const Answer whole = attend(*make_cpu_backend(1), layer, {450}, Mass::most, &plan);
  for (const int threads : {1, 3})
    for (const std::vector<int>& tiles : {std::vector<int>{450}, {1, 127, 200, 122}}) {
      const Answer cut = attend(*make_cpu_backend(threads), layer, tiles, Mass::most, &plan);
      EXPECT_TRUE(test::same_bits(cut.out, whole.out));
      EXPECT_TRUE(test::same_bits(cut.mass, whole.mass));
    }
}

// ---- what scorers ask for

TEST(PromptAttention, GathersForEachQueryHeadWithDivisorsAndWithoutOutputs) {
  const Layer layer(150, 2, 3, 16);
  const auto backend = make_cpu_backend(2);
  std::vector<float> divisors, mass(6 * 150, 0);
  for (int r = 0; r < 150; ++r) divisors.push_back(0.5f + 0.01f * static_cast<float>(r));
  for (const auto& [first, tile] : {std::pair(0, 70), std::pair(70, 80)}) {
    DenseAttention job{.q = layer.queries(),
                       .k = layer.keys(),
                       .v = {},
                       .first_row = first,
                       .positions = layer.positions,
                       .rule = layer.rule,
                       .out = {},
                       .mass = Mass::most,
                       .column_mass = Mat::packed(mass.data(), {6, 150}),
                       .mass_divisor = std::span(divisors).subspan(first, tile)};
    job.q.data += first * job.q.stride[0];
    job.q.dim[0] = tile;
    backend->attend(job);
  }
  std::vector<double> expected(mass.size());
  for (int r = 0; r < 150; ++r)
    for (size_t h = 0; h < 6; ++h) {
      const std::vector<double> p = layer.oracle(r, static_cast<int>(h)).probs();
      for (size_t c = 0; c < 150; ++c)
        expected[h * 150 + c] =
            std::max(expected[h * 150 + c], p[c] / divisors[static_cast<size_t>(r)]);
    }
  EXPECT_LT(worst(mass, expected), 2e-5);
}

std::vector<double> window_oracle(const Layer& layer, int window) {
  std::vector<double> mass(static_cast<size_t>(layer.heads * layer.group * layer.rows));
  for (int h = 0; h < layer.heads * layer.group; ++h)
    for (int r = layer.rows - window; r < layer.rows; ++r) {
      const std::vector<double> p = layer.oracle(r, h).probs();
      for (size_t c = 0; c < p.size(); ++c) mass[static_cast<size_t>(h * layer.rows) + c] += p[c];
    }
  return mass;
}

std::vector<float> window_mass(Backend& backend, const Layer& layer, int window) {
  std::vector<float> mass(static_cast<size_t>(layer.heads * layer.group * layer.rows), NAN);
  ConstCube q = layer.queries();
  q.data += (layer.rows - window) * q.stride[0];
  q.dim[0] = window;
  backend.window_mass({.q = q,
                       .k = layer.keys(),
                       .positions = layer.positions,
                       .rule = layer.rule,
                       .out = Mat::packed(mass.data(), {layer.heads * layer.group, layer.rows})});
  return mass;
}

TEST(WindowMass, IsTheSoftmaxOfTheLastQueriesSummed) {
  const auto backend = make_cpu_backend(2);
  for (const int rows : {8, 9, 64, 333, 4500}) {
    SCOPED_TRACE(std::to_string(rows) + " rows");
    const Layer layer(rows, 2, 2, rows == 4500 ? 8 : 40);
    EXPECT_LT(worst(window_mass(*backend, layer, 8), window_oracle(layer, 8)), 1e-5);
  }
}

TEST(WindowMass, FollowsTheRuleOfItsLayer) {
  const auto backend = make_cpu_backend(2);
  const std::vector<float> slopes = {0.5f, 0.01f};
  Layer layer(300, 1, 2, 16, 1000000);
  layer.rule = {.scale = 0.5f, .softcap = 5, .window = 255, .alibi = slopes};
  EXPECT_LT(worst(window_mass(*backend, layer, 33), window_oracle(layer, 33)), 2e-5);
}

TEST(WindowMass, MayTakeTheWholePromptAsItsWindow) {
  const auto backend = make_cpu_backend(2);
  for (const int rows : {1, 5, 100}) {
    const Layer layer(rows, 1, 3, 16);
    EXPECT_LT(worst(window_mass(*backend, layer, rows), window_oracle(layer, rows)), 1e-5);
  }
}

TEST(WindowMass, ThreadsDoNotChangeABit) {
  const Layer layer(5000, 2, 2, 16);
  const std::vector<float> one = window_mass(*make_cpu_backend(1), layer, 16);
  for (const int threads : {2, 4})
    EXPECT_TRUE(test::same_bits(window_mass(*make_cpu_backend(threads), layer, 16), one));
}

TEST(RowNorms, AreEuclidean) {
  const auto backend = make_cpu_backend(2);
  const std::vector<float> x = normal_numbers(3 * 70 * 24, 5);
  std::vector<float> norms(3 * 80, -1);
  backend->row_norms(ConstCube::packed(x.data(), {3, 70, 24}), {norms.data(), {3, 70}, {80, 1}});
  for (size_t h = 0; h < 3; ++h)
    for (size_t r = 0; r < 80; ++r) {
      double squares = 0;
      for (size_t d = 0; d < 24 && r < 70; ++d)
        squares += std::pow(static_cast<double>(x[(h * 70 + r) * 24 + d]), 2);
      EXPECT_NEAR(norms[h * 80 + r], r < 70 ? std::sqrt(squares) : -1, 1e-5);
    }
}

}  // namespace
}  // namespace pith

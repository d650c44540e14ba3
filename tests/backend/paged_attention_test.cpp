#include <algorithm>
#include <cmath>
#include <gtest/gtest.h>
#include <memory>
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

// One job over one head, with memory for what it answers.
struct Query {
  PagedRows rows;
  int group, dim;
  std::vector<float> q, out, probs;
  AttentionRule rule;
  int32_t position;
  int first_query_head = 0;
  bool wants_probs = false;

  Query(const PagedLayout& layout, int group, uint64_t seed = 1)
      : rows(layout, seed),
        group(group),
        dim(layout.dim),
        q(normal_numbers(static_cast<size_t>(group * layout.dim), seed + 77, 1.5f)),
        out(q.size(), NAN),
        position(rows.rows() > 0 ? rows.positions().back() : 0) {
    rule.scale = 1 / std::sqrt(static_cast<float>(dim));
  }

  HeadAttention job() {
    probs.assign(wants_probs ? static_cast<size_t>(rows.rows()) : 0, NAN);
    std::ranges::fill(out, NAN);
    return {.q = ConstMat::packed(q.data(), {group, dim}),
            .head = rows.head(),
            .position = position,
            .first_query_head = first_query_head,
            .rule = rule,
            .out = Mat::packed(out.data(), {group, dim}),
            .probs = probs};
  }

  AttentionOracle oracle(int h) const {
    AttentionOracle o;
    rows.add_to(o, std::span(q).subspan(static_cast<size_t>(h * dim), static_cast<size_t>(dim)),
                rule, first_query_head + h, position);
    return o;
  }

  void expect_matches_oracle(double bound = 1e-5) const {
    std::vector<double> shares(probs.size());
    for (int h = 0; h < group; ++h) {
      const AttentionOracle o = oracle(h);
      const auto at = static_cast<size_t>(h * dim);
      ASSERT_LT(worst(std::span(out).subspan(at, static_cast<size_t>(dim)), o.out(dim)), bound)
          << "head " << h;
      const std::vector<double> p = o.probs();  // pseudo rows stand behind the rows
      for (size_t r = 0; r < shares.size(); ++r) shares[r] += p[r];
    }
    ASSERT_LT(worst(probs, shares), bound);
  }
};

void run(Backend& backend, Query& query) {
  const HeadAttention job = query.job();
  backend.attend(std::span(&job, 1));
}

TEST(PagedAttention, AnyMixOfPartsEqualsAttentionOverAllOfThem) {
  const auto backend = make_cpu_backend(2);
  uint64_t seed = 0;
  for (const int sealed : {0, 1, 5})
    for (const int open : {0, 1, 40})
      for (const int pseudo : {0, 2})
        for (const int group : {1, 3, 4, 7}) {
          SCOPED_TRACE(::testing::Message() << sealed << " sealed pages, " << open << " open rows, "
                                            << pseudo << " pseudo rows, group " << group);
          Query query({.dim = group == 3 ? 72 : 64,
                       .page_rows = group == 4 ? 16 : 32,
                       .sealed_pages = sealed,
                       .open_rows = open,
                       .pseudo_rows = pseudo,
                       .k = seed % 2 ? Quant::f32 : Quant::f16,
                       .v = seed % 3 ? Quant::f16 : Quant::f32,
                       .open = seed % 5 ? Quant::f16 : Quant::f32},
                      group, ++seed);
          query.wants_probs = true;
          run(*backend, query);
          query.expect_matches_oracle();
        }
}

TEST(PagedAttention, CodedPagesAreMetWithoutDecodingThem) {
  const auto backend = make_cpu_backend(2);
  for (const int rank : {0, 40})
    for (const int group : {1, 4, 5})
      for (const bool window : {false, true}) {
        SCOPED_TRACE(::testing::Message() << "rank " << rank << ", group " << group);
        Query query({.dim = 64,
                     .sealed_pages = 70,  // more than one run
                     .open_rows = 21,
                     .pseudo_rows = 1,
                     .k = Quant::q8_keys,
                     .v = Quant::q8_values,
                     .open = group == 1 ? Quant::bf16 : Quant::f16,
                     .k_rank = rank,
                     .v_rank = rank},
                    group, 21);
        const std::vector<float> slopes(8, 0.02f);
        if (window) query.rule.window = 1300;
        if (window) query.rule.softcap = 20;
        if (window) query.rule.alibi = slopes;
        query.wants_probs = true;
        run(*backend, query);
        // Codes are what they decode to; queries and weights are rounded to 16 bits.
        query.expect_matches_oracle(3e-4);
      }
}

TEST(PagedAttention, SealedRowsMayLieInOtherCoordinates) {
  const auto backend = make_cpu_backend(2);
  for (const int k_rank : {0, 40, 64})
    for (const int v_rank : {0, 24})
      for (const int open : {0, 45}) {
        SCOPED_TRACE(::testing::Message() << "ranks " << k_rank << " and " << v_rank);
        Query query({.dim = 64,
                     .sealed_pages = 37,  // more than one run
                     .open_rows = open,
                     .pseudo_rows = 1,
                     .k_rank = k_rank,
                     .v_rank = v_rank},
                    3, 9);
        query.wants_probs = true;
        run(*backend, query);
        query.expect_matches_oracle(3e-5);
      }
}

TEST(PagedAttention, LongHeadsAreReadInRunsThatMerge) {
  const auto backend = make_cpu_backend(2);
  for (const int page_rows : {16, 32, 48, 1500}) {
    SCOPED_TRACE("pages of " + std::to_string(page_rows));
    Query query(
        {.dim = 16, .page_rows = page_rows, .sealed_pages = 4500 / page_rows, .open_rows = 533}, 2,
        4);
    query.wants_probs = true;
    run(*backend, query);
    query.expect_matches_oracle();
  }
}

TEST(PagedAttention, LeavesRowsBehindTheWindow) {
  const auto backend = make_cpu_backend(2);
  for (const int window : {1, 31, 100, 1200, 5000}) {
    SCOPED_TRACE("window " + std::to_string(window));
    Query query({.dim = 32,
                 .sealed_pages = 60,
                 .open_rows = 20,
                 .pseudo_rows = 1,
                 .v_rank = window % 2 ? 16 : 0,
                 .first_position = 1000000,
                 .position_step = 3},
                2, 6);
    query.rule.window = window;
    query.wants_probs = true;
    run(*backend, query);
    query.expect_matches_oracle();
  }
}

TEST(PagedAttention, TakesAlibiFromPositionsHoweverLarge) {
  const auto backend = make_cpu_backend(1);
  const std::vector<float> slopes = {0.9f, 0.5f, 0.25f, 0.125f, 0.0625f};
  for (const int base : {0, 1000000, 16000000}) {
    Query query({.dim = 32,
                 .sealed_pages = 3,
                 .open_rows = 9,
                 .pseudo_rows = 2,
                 .first_position = base,
                 .position_step = 7},
                3, 6);
    query.rule.alibi = slopes;
    query.first_query_head = 2;
    run(*backend, query);
    query.expect_matches_oracle();
  }
}

TEST(PagedAttention, CapsLogitsOfPseudoRowsToo) {
  const auto backend = make_cpu_backend(1);
  Query query({.dim = 64, .sealed_pages = 3, .open_rows = 9, .pseudo_rows = 3}, 2, 6);
  query.rule.scale = 1;
  query.rule.softcap = 4;
  query.wants_probs = true;
  run(*backend, query);
  query.expect_matches_oracle(3e-5);
}

TEST(PagedAttention, AnEmptyHeadAnswersZeros) {
  const auto backend = make_cpu_backend(2);
  Query empty({.dim = 64}, 4);
  run(*backend, empty);
  EXPECT_EQ(empty.out, std::vector<float>(empty.out.size(), 0));

  std::vector<float> out(128, NAN);
  const HeadAttention nothing{.q = ConstMat::packed(empty.q.data(), {2, 64}),
                              .head = {},
                              .rule = {},
                              .out = Mat::packed(out.data(), {2, 64}),
                              .probs = {}};
  backend->attend(std::span(&nothing, 1));
  EXPECT_EQ(out, std::vector<float>(128, 0));

  Query past({.dim = 64, .sealed_pages = 1, .open_rows = 3}, 4);
  past.rule.window = 5;
  past.position = 1000;
  past.wants_probs = true;
  run(*backend, past);
  EXPECT_EQ(past.out, std::vector<float>(past.out.size(), 0));
  EXPECT_EQ(past.probs, std::vector<float>(past.probs.size(), 0));
}

TEST(PagedAttention, AHeadOfPseudoRowsAloneIsTheirWeightedMean) {
  const auto backend = make_cpu_backend(1);
  Query query({.dim = 40, .pseudo_rows = 5}, 3);
  run(*backend, query);
  query.expect_matches_oracle();
}

TEST(PagedAttention, ProbabilitiesAddUpToWhatPseudoRowsLeave) {
  const auto backend = make_cpu_backend(1);
  Query query({.dim = 64, .sealed_pages = 2, .open_rows = 5}, 4);
  query.wants_probs = true;
  run(*backend, query);
  double total = 0;
  for (float p : query.probs) total += p;
  EXPECT_NEAR(total, 4, 1e-5);
}

std::vector<std::unique_ptr<Query>> ragged_batch() {
  std::vector<std::unique_ptr<Query>> batch;
  const int open[] = {0, 1, 3000, 17, 64, 700, 5, 2500};
  for (int i = 0; i < 8; ++i) {
    batch.push_back(std::make_unique<Query>(PagedLayout{.dim = 32,
                                                        .sealed_pages = i * 13 % 50,
                                                        .open_rows = open[i],
                                                        .pseudo_rows = i % 2,
                                                        .k_rank = i % 3 ? 0 : 16,
                                                        .v_rank = i % 4 ? 0 : 24},
                                            1 + i % 4, static_cast<uint64_t>(i)));
    batch.back()->wants_probs = i % 2 == 0;
    batch.back()->rule.window = i == 5 ? 300 : 0;
  }
  return batch;
}

// Outputs and probabilities of the batch, one after the other.
std::vector<float> answers(Backend& backend, std::vector<std::unique_ptr<Query>>& batch) {
  std::vector<HeadAttention> jobs;
  for (auto& query : batch) jobs.push_back(query->job());
  backend.attend(jobs);
  std::vector<float> all;
  for (auto& query : batch) {
    all.insert(all.end(), query->out.begin(), query->out.end());
    all.insert(all.end(), query->probs.begin(), query->probs.end());
  }
  return all;
}

TEST(PagedAttention, ThreadsDoNotChangeABit) {
  auto batch = ragged_batch();
  const std::vector<float> one = answers(*make_cpu_backend(1), batch);
  for (const int threads : {2, 3, 8}) {
    const auto backend = make_cpu_backend(threads);
    for (int repeat = 0; repeat < 5; ++repeat)
      EXPECT_TRUE(test::same_bits(answers(*backend, batch), one)) << threads << " threads";
  }
}

TEST(PagedAttention, ATokenAloneGivesTheSameBitsAsInABatch) {
  const auto backend = make_cpu_backend(2);
  auto batch = ragged_batch();
  const std::vector<float> together = answers(*backend, batch);
  std::vector<float> apart;
  for (auto& query : batch) {
    run(*backend, *query);
    apart.insert(apart.end(), query->out.begin(), query->out.end());
    apart.insert(apart.end(), query->probs.begin(), query->probs.end());
  }
  EXPECT_TRUE(test::same_bits(apart, together));
}

TEST(PagedAttention, SealingInTheSameFormatMovesNoBit) {
  const auto backend = make_cpu_backend(2);
  Query query({.dim = 64, .sealed_pages = 0, .open_rows = 2500}, 4);
  run(*backend, query);
  const std::vector<float> open = query.out;
  for (const int pages : {1, 33, 78}) {
    query.rows.seal(pages);
    run(*backend, query);
    EXPECT_TRUE(test::same_bits(query.out, open)) << pages << " pages";
  }
}

TEST(PagedAttention, WritesOnlyItsOutputs) {
  const auto backend = make_cpu_backend(2);
  Query query({.dim = 40, .sealed_pages = 2, .open_rows = 7}, 3);
  std::vector<float> wide(3 * 64, 7.5f);
  HeadAttention job = query.job();
  job.out = {wide.data() + 8, {3, 40}, {64, 1}};
  backend->attend(std::span(&job, 1));
  for (size_t i = 0; i < wide.size(); ++i)
    if (i % 64 < 8 || i % 64 >= 48) {
      EXPECT_EQ(wide[i], 7.5f);
    }
  for (size_t h = 0; h < 3; ++h)
    EXPECT_LT(
        worst(std::span(wide).subspan(h * 64 + 8, 40), query.oracle(static_cast<int>(h)).out(40)),
        1e-5);
}

}  // namespace
}  // namespace pith

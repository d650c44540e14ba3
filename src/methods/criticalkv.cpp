// CriticalKV (arXiv:2502.03805; kvpress CriticalKVPress, methods.md 9.10): what an evicted row
// changes is its attention times what its value does to the output. Half of the budget goes to the
// rows with the highest votes; the other half by (vote + epsilon) * |W_O v|_1.
#include <algorithm>
#include <cmath>
#include <vector>

#include "policy/defaults.h"
#include "policy/output_norms.h"
#include "policy/registry.h"

namespace pith {
namespace {

class VoteTimesOutput final : public Scorer {
 public:
  struct Settings {
    Amount amount;
    int session_rows = 0;  // for an amount of bytes
    Protect protect;
    double first = 0.5, epsilon = 1e-4;
  };
  VoteTimesOutput(const Vote& vote, const Settings& settings)
      : vote_(window_vote(vote)), queries_(vote.window), group_max_(vote.group_max), s_(settings) {}

  Demand demand() const override { return {.window_queries = vote_->demand().window_queries}; }

  void score_prompt(const LayerTap& tap, Mat scores) const override {
    vote_->score_prompt(tap, scores);
    const int64_t rows = scores.dim[1];
    const int group = tap.shape.group();
    std::vector<float> memory(static_cast<size_t>(tap.shape.query_heads * rows));
    const Mat norms = Mat::packed(memory.data(), {tap.shape.query_heads, rows});
    output_norms(tap.ops, tap.rows.v, tap.wo, OutputNorm::l1, norms);
    // The paper's epsilon is for a mean over queries and query heads, the vote is their sum.
    const double votes = queries_ * (group_max_ ? 1.0 : group);
    for (int h = 0; h < tap.shape.heads; ++h) {
      const std::span<float> score = scores.row(h);
      const std::vector<int32_t> first = best_votes(score, tap.prompt_tokens);
      float most = 0;
      for (size_t r = 0; r < score.size(); ++r) {
        double norm = 0;
        for (int g = 0; g < group; ++g) norm += norms.row(h * group + g)[r];
        score[r] = static_cast<float>((score[r] + s_.epsilon * votes) * norm / group);
        most = std::max(most, score[r]);
      }
      for (const int32_t r : first) score[static_cast<size_t>(r)] += most;  // above all others
    }
  }

 private:
  // The rows of the first half; protected ones count, as they are part of the budget.
  std::vector<int32_t> best_votes(std::span<const float> votes, int prompt_tokens) const {
    std::vector<int32_t> best;
    const int budget = s_.amount.bytes > 0 ? s_.session_rows : s_.amount.of(prompt_tokens);
    const int rows = static_cast<int>(std::lround(s_.first * budget));
    if (rows <= s_.protect.rows()) return best;
    top_rows(votes, rows, s_.protect, best);
    return best;
  }

  std::unique_ptr<const Scorer> vote_;
  int queries_;
  bool group_max_;
  Settings s_;
};

const RegisterMethod criticalkv{{
    .name = "criticalkv",
    .summary = "keep rows by their votes and by what their values do to the output",
    .source = "arXiv:2502.03805",
    .family = "selection: attention scores",
    .build =
        [](Options& o, const KvShape& shape, Policy& p) {
          p.vote = vote_options(o, {.window = 32, .width = 7, .pool = Pool::max});
          protect_options(o, p, {.sink = 0, .recent = p.vote.window}, p.vote.window);
          budget_option(o, p, {});
          VoteTimesOutput::Settings s;
          s.first = o.ratio("first", 0.5, "share of the budget that goes by votes alone");
          s.epsilon = o.number("epsilon", 1e-4,
                               "added to a row's mean attention, so that none has no value", 0, 1);
          s.amount = p.amount;
          s.protect = p.protect;
          if (s.amount.bytes > 0) s.session_rows = rows_for_bytes(s.amount.bytes, shape, p.store);
          p.scorer = std::make_unique<VoteTimesOutput>(p.vote, s);
        },
    .cost = "a prompt: snapkv's vote, and the output projection of all values once more; a token: "
            "nothing",
    .departures =
        {"Votes are those of `snapkv`, with its options; the reference wraps any scorer.",
         "The first half is that of an even budget, also where another method shares out the "
         "budget unevenly.",
         "Epsilon is per query and query head, as in the reference, where votes are means."},
}};

}  // namespace
}  // namespace pith

// Observed attention (kvpress, ObservedAttentionPress; methods.md 9.3): like H2O the attention that
// a row has received, but divided by the number of queries that could have paid it, so that old
// rows have no head start.
#include <algorithm>

#include "policy/registry.h"

namespace pith {
namespace {

class MeanAttention final : public Scorer {
 public:
  Demand demand() const override { return {.prompt_mass = Mass::sum, .decode_probs = true}; }
  bool scores_steps() const override { return true; }

  void score_prompt(const LayerTap& tap, Mat scores) const override {
    const ConstMat mass = tap.ops.to_host(tap.prompt_mass);
    const std::span<const int32_t> positions = tap.rows.positions;
    const size_t rows = positions.size();
    size_t last = 0;  // rows [r, last) could see row r
    for (size_t r = 0; r < rows; ++r) {
      while (last < rows &&
             (tap.rule.window == 0 || positions[last] < positions[r] + tap.rule.window))
        ++last;
      for (int h = 0; h < tap.shape.heads; ++h)
        scores.row(h)[r] = mass.row(h)[r] / static_cast<float>(last - r);
    }
  }

  // A running mean: a generated row counts its queries by its position.
  void score_step(const StepTap& tap, std::span<float> scores) const override {
    const int32_t now = tap.positions.back();
    for (size_t i = 0; i < tap.probs.size(); ++i) {
      const size_t row = tap.rows.empty() ? i : static_cast<size_t>(tap.rows[i]);
      const float queries = static_cast<float>(now - tap.positions[row] + 1);
      scores[row] += (tap.probs[i] - scores[row]) / queries;
    }
  }
};

const RegisterMethod observed{{
    .name = "observed",
    .summary = "keep the rows that received most attention per query that saw them",
    .source = "kvpress ObservedAttentionPress, after arXiv:2306.14048",
    .family = "selection: attention scores",
    .build = [](Options& /*options*/, const KvShape& /*shape*/,
                Policy& p) { p.scorer = std::make_unique<MeanAttention>(); },
    .cost = "a prompt: one more product of all queries with all keys per layer; a token: its "
            "probabilities, if it reduces while generating",
    .departures = {"The newest 32 rows stay (`recent`): a row that few queries saw has a mean of "
                   "few, the newest of its own query alone. The reference protects none.",
                   "While generating the mean goes on; the reference scores the prompt only."},
}};

}  // namespace
}  // namespace pith

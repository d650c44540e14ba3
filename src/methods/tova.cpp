// TOVA (arXiv:2401.06104): of all rows the one that the last query attends to least leaves, after
// the prompt and after every token. One set of rows for all heads of a layer. methods.md 9.6.
#include <algorithm>
#include <vector>

#include "policy/defaults.h"
#include "policy/registry.h"

namespace pith {
namespace {

class LastQuery final : public Scorer {
 public:
  Demand demand() const override { return {.window_queries = 1, .decode_probs = true}; }
  bool scores_add_up() const override { return true; }
  bool scores_steps() const override { return true; }

  void score_prompt(const LayerTap& tap, Mat scores) const override {
    const int64_t rows = static_cast<int64_t>(tap.rows.positions.size());
    const int query_heads = tap.shape.query_heads;
    ConstCube q = tap.window_q;  // other roles may have asked for more queries
    q.data += (q.dim[0] - 1) * q.stride[0];
    q.dim[0] = 1;
    std::vector<float> probs(static_cast<size_t>(query_heads * rows));
    const Mat mass = Mat::packed(probs.data(), {query_heads, rows});
    tap.ops.window_mass(
        {.q = q, .k = tap.rows.k, .positions = tap.rows.positions, .rule = tap.rule, .out = mass});
    const std::span<float> mean = scores.row(0);
    std::ranges::fill(mean, 0.0f);
    for (int h = 0; h < query_heads; ++h)
      for (size_t r = 0; r < mean.size(); ++r) mean[r] += mass.row(h)[r];
    for (float& x : mean) x /= static_cast<float>(query_heads);
    for (int h = 1; h < tap.shape.heads; ++h) std::ranges::copy(mean, scores.row(h).begin());
  }

  // Heads that hold other rows than their layer's first (a budget per head, or a reader that chose
  // other pages) go by their own attention: there is no mean.
  void score_layer_step(std::span<const StepTap> heads,
                        std::span<const std::span<float>> scores) const override {
    const StepTap& first = heads[0];
    const bool together = std::ranges::all_of(heads, [&](const StepTap& head) {
      return std::ranges::equal(head.positions, first.positions) &&
             std::ranges::equal(head.rows, first.rows);
    });
    std::vector<float> mean(together ? first.probs.size() : 0);
    if (together)
      for (const StepTap& head : heads)
        for (size_t i = 0; i < mean.size(); ++i) mean[i] += head.probs[i];
    for (size_t h = 0; h < heads.size(); ++h) {
      const StepTap& head = heads[h];
      const float queries =
          static_cast<float>(together ? head.shape.query_heads : head.shape.group());
      const std::span<const float> sums = together ? std::span<const float>(mean) : head.probs;
      for (size_t i = 0; i < sums.size(); ++i)
        scores[h][head.rows.empty() ? i : static_cast<size_t>(head.rows[i])] = sums[i] / queries;
    }
  }
};

const RegisterMethod tova{{
    .name = "tova",
    .summary = "keep what the newest query attends to, the same rows in all heads of a layer",
    .source = "arXiv:2401.06104",
    .family = "selection: attention scores",
    .build =
        [](Options& o, const KvShape& /*shape*/, Policy& p) {
          protect_options(o, p, {.sink = 0, .recent = 1});
          p.reduce_every =
              o.count("reduce_every", 1, "generated tokens between reductions; 0: the prompt only");
          p.scorer = std::make_unique<LastQuery>();
        },
    .cost = "a prompt: one query times all keys per layer; a token: its probabilities, and one row "
            "leaves each head",
    .departures = {"The newest row always stays; in the paper it competes with the others.",
                   "Heads of a layer that hold different rows, by a budget per head or a reader, "
                   "go by their own attention instead of the layer's mean.",
                   "With reduce_every above 1 a reduction drops several rows by the attention of "
                   "one query."},
}};

}  // namespace
}  // namespace pith

// KV-Distill (arXiv:2503.10337): a trained scorer reads one layer's hidden states and chooses
// tokens, the same for every layer and head; the prompt is read again with a trained adapter, so
// that the chosen rows take in what the others said, and only they stay. No question is needed.
// methods.md 6.
#include <algorithm>
#include <numeric>

#include "policy/adapter.h"
#include "policy/defaults.h"
#include "policy/registry.h"

namespace pith {
namespace {

class LearnedChoice final : public Router {
 public:
  explicit LearnedChoice(std::shared_ptr<const Adapter> adapter) : adapter_(std::move(adapter)) {}
  bool needs_scores() const override { return false; }

  void route(const LayerTap& tap, ConstMat /*scores*/, Protect protect,
             StreamPlan& plan) const override {
    if (tap.layer != adapter_->layer || !tap.adapted.empty()) return;  // read again: chosen already
    const auto rows = static_cast<int>(tap.rows.positions.size());
    if (tap.rows_kept >= rows) {
      plan.adapted.resize(static_cast<size_t>(rows));
      std::iota(plan.adapted.begin(), plan.adapted.end(), 0);
    } else {
      plan.adapted = choose_tokens(score_tokens(tap.ops, adapter_->scorer, tap.hidden),
                                   tap.rows_kept, protect.of(tap.rows_kept), adapter_->fold);
    }
    plan.restart = true;
  }

 private:
  std::shared_ptr<const Adapter> adapter_;
};

class Chosen final : public Scorer {
 public:
  void score_prompt(const LayerTap& tap, Mat scores) const override {
    for (int64_t h = 0; h < scores.dim[0]; ++h) {
      const std::span<float> row = scores.row(h);
      if (tap.adapted.empty())
        std::ranges::fill(row, 0.0f);
      else
        std::ranges::copy(tap.adapted, row.begin());
    }
  }
};

// Folds know nothing of each other.
class Folds final : public TileReader {
 public:
  explicit Folds(int fold) : fold_(fold) {}
  bool looks() const override { return false; }
  void choose(const TileTap& /*tap*/, ReadPlan& plan) const override {
    for (int64_t head = 0; head < plan.heads; ++head)
      for (int64_t block = 0; block < plan.blocks(); ++block) {
        const int64_t own = block * ReadPlan::kBlock;
        plan.at(head, block) = {{own / fold_ * fold_, std::min(plan.rows, own + ReadPlan::kBlock)}};
      }
  }

 private:
  int fold_;
};

void build(Options& o, const KvShape& shape, Policy& p) {
  p.adapter = o.adapter("adapter", "scorer and adapter that were trained for the model",
                        "pith distill", shape);
  protect_options(o, p, {.sink = 8, .recent = 1}, 1);
  budget_option(o, p, {.share = 0.1});
  p.scorer = std::make_unique<Chosen>();
  p.router = std::make_unique<LearnedChoice>(p.adapter);
  if (p.adapter->fold > 0) p.tile_reader = std::make_unique<Folds>(p.adapter->fold);
  p.first_turn_only = true;
}

const RegisterMethod kvdistill{{
    .name = "kvdistill",
    .summary = "keep rows that were trained to stand for a whole text; the question may come later",
    .source = "arXiv:2503.10337",
    .family = "selection: learned",
    .build = build,
    .cost =
        "a prompt: the layers up to the scorer's, then all of them once more with the adapter's "
        "products; a token: nothing",
    .departures =
        {"A session's first turn is compressed, which is what the adapter was trained for; later "
         "turns, the questions, are read by the model as it is and stay whole "
         "(`--opening`, `--compress-span`). Where document and question are one prompt, both are "
         "compressed, and the answer's first token comes from the adapted model.",
         "The scorer's width, the number of sinks and the activation are not in the paper: 8 "
         "sinks, SiLU, hidden states divided by their root mean square.",
         "The last row always stays, and counts in the budget like the sinks.",
         "Rows keep their positions, and scores weigh nothing once tokens are chosen: the paper "
         "says neither.",
         "Contexts longer than the fold that the adapter was trained with are read in folds, too; "
         "each keeps the same share."},
}};

}  // namespace
}  // namespace pith

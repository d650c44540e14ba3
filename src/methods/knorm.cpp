// K-norm (arXiv:2406.11430): keys with a small norm attract attention; keep those.
#include <cmath>

#include "policy/registry.h"

namespace pith {
namespace {

class SmallKeys final : public Scorer {
 public:
  bool scores_steps() const override { return true; }

  void score_prompt(const LayerTap& tap, Mat scores) const override {
    tap.ops.row_norms(tap.rows.k, scores);
    for (int h = 0; h < tap.shape.heads; ++h)
      for (float& s : scores.row(h)) s = -s;
  }

  void score_step(const StepTap& tap, std::span<float> scores) const override {
    double sum = 0;
    for (const float x : tap.k) sum += double{x} * x;
    scores.back() = -static_cast<float>(std::sqrt(sum));
  }
};

const RegisterMethod knorm{{
    .name = "knorm",
    .summary = "keep the keys with a small norm",
    .source = "arXiv:2406.11430",
    .family = "selection: keys and values alone",
    .build = [](Options& /*options*/, const KvShape& /*shape*/,
                Policy& p) { p.scorer = std::make_unique<SmallKeys>(); },
    .cost = "a prompt: one norm per row and head; a token: nothing",
    .departures = {"The newest 32 rows stay whatever their norm (`recent`): the paper's language "
                   "modelling runs keep none, but then a question at the end may be lost.",
                   "The first layers are compressed like the others; the paper leaves the first "
                   "two alone in some of its runs."},
}};

}  // namespace
}  // namespace pith

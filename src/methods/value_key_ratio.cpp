// PagedEviction's token importance (arXiv:2509.04377, methods.md 8.1): |v| / |k|. A large value
// contributes much; a small key attracts attention. Needs no attention probabilities.
//
// The paper drops whole pages while generating, the one whose rows have the lowest mean. That is
// this scorer with chunks for a reducer:
//   value_key_ratio:budget=1024,reduce_every=32+chunkkv:chunk=32,together=false
#include <algorithm>
#include <vector>

#include "policy/registry.h"
#include "policy/select.h"

namespace pith {
namespace {

class ValuePerKey final : public Scorer {
 public:
  bool scores_steps() const override { return true; }

  void score_prompt(const LayerTap& tap, Mat scores) const override {
    std::vector<float> norms(static_cast<size_t>(scores.dim[0] * scores.dim[1]));
    const Mat keys = Mat::packed(norms.data(), scores.dim);
    tap.ops.row_norms(tap.rows.k, keys);
    tap.ops.row_norms(tap.rows.v, scores);
    for (int h = 0; h < tap.shape.heads; ++h)
      for (size_t r = 0; r < scores.row(h).size(); ++r)
        scores.row(h)[r] /= std::max(keys.row(h)[r], kLeastKey);
  }

  void score_step(const StepTap& tap, std::span<float> scores) const override {
    scores.back() = static_cast<float>(value_per_key(tap.v, tap.k));
  }
};

const RegisterMethod value_key_ratio{{
    .name = "value_key_ratio",
    .summary = "keep rows with large values and small keys",
    .source = "arXiv:2509.04377 (PagedEviction)",
    .family = "selection: keys and values alone",
    .build = [](Options& /*options*/, const KvShape& /*shape*/,
                Policy& p) { p.scorer = std::make_unique<ValuePerKey>(); },
    .cost = "a prompt: two norms per row and head; a token: two norms per head",
    .departures =
        {"Rows leave one by one unless `chunkkv` reduces: with "
         "value_key_ratio:reduce_every=32+chunkkv:chunk=32,together=false whole pages leave, as in "
         "the paper.",
         "The newest 32 rows stay (`recent`); the paper protects none."},
}};

}  // namespace
}  // namespace pith

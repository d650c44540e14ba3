// KeyDiff (arXiv:2504.15364; kvpress KeyDiffPress, methods.md 9.10): keys that point where most
// keys point can be spared. A row's score is minus the cosine of its key and the mean of all unit
// keys.
#include <cmath>
#include <vector>

#include "base/parallel.h"
#include "policy/registry.h"

namespace pith {
namespace {

void unlike_the_mean(ConstMat k, std::span<float> scores) {
  const int64_t rows = k.dim[0];
  std::vector<double> mean(static_cast<size_t>(k.dim[1])), norms(static_cast<size_t>(rows));
  for (int64_t r = 0; r < rows; ++r) {
    double sum = 0;
    for (const float x : k.row(r)) sum += double{x} * x;
    norms[static_cast<size_t>(r)] = std::sqrt(sum);
    if (sum == 0) continue;  // no direction
    for (size_t d = 0; d < mean.size(); ++d) mean[d] += k.row(r)[d] / norms[static_cast<size_t>(r)];
  }
  double length = 0;
  for (const double x : mean) length += x * x;
  length = std::sqrt(length);
  for (int64_t r = 0; r < rows; ++r) {
    double dot = 0;
    for (size_t d = 0; d < mean.size(); ++d) dot += k.row(r)[d] * mean[d];
    const double both = norms[static_cast<size_t>(r)] * length;
    scores[static_cast<size_t>(r)] = both > 0 ? static_cast<float>(-dot / both) : 0.0f;
  }
}

class UnlikeKeys final : public Scorer {
 public:
  bool scores_steps() const override { return true; }
  bool rescores() const override { return true; }

  void score_prompt(const LayerTap& tap, Mat scores) const override {
    std::vector<ConstMat> keys;
    keys.reserve(static_cast<size_t>(tap.shape.heads));
    for (int h = 0; h < tap.shape.heads; ++h) keys.push_back(tap.ops.to_host(tap.rows.k[h]));
    tap.ops.threads().for_each(tap.shape.heads, [&](int64_t h, int) {
      unlike_the_mean(keys[static_cast<size_t>(h)], scores.row(h));
    });
  }

  // The mean is that of the rows that are left, so all scores change.
  void rescore(const HeadView& head, std::span<float> scores) const override {
    unlike_the_mean(head.k, scores);
  }
};

const RegisterMethod keydiff{{
    .name = "keydiff",
    .summary = "keep the keys that are unlike the others",
    .source = "arXiv:2504.15364",
    .family = "selection: keys and values alone",
    .build = [](Options& /*options*/, const KvShape& /*shape*/,
                Policy& p) { p.scorer = std::make_unique<UnlikeKeys>(); },
    .cost = "a prompt: two passes over the keys; a reduction while generating: the same over the "
            "rows of the head, so reduce_every=1 is slow",
    .departures = {"The newest 32 rows stay (`recent`); the reference protects none.",
                   "The prompt is scored whole; the paper scores blocks as they arrive, so that "
                   "its prompt never exceeds the budget."},
}};

}  // namespace
}  // namespace pith

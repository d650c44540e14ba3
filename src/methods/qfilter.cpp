// Q-Filters (arXiv:2503.02812): queries of a head lie around one direction, so a key that points
// along it is attended to, whatever the question. The directions come from a calibration file.
#include "kernels/kernels.h"
#include "policy/calibration.h"
#include "policy/registry.h"

namespace pith {
namespace {

class AlongQueries final : public Scorer {
 public:
  AlongQueries(std::span<const float> directions, int heads, int dim)
      : directions_(directions.begin(), directions.end()), heads_(heads), dim_(dim) {}

  bool scores_steps() const override { return true; }

  void score_prompt(const LayerTap& tap, Mat scores) const override {
    for (int h = 0; h < heads_; ++h) {
      const ConstMat keys = tap.ops.to_host(tap.rows.k[h]);
      for (int64_t r = 0; r < keys.dim[0]; ++r)
        scores.row(h)[static_cast<size_t>(r)] = score(tap.layer, h, keys.row(r).data());
    }
  }

  void score_step(const StepTap& tap, std::span<float> scores) const override {
    scores.back() = score(tap.layer, tap.head, tap.k.data());
  }

 private:
  float score(int layer, int head, const float* key) const {
    return active_kernels().dot(
        directions_.data() + (static_cast<ptrdiff_t>(layer) * heads_ + head) * dim_, key, dim_);
  }

  std::vector<float> directions_;  // [layers, heads, dim]
  int heads_, dim_;
};

const RegisterMethod qfilter{{
    .name = "qfilter",
    .summary = "keep keys that point where the head's queries usually do",
    .source = "arXiv:2503.02812",
    .family = "selection: keys and values alone",
    .build =
        [](Options& o, const KvShape& shape, Policy& p) {
          const Calibration& file = o.calibration(
              "calibration", "file with the queries' directions", "pith calibrate queries");
          p.scorer = std::make_unique<AlongQueries>(
              file.tensor("queries.direction", static_cast<size_t>(shape.layers) *
                                                   static_cast<size_t>(shape.heads) *
                                                   static_cast<size_t>(shape.dim)),
              shape.heads, shape.dim);
        },
    .cost = "a prompt: one product per row and head; a token: the same for the new row",
    .departures = {"One direction for each key/value head, of the queries of its whole group after "
                   "rotation; the paper finds one for each query head and takes their mean."},
}};

}  // namespace
}  // namespace pith

// Merging instead of dropping, after D2O (arXiv:2406.13035) and CaM (ICML 2024): the value of a row
// that leaves is added to the kept row whose key is most like its own, with weights by likeness:
//   w_e = exp(cos(k_e, k_c)) / (e + sum exp),  w_c = e / (e + sum exp)
// summed over all rows that leave for c. Rows that are like no kept one are dropped.
#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "kernels/kernels.h"
#include "policy/registry.h"
#include "policy/select.h"

namespace pith {
namespace {

class MergeIntoKept final : public Reducer {
 public:
  MergeIntoKept(int reach, double threshold, bool keys)
      : reach_(reach), threshold_(threshold), keys_(keys) {}
  bool needs_vectors() const override { return true; }

  void reduce(const HeadView& head, int budget, HeadPlan& plan) const override {
    top_rows(head.scores, budget, head.protect, plan.keep);
    plan.pseudo.assign(head.pseudo.begin(), head.pseudo.end());
    const std::vector<Leaving> leaving = nearest(head, plan.keep);
    if (leaving.empty()) return;
    double limit = threshold_;
    if (threshold_ < -1) {
      limit = 0;
      for (const Leaving& row : leaving)
        limit += row.likeness / static_cast<double>(leaving.size());
    }
    const size_t dim = static_cast<size_t>(head.v.dim[1]);
    std::vector<std::vector<const Leaving*>> into(plan.keep.size());
    for (const Leaving& row : leaving)
      if (row.likeness >= limit) into[static_cast<size_t>(row.target)].push_back(&row);
    for (size_t c = 0; c < into.size(); ++c) {
      if (into[c].empty()) continue;
      double sum = std::numbers::e;
      for (const Leaving* row : into[c]) sum += std::exp(row->likeness);
      const auto mixed = [&](ConstMat rows) {
        std::vector<double> mix(dim);
        const auto add = [&](std::span<const float> x, double weight) {
          for (size_t d = 0; d < dim; ++d) mix[d] += weight / sum * x[d];
        };
        add(rows.row(plan.keep[c]), std::numbers::e);
        for (const Leaving* row : into[c]) add(rows.row(row->row), std::exp(row->likeness));
        return std::vector<float>(mix.begin(), mix.end());
      };
      plan.rewritten.push_back({.row = plan.keep[c],
                                .k = keys_ ? mixed(head.k) : std::vector<float>(),
                                .v = mixed(head.v)});
    }
  }

 private:
  struct Leaving {
    int32_t row = 0, target = 0;  // target: an index into the kept rows
    double likeness = 0;
  };

  // The kept row with the most similar key for each row that leaves; ties to the older one.
  std::vector<Leaving> nearest(const HeadView& head, std::span<const int32_t> keep) const {
    const auto dot = active_kernels().dot;
    const int64_t dim = head.k.dim[1];
    const int rows = static_cast<int>(head.positions.size()), kept = static_cast<int>(keep.size());
    std::vector<double> length(static_cast<size_t>(rows));
    for (int r = 0; r < rows; ++r) {
      const float* key = head.k.row(r).data();
      length[static_cast<size_t>(r)] = std::sqrt(std::max(1e-30f, dot(key, key, dim)));
    }
    std::vector<Leaving> leaving;
    int next = 0;  // the first kept row behind r
    for (int r = 0; r < rows; ++r) {
      if (next < kept && keep[static_cast<size_t>(next)] == r) {
        ++next;
        continue;
      }
      Leaving best{.row = r, .target = 0, .likeness = -2};
      const int first = reach_ > 0 ? std::max(0, next - reach_) : 0;
      const int last = reach_ > 0 ? std::min(kept, next + reach_) : kept;
      for (int c = first; c < last; ++c) {
        const int32_t row = keep[static_cast<size_t>(c)];
        const double like = dot(head.k.row(r).data(), head.k.row(row).data(), dim) /
                            (length[static_cast<size_t>(r)] * length[static_cast<size_t>(row)]);
        if (like > best.likeness) best = {.row = r, .target = c, .likeness = like};
      }
      if (best.likeness > -2) leaving.push_back(best);
    }
    return leaving;
  }

  int reach_;
  double threshold_;
  bool keys_;
};

const RegisterMethod merge{{
    .name = "merge",
    .summary = "add the values of rows that leave to the kept rows most like them",
    .source = "after arXiv:2406.13035 (D2O) and CaM (ICML 2024)",
    .family = "selection: merging",
    .build =
        [](Options& o, const KvShape& /*shape*/, Policy& p) {
          const int reach = o.count(
              "reach", 256, "kept rows on either side that a leaving row is compared with; 0: all");
          const double threshold =
              o.number("threshold", -2,
                       "cosine of two keys from which rows merge; below -1: the mean of those that "
                       "leave together",
                       -2, 1);
          const bool keys = o.flag("keys", false, "merge keys as well as values, as D2O does");
          p.reducer = std::make_unique<MergeIntoKept>(reach, threshold, keys);
        },
    .cost = "a prompt: 2 `reach` products of keys per row that leaves; a token: the same for each "
            "row that leaves, and a page coded again",
    .departures =
        {"Values merge and keys stay unless keys=true: keys are rotated to positions, and the mean "
         "of two is neither.",
         "The threshold is the mean over the rows that leave together; D2O goes on with a moving "
         "average of it while generating, which needs a memory of its own.",
         "A row that leaves is compared with the 256 nearest kept rows on either side; D2O with "
         "all (reach=0).",
         "D2O's budgets per layer are another role: `dynamickv` or `pyramidkv`."},
}};

}  // namespace
}  // namespace pith

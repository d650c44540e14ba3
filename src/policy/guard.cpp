#include "policy/guard.h"

#include <algorithm>
#include <numeric>

#include "policy/defaults.h"
#include "policy/select.h"

namespace pith {

std::unique_ptr<const Scorer> attention_of_last_queries() {
  return window_vote({.window = kMassQueries, .width = 1, .pool = Pool::none});
}

namespace {

// Rows that are not protected, best first, ties to the older one.
std::vector<int32_t> by_score(std::span<const float> scores, Protect protect) {
  const auto rows = static_cast<int32_t>(scores.size());
  std::vector<int32_t> order(static_cast<size_t>(std::max(0, rows - protect.rows())));
  std::iota(order.begin(), order.end(), protect.sink);
  std::ranges::stable_sort(order, [&](int32_t a, int32_t b) {
    return scores[static_cast<size_t>(a)] > scores[static_cast<size_t>(b)];
  });
  return order;
}

double sum(std::span<const float> mass) {
  return std::accumulate(mass.begin(), mass.end(), 0.0);
}

double protected_sum(std::span<const float> mass, Protect protect) {
  return sum(mass.first(static_cast<size_t>(protect.sink))) +
         sum(mass.last(static_cast<size_t>(protect.recent)));
}

}  // namespace

int rows_for_share(std::span<const float> scores, std::span<const float> mass, double share,
                   Protect protect) {
  const int rows = static_cast<int>(scores.size());
  if (rows <= protect.rows()) return rows;
  double left = share * sum(mass) - protected_sum(mass, protect);
  int needed = protect.rows();
  if (left <= 0) return needed;
  for (const int32_t row : by_score(scores, protect)) {
    if (left <= 0) break;
    left -= mass[static_cast<size_t>(row)];
    ++needed;
  }
  return needed;
}

double share_of_rows(std::span<const float> scores, std::span<const float> mass, int rows,
                     Protect protect) {
  const double all = sum(mass);
  if (rows >= static_cast<int>(scores.size()) || all <= 0) return 1;
  double held = protected_sum(mass, protect);
  const std::vector<int32_t> order = by_score(scores, protect);
  for (int i = 0; i < rows - protect.rows(); ++i)
    held += mass[static_cast<size_t>(order[static_cast<size_t>(i)])];
  return held / all;
}

void KeptMass::layer_ended(const LayerTap& tap, ConstMat scores, const BudgetTable& table) {
  if (!shares_.empty()) return;
  if (tap.layer == 0) layers_.clear();  // a router may begin again
  layers_.resize(static_cast<size_t>(table.layers));
  Layer& layer = layers_[static_cast<size_t>(tap.layer)];
  const int64_t rows = scores.dim[1];
  layer.positions.assign(tap.rows.positions.begin(), tap.rows.positions.end());
  layer.mass.assign(static_cast<size_t>(tap.shape.heads * rows), 0.0f);
  layer.travels = 1;
  attention_of_last_queries()->score_prompt(
      tap, Mat::packed(layer.mass.data(), {tap.shape.heads, rows}));
}

void KeptMass::routed(int layer, const StreamPlan& plan) {
  if (!shares_.empty() || plan.rows.empty()) return;
  Layer& of = layers_[static_cast<size_t>(layer)];
  const size_t rows = of.positions.size();
  double held = 0;
  for (size_t first = 0; first < of.mass.size(); first += rows)
    for (const int32_t row : plan.rows) held += of.mass[first + static_cast<size_t>(row)];
  const double all = sum(of.mass);
  of.travels = all > 0 ? static_cast<float>(std::min(1.0, held / all)) : 1;
}

void KeptMass::prompt_ended(const KvStore& store, const BudgetTable& table) {
  if (!shares_.empty()) return;
  double total = 0;
  for (int l = 0; l < table.layers; ++l) {
    const Layer& layer = layers_[static_cast<size_t>(l)];
    const size_t rows = layer.positions.size();
    for (int h = 0; h < table.heads; ++h) {
      const std::span<const float> mass =
          std::span(layer.mass).subspan(static_cast<size_t>(h) * rows, rows);
      double held = 0;
      size_t at = 0;
      for (const int32_t position : store.at(l, h).positions()) {
        while (at < rows && layer.positions[at] < position) ++at;
        if (at < rows && layer.positions[at] == position) held += mass[at];
      }
      const double all = sum(mass);
      const double share = all > 0 ? std::min(1.0, held / all) : 1;
      shares_.push_back(static_cast<float>(share));
      total += share;
    }
    shares_.push_back(layer.travels);
  }
  mean_ = total / (table.layers * table.heads);
  layers_.clear();
}

double KeptMass::mean() const {
  return mean_;
}

}  // namespace pith

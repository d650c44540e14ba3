#include "policy/tiers.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "policy/compressor.h"

namespace pith {

TierOrder tier_order(int first, int older, std::span<const float> scores, Protect protect,
                     const StoreSpec& spec) {
  const int rows = static_cast<int>(scores.size()), page = spec.page_rows;
  const int sink = std::min(protect.sink, rows), recent = std::min(protect.recent, rows - sink);
  const auto score = [&](int32_t row) {
    const float x = scores[static_cast<size_t>(row)];
    return std::isnan(x) ? -std::numeric_limits<float>::infinity() : x;
  };
  std::vector<int32_t> ranked(scores.size() - static_cast<size_t>(sink) -
                              static_cast<size_t>(recent));  // worst first
  std::iota(ranked.begin(), ranked.end(), sink);
  std::ranges::sort(ranked, [&](int32_t a, int32_t b) {
    return score(a) != score(b) ? score(a) < score(b) : a > b;
  });
  std::vector<uint8_t> tier_of(static_cast<size_t>(rows));
  std::vector<int> pages(spec.tiers.size() + 1);
  size_t taken = 0;
  for (size_t t = spec.tiers.size(); t > 0; --t) {
    const auto wanted = static_cast<size_t>(std::llround(spec.tiers[t - 1].share * rows));
    const size_t whole = std::min(wanted, ranked.size() - taken) / static_cast<size_t>(page);
    pages[t] = static_cast<int>(whole);
    for (const size_t end = taken + whole * static_cast<size_t>(page); taken < end; ++taken)
      tier_of[static_cast<size_t>(ranked[taken])] = static_cast<uint8_t>(t);
  }
  TierOrder plan;
  plan.order.reserve(static_cast<size_t>(older) + scores.size());
  const int plain = older + rows - static_cast<int>(taken);
  pages[0] = std::max(0, plain - 1) / page;
  std::vector<int32_t> newest;
  for (size_t t = 0; t < pages.size(); ++t) {
    if (t == 0)
      for (int r = 0; r < older; ++r) plan.order.push_back(first + r);
    for (int r = 0; r < rows; ++r)
      if (tier_of[static_cast<size_t>(r)] == t) plan.order.push_back(first + older + r);
    if (t == 0) {
      const auto behind = plan.order.begin() + std::ptrdiff_t{pages[0]} * page;
      newest.assign(behind, plan.order.end());
      plan.order.erase(behind, plan.order.end());
    }
    plan.tiers.insert(plan.tiers.end(), static_cast<size_t>(pages[t]), static_cast<uint8_t>(t));
  }
  plan.order.insert(plan.order.end(), newest.begin(), newest.end());
  return plan;
}

void Compressor::sort_into_tiers() {
  const KvShape& shape = store_.shape();
  if (policy_.store.tiers.empty()) return;
  for (int l = 0; l < shape.layers; ++l)
    for (int h = 0; h < shape.heads && shape.window(l) == 0; ++h) {
      HeadCache& cache = store_.at(l, h);
      const int first = cache.sealed_rows();
      const int older = prompt_.earlier[static_cast<size_t>(l) * shape.heads + h] - first;
      const TierOrder plan =
          tier_order(first, older, std::as_const(cache).scores_from(first + older), protect_now(),
                     policy_.store);
      cache.arrange(plan.order, plan.tiers);
    }
}

}  // namespace pith

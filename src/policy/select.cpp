#include "policy/select.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <utility>

#include "base/error.h"

namespace pith {
namespace {

constexpr uint32_t kLastRow = UINT32_MAX;

// Unsigned numbers in the order of the scores; NaN with the lowest.
uint32_t rank(float score) {
  if (std::isnan(score)) score = -std::numeric_limits<float>::infinity();
  const uint32_t bits = std::bit_cast<uint32_t>(comparable(score) + 0.0f);  // -0 is 0
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

}  // namespace

double value_per_key(std::span<const float> v, std::span<const float> k) {
  const auto length = [](std::span<const float> row) {
    double sum = 0;
    for (const float x : row) sum += double{x} * x;
    return std::sqrt(sum);
  };
  return length(v) / std::max(length(k), double{kLeastKey});
}

void make_comparable(Mat scores) {
  for (int64_t h = 0; h < scores.dim[0]; ++h)
    for (float& score : scores.row(h)) score = comparable(score);
}

void top_rows(std::span<const float> scores, int budget, Protect protect,
              std::vector<int32_t>& out) {
  const int n = static_cast<int>(scores.size());
  const int sink = std::clamp(protect.sink, 0, n);
  const int recent = std::clamp(protect.recent, 0, n - sink);
  budget = std::clamp(budget, sink + recent, n);

  std::vector<uint64_t> middle;  // scores above, rows below, so that one comparison does
  middle.reserve(static_cast<size_t>(n - sink - recent));
  for (int row = sink; row < n - recent; ++row)
    middle.push_back(uint64_t{rank(scores[static_cast<size_t>(row)])} << 32 |
                     (kLastRow - static_cast<uint32_t>(row)));
  const auto cut = middle.begin() + (budget - sink - recent);
  if (cut != middle.end()) std::ranges::nth_element(middle, cut, std::greater());
  middle.erase(cut, middle.end());

  out.resize(static_cast<size_t>(budget));
  std::iota(out.begin(), out.begin() + sink, 0);
  std::ranges::transform(middle, out.begin() + sink, [](uint64_t key) {
    return static_cast<int32_t>(kLastRow - static_cast<uint32_t>(key));
  });
  std::sort(out.begin() + sink, out.end() - recent);
  std::iota(out.end() - recent, out.end(), n - recent);
}

void top_rows(std::span<const float> scores, int budget, std::vector<int32_t>& out) {
  top_rows(scores, budget, {.sink = 0, .recent = 0}, out);
}

std::vector<int> share_out(std::span<const double> weights, std::span<const int> caps, int total) {
  PITH_CHECK(weights.size() == caps.size(), "every part has a weight and a cap");
  const size_t n = weights.size();
  std::vector<int> part(n);
  std::vector<size_t> open;  // parts below their caps
  for (size_t i = 0; i < n; ++i)
    if (caps[i] > 0) open.push_back(i);
  const auto weight = [&](size_t i) {
    return std::isfinite(weights[i]) && weights[i] > 0 ? weights[i] : 0.0;
  };

  // Parts whose share exceeds their cap are filled first; what they leave is shared anew.
  std::vector<double> share(n);
  int left = std::max(0, total);
  for (bool filled = true; filled && left > 0 && !open.empty();) {
    double sum = 0;
    for (const size_t i : open) sum += weight(i);
    for (const size_t i : open)
      share[i] = sum > 0 ? left * (weight(i) / sum) : left / static_cast<double>(open.size());
    filled = false;
    for (const size_t i : open) {
      if (share[i] < caps[i]) continue;
      part[i] = caps[i];
      filled = true;
    }
    if (!filled) break;
    std::erase_if(open, [&](size_t i) { return part[i] == caps[i]; });
    left = std::max(0, total) - std::accumulate(part.begin(), part.end(), 0);
  }
  if (left <= 0 || open.empty()) return part;

  std::vector<std::pair<double, size_t>> rest;  // (-remainder, index)
  for (const size_t i : open) {
    part[i] = static_cast<int>(share[i]);
    left -= part[i];
    rest.emplace_back(part[i] - share[i], i);
  }
  std::ranges::sort(rest);
  for (size_t r = 0; left > 0 && r < rest.size(); ++r, --left) ++part[rest[r].second];
  return part;
}

void pool_scores(std::span<float> scores, int width, Pool pool) {
  if (pool == Pool::none || width < 2 || scores.empty()) return;
  PITH_CHECK(width % 2 == 1, "a row has as many neighbours before as after it");
  const std::vector<float> in(scores.begin(), scores.end());
  const int n = static_cast<int>(in.size()), reach = width / 2;
  for (int i = 0; i < n; ++i) {
    float best = in[i], sum = 0;
    for (int j = std::max(0, i - reach); j <= std::min(n - 1, i + reach); ++j) {
      best = std::max(best, in[j]);
      sum += in[j];
    }
    scores[i] = pool == Pool::max ? best : sum / static_cast<float>(width);
  }
}

}  // namespace pith

#include "policy/shares.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <iterator>
#include <limits>
#include <numeric>
#include <utility>

#include "policy/select.h"

namespace pith {

std::vector<int> winners(std::span<const std::span<const float>> lists, int free, int64_t total) {
  std::vector<int> won(lists.size());
  std::vector<std::pair<float, int>> rest;  // (score, list)
  std::vector<float> scores;
  for (size_t i = 0; i < lists.size(); ++i) {
    scores.assign(lists[i].begin(), lists[i].end());
    for (float& s : scores)
      s = std::isnan(s) ? -std::numeric_limits<float>::infinity() : comparable(s);
    const size_t sure = std::min(scores.size(), static_cast<size_t>(std::max(0, free)));
    if (sure > 0 && sure < scores.size())
      std::ranges::nth_element(scores, scores.begin() + static_cast<std::ptrdiff_t>(sure),
                               std::greater());
    won[i] = static_cast<int>(sure);
    total -= static_cast<int64_t>(sure);
    for (size_t r = sure; r < scores.size(); ++r) rest.emplace_back(scores[r], static_cast<int>(i));
  }
  if (total <= 0) return won;
  const auto better = [](const auto& a, const auto& b) {
    return a.first != b.first ? a.first > b.first : a.second < b.second;
  };
  const size_t best =
      static_cast<size_t>(std::min<int64_t>(total, static_cast<int64_t>(rest.size())));
  if (best < rest.size())
    std::ranges::nth_element(rest, rest.begin() + static_cast<std::ptrdiff_t>(best), better);
  for (size_t i = 0; i < best; ++i) ++won[static_cast<size_t>(rest[i].second)];
  return won;
}

bool even_shares(const ScoreBoard& board, std::vector<int>& rows) {
  rows.clear();
  for (int l = 0; l < board.shape().layers; ++l) {
    int least = BudgetTable::kAll;  // earlier turns may have left heads of different length
    for (int h = 0; h < board.shape().heads; ++h) least = std::min(least, board.even_rows(l, h));
    if (least == BudgetTable::kAll) return false;
    // Sums over all heads stay within an int: more rows than any prompt has are as good as that.
    const int most = BudgetTable::kAll / 2 / (board.shape().layers * board.shape().heads);
    rows.push_back(std::clamp(least - board.protected_rows(), 0, most));
  }
  return true;
}

std::vector<int> share_rows(std::span<const double> weights, std::span<const int> caps, int total) {
  std::vector<int> rows = share_out(weights, caps, total);
  const int left = total - std::accumulate(rows.begin(), rows.end(), 0);
  const int parts = static_cast<int>(rows.size());
  for (int i = 0; i < parts && left > 0; ++i)
    rows[static_cast<size_t>(i)] += left / parts + (i < left % parts);
  return rows;
}

std::vector<int> share_rest(std::span<const double> weights, std::span<const int> caps,
                            std::span<const int> decided, int total) {
  const size_t done = decided.size();
  std::vector<int> wide(caps.begin(), caps.end());  // what was decided may have had other caps
  std::fill_n(wide.begin(), done, BudgetTable::kAll);
  std::vector<int> rows = share_rows(weights, wide, total);
  if (std::equal(decided.begin(), decided.end(), rows.begin())) return rows;
  const int left = total - std::accumulate(decided.begin(), decided.end(), 0);
  rows.assign(decided.begin(), decided.end());
  std::ranges::copy(share_rows(weights.subspan(done), caps.subspan(done), std::max(0, left)),
                    std::back_inserter(rows));
  return rows;
}

std::vector<int> pyramid(const ScoreBoard& board, const BudgetTable& table,
                         std::span<const int> even, double steepness) {
  const size_t layers = even.size();
  const int newest = board.newest_layer(), safe = board.protected_rows();
  int cap = BudgetTable::kAll;
  for (int h = 0; h < table.heads; ++h)
    cap = std::min(cap, std::max(0, board.most_rows(newest, h) - safe));
  const int total = std::accumulate(even.begin(), even.end(), 0);
  const double mean = static_cast<double>(total) / static_cast<double>(layers);
  std::vector<double> weights(even.begin(), even.end());
  if (cap >= 2 * mean && layers > 1) {
    double last = mean / steepness, first = 2 * mean - last;
    if (first > cap) {
      first = cap;
      last = 2 * mean - first;
    }
    for (size_t l = 0; l < layers; ++l)
      weights[l] =
          first + (last - first) * static_cast<double>(l) / static_cast<double>(layers - 1);
  }
  std::vector<int> decided;
  for (int l = 0; l < newest; ++l) {
    int sum = 0;
    for (int h = 0; h < table.heads; ++h) sum += table.at(l, h) - safe;
    decided.push_back(sum / table.heads);
  }
  return share_rest(weights, std::vector<int>(layers, cap), decided, total);
}

}  // namespace pith

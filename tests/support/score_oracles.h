// What scorers must come to, in float64 and without any code of the engine, over recorded rows.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <set>
#include <vector>

#include "support/recorded_rows.h"

namespace pith::test {

using Doubles = std::vector<double>;

// Attention of query `row` of query head `head` over rows 0 .. row; a window of 0 sees all.
inline Doubles oracle_attention(const RecordedLayer& layer, int64_t head, int64_t row,
                                int window = 0) {
  const ConstCube q = layer.queries(), k = layer.keys();
  const int64_t group = q.dim[1] / k.dim[0], dim = q.dim[2];
  Doubles p(static_cast<size_t>(row + 1));
  double sum = 0;
  for (int64_t j = 0; j <= row; ++j) {
    if (window > 0 && j <= row - window) continue;
    double z = 0;
    for (int64_t d = 0; d < dim; ++d)
      z += double{q[row].row(head)[static_cast<size_t>(d)]} *
           double{k[head / group].row(j)[static_cast<size_t>(d)]};
    sum += p[static_cast<size_t>(j)] = std::exp(z / std::sqrt(static_cast<double>(dim)));
  }
  for (double& x : p) x /= sum;
  return p;
}

// The sum over the query heads of a group of the attention rows of queries [first, last).
inline Doubles oracle_received(const RecordedLayer& layer, int64_t kv_head, int64_t first,
                               int64_t last, int window = 0) {
  const int64_t group = layer.q_dim[1] / layer.k_dim[0];
  Doubles mass(static_cast<size_t>(layer.k_dim[1]));
  for (int64_t h = kv_head * group; h < (kv_head + 1) * group; ++h)
    for (int64_t i = first; i < last; ++i) {
      const Doubles p = oracle_attention(layer, h, i, window);
      for (size_t j = 0; j < p.size(); ++j) mass[j] += p[j];
    }
  return mass;
}

// `count` rows: the first `sink`, the last `recent`, and of the others the best, ties to the lower.
inline std::vector<int32_t> oracle_rows(const Doubles& scores, int count, int sink, int recent) {
  const int n = static_cast<int>(scores.size());
  std::set<int32_t> chosen;
  for (int r = 0; r < n; ++r)
    if (r < sink || r >= n - recent) chosen.insert(r);
  while (static_cast<int>(chosen.size()) < std::min(count, n)) {
    int32_t best = -1;
    for (int32_t r = 0; r < n; ++r)
      if (!chosen.contains(r) &&
          (best < 0 || scores[static_cast<size_t>(r)] > scores[static_cast<size_t>(best)]))
        best = r;
    chosen.insert(best);
  }
  return {chosen.begin(), chosen.end()};
}

}  // namespace pith::test

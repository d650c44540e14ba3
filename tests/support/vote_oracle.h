// What a window vote must come to, in float64 and without any code of the engine: softmax over all
// keys for each of the last queries, summed, pooled for each query head over the rows before the
// window, summed over the group (methods.md 0.2).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "tensor/view.h"

namespace pith::test {

enum class OraclePool { none, mean, max };

inline std::vector<double> oracle_pool(const std::vector<double>& x, int width, OraclePool pool) {
  if (pool == OraclePool::none) return x;
  const int n = static_cast<int>(x.size());
  std::vector<double> out;
  for (int i = 0; i < n; ++i) {
    double sum = 0, most = -std::numeric_limits<double>::infinity();
    for (int j = i - width / 2; j <= i + width / 2; ++j) {
      if (j < 0 || j >= n) continue;
      sum += x[static_cast<size_t>(j)];
      most = std::max(most, x[static_cast<size_t>(j)]);
    }
    out.push_back(pool == OraclePool::max ? most : sum / width);
  }
  return out;
}

struct OracleVote {
  int window, width;
  OraclePool pool;
  bool pool_after_sum = false;  // the other order, to show that it matters
};

// q [rows, query_heads, dim], k [heads, rows, dim] -> [heads][rows before the window]
inline std::vector<std::vector<double>> oracle_votes(ConstCube q, ConstCube k,
                                                     const OracleVote& vote) {
  const int64_t rows = q.dim[0], query_heads = q.dim[1], dim = q.dim[2], heads = k.dim[0];
  const int64_t group = query_heads / heads, window = std::min<int64_t>(vote.window, rows);
  const size_t before = static_cast<size_t>(rows - window);
  std::vector<std::vector<double>> votes(static_cast<size_t>(heads), std::vector<double>(before));
  for (int64_t h = 0; h < query_heads; ++h) {
    std::vector<double> mass(static_cast<size_t>(rows));
    for (int64_t i = rows - window; i < rows; ++i) {
      std::vector<double> p;
      double sum = 0;
      for (int64_t j = 0; j <= i; ++j) {
        double z = 0;
        for (int64_t d = 0; d < dim; ++d)
          z += double{q[i].row(h)[static_cast<size_t>(d)]} *
               double{k[h / group].row(j)[static_cast<size_t>(d)]};
        p.push_back(std::exp(z / std::sqrt(static_cast<double>(dim))));
        sum += p.back();
      }
      for (size_t j = 0; j < p.size(); ++j) mass[j] += p[j] / sum;
    }
    mass.resize(before);
    if (!vote.pool_after_sum) mass = oracle_pool(mass, vote.width, vote.pool);
    for (size_t j = 0; j < before; ++j) votes[static_cast<size_t>(h / group)][j] += mass[j];
  }
  if (vote.pool_after_sum)
    for (std::vector<double>& head : votes) head = oracle_pool(head, vote.width, vote.pool);
  return votes;
}

// The `count` best, ties to the lower index, and the last `window` rows; ascending.
inline std::vector<int32_t> oracle_best(const std::vector<double>& votes, int count, int window) {
  std::set<int32_t> chosen;
  for (int c = 0; c < std::min<int>(count, static_cast<int>(votes.size())); ++c) {
    int32_t best = -1;
    for (int32_t r = 0; r < static_cast<int32_t>(votes.size()); ++r)
      if (!chosen.contains(r) &&
          (best < 0 || votes[static_cast<size_t>(r)] > votes[static_cast<size_t>(best)]))
        best = r;
    chosen.insert(best);
  }
  for (int i = 0; i < window; ++i) chosen.insert(static_cast<int32_t>(votes.size()) + i);
  return {chosen.begin(), chosen.end()};
}

}  // namespace pith::test

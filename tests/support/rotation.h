// Random rotations.
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

#include "base/random.h"

namespace pith::test {

// Rows are orthonormal: Gram and Schmidt over random numbers, in double.
inline std::vector<float> random_rotation(int dim, Random& random) {
  const auto n = static_cast<size_t>(dim);
  std::vector<double> rows(n * n);
  for (double& x : rows) x = random.uniform(-1.0f, 1.0f);
  for (size_t r = 0; r < n; ++r) {
    for (size_t before = 0; before < r; ++before) {
      double dot = 0;
      for (size_t d = 0; d < n; ++d) dot += rows[r * n + d] * rows[before * n + d];
      for (size_t d = 0; d < n; ++d) rows[r * n + d] -= dot * rows[before * n + d];
    }
    double length = 0;
    for (size_t d = 0; d < n; ++d) length += rows[r * n + d] * rows[r * n + d];
    for (size_t d = 0; d < n; ++d) rows[r * n + d] /= std::sqrt(length);
  }
  return {rows.begin(), rows.end()};
}

}  // namespace pith::test

// Random rotations, and those by which rotary positions turn rows.
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

#include "base/random.h"
#include "tensor/kv_shape.h"

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

// Turns a row by its position, or, with a `way` of -1, back, as rotary positions are defined.
inline void turn(const Rope& rope, int position, int way, std::vector<double>& x) {
  const size_t pairs = rope.inv_freq.size();
  for (size_t i = 0; i < pairs; ++i) {
    const size_t a = rope.half_split ? i : 2 * i, b = rope.half_split ? i + pairs : 2 * i + 1;
    const double angle = way * double{rope.inv_freq[i]} * position, c = std::cos(angle),
                 s = std::sin(angle), first = x[a], second = x[b];
    x[a] = first * c - second * s;
    x[b] = first * s + second * c;
  }
}

}  // namespace pith::test

// The rate that steps learn at.
#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>

namespace pith {

// Rises in a line over `warm_up`, and falls on a cosine over `total` to `floor` of itself. Both are
// in what the caller counts in, steps or tokens.
struct CosineRate {
  double rate, floor, warm_up, total;

  double at(double done) const {
    const double warm = warm_up > 0 ? std::min(1.0, (done + 1) / warm_up) : 1;
    const double share = std::min(1.0, done / total);
    const double cosine = 0.5 * (1 + std::cos(std::numbers::pi * share));
    return rate * warm * (floor + (1 - floor) * cosine);
  }
};

}  // namespace pith

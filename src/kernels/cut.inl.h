// Outliers of a page of codes: which of the numbers that share a step lie too far out to share it.
//
// How far out a number lies is its distance from the middle of those it shares a step with, over
// the mean of their distances: channels and rows of every size are judged alike. The middle is
// their mean, or zero where codes are symmetric about it. Plain arithmetic in one order, so that
// every target finds the same ones.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pith {
namespace {
namespace PITH_TARGET {

// Which numbers of a page share a step.
struct Shares {
  bool columns;  // all rows of a column; else, of a row,
  int width;     // so many columns; 0: all
  bool middle;   // codes span what they share, rather than lie about zero
};

constexpr float kMostHalf = 65504;  // the largest finite half

inline float within_half(float x) {
  return x > kMostHalf ? kMostHalf : x >= -kMostHalf ? x : -kMostHalf;
}

// n numbers, `step` floats apart.
struct Spread {
  double middle = 0, inverse = 0;  // of the mean distance; 0 if there is none
  Spread(const float* x, int64_t step, int n, bool about_middle) {
    for (int i = 0; about_middle && i < n; ++i) middle += double{within_half(x[i * step])};
    middle /= n;
    double sum = 0;
    for (int i = 0; i < n; ++i) sum += distance(x[i * step]);
    if (sum > 0) inverse = n / sum;
  }
  double distance(float x) const {
    const double from_middle = double{within_half(x)} - middle;
    return from_middle < 0 ? -from_middle : from_middle;
  }
  float out(float x) const { return static_cast<float>(distance(x) * inverse); }
};

// Numbers farther out than `most` are not coded in full: what the others reach is what counts. If
// all lie out, all count.
struct Cut {
  bool on = false, middle = false;
  float most = 0;

  void reach(const float* x, int64_t step, int n, float& low, float& high) const {
    const Spread spread(x, step, n, middle);
    bool any = false;
    float least = 0, largest = 0;
    for (int i = 0; i < n; ++i) {
      const float given = within_half(x[i * step]);
      if (spread.out(given) > most) continue;
      if (!any || given < least) least = given;
      if (!any || given > largest) largest = given;
      any = true;
    }
    if (!any) return;
    low = least;
    high = largest;
  }
  // The largest absolute value.
  float size(const float* x, int n) const {
    float low = -kMostHalf, high = kMostHalf;
    reach(x, 1, n, low, high);
    return -low > high ? -low : high;
  }
};

}  // namespace PITH_TARGET
}  // namespace
}  // namespace pith

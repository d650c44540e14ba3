#include "policy/page_bounds.h"

#include <algorithm>
#include <array>

namespace pith {

void bound_rows(ConstMat keys, std::span<float> bounds) {
  const size_t dim = static_cast<size_t>(keys.dim[1]);
  const std::span<float> low = bounds.first(dim), high = bounds.subspan(dim, dim);
  std::ranges::copy(keys.row(0), low.begin());
  std::ranges::copy(keys.row(0), high.begin());
  for (int64_t r = 1; r < keys.dim[0]; ++r) {
    const std::span<const float> key = keys.row(r);
    for (size_t d = 0; d < dim; ++d) {
      low[d] = std::min(low[d], key[d]);
      high[d] = std::max(high[d], key[d]);
    }
  }
}

void bound_bounds(ConstMat parts, std::span<float> bounds) {
  const size_t dim = bounds.size() / 2;
  std::ranges::copy(parts.row(0), bounds.begin());
  for (int64_t p = 1; p < parts.dim[0]; ++p) {
    const std::span<const float> part = parts.row(p);
    for (size_t d = 0; d < dim; ++d) {
      bounds[d] = std::min(bounds[d], part[d]);
      bounds[dim + d] = std::max(bounds[dim + d], part[dim + d]);
    }
  }
}

float upper_bound(std::span<const float> q, std::span<const float> bounds) {
  const size_t dim = q.size();
  std::array<float, 8> sums{};  // dims are multiples of 8; the compiler keeps them in registers
  for (size_t d = 0; d < dim; d += sums.size())
    for (size_t i = 0; i < sums.size(); ++i) {
      const float low = q[d + i] * bounds[d + i], high = q[d + i] * bounds[dim + d + i];
      sums[i] += low > high ? low : high;
    }
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

float most_in_group(ConstMat q, std::span<const float> bounds) {
  float most = upper_bound(q.row(0), bounds);
  for (int64_t g = 1; g < q.dim[0]; ++g) most = std::max(most, upper_bound(q.row(g), bounds));
  return most;
}

}  // namespace pith

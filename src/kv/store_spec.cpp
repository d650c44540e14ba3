#include "kv/store_spec.h"

#include <algorithm>

namespace pith {
namespace {

// out[r] = rows[r] * map, map [from, to].
void multiply(const float* rows, int count, const float* map, int from, int to, float* out) {
  std::fill_n(out, static_cast<size_t>(count) * to, 0.0f);
  for (int r = 0; r < count; ++r, rows += from, out += to)
    for (int i = 0; i < from; ++i)
      for (int j = 0; j < to; ++j) out[j] += rows[i] * map[static_cast<size_t>(i) * to + j];
}

}  // namespace

void to_basis(const Basis& basis, const float* rows, int count, float* out) {
  multiply(rows, count, basis.down.data(), basis.dim, basis.rank, out);
}

void from_basis(const Basis& basis, const float* rows, int count, float* out) {
  multiply(rows, count, basis.up.data(), basis.rank, basis.dim, out);
}

}  // namespace pith

#include "kv/store_spec.h"

#include <algorithm>

#include "kernels/kernels.h"

namespace pith {
namespace {

// out[r] = rows[r] * map, map [from, to].
void multiply(const float* rows, int count, const float* map, int from, int to, float* out) {
  std::fill_n(out, static_cast<size_t>(count) * to, 0.0f);
  // A matrix is a page of f32 rows, which are summed up with the numbers of each row.
  active_kernels().page[static_cast<size_t>(Quant::f32)].accumulate(
      reinterpret_cast<const std::byte*>(map), from, to, rows, from, count, out);
}

}  // namespace

void to_basis(const Basis& basis, const float* rows, int count, float* out) {
  multiply(rows, count, basis.down.data(), basis.dim, basis.rank, out);
}

void from_basis(const Basis& basis, const float* rows, int count, float* out) {
  multiply(rows, count, basis.up.data(), basis.rank, basis.dim, out);
}

}  // namespace pith

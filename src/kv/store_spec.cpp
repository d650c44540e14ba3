#include "kv/store_spec.h"

#include <algorithm>
#include <array>
#include <span>

#include "base/error.h"

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

int index_of(int value, std::span<const int> known) {
  const auto at = std::ranges::find(known, value);
  PITH_CHECK(at != known.end(),
             "a format of codes has 2, 3, 4, 6 or 8 bits and 32, 64 or 128 rows");
  return static_cast<int>(at - known.begin());
}

constexpr std::array kBits = {2, 3, 4, 6, 8};
constexpr std::array kGroups = {32, 64, 128};

}  // namespace

Quant channel_keys(int bits) {
  return static_cast<Quant>(static_cast<int>(Quant::q2_channels) + index_of(bits, kBits));
}

Quant row_keys(int bits) {
  return static_cast<Quant>(static_cast<int>(Quant::q2_rows) + index_of(bits, kBits));
}

Quant grouped_values(int bits, int group) {
  return static_cast<Quant>(static_cast<int>(Quant::q2_groups32) + 3 * index_of(bits, kBits) +
                            index_of(group, kGroups));
}

void to_basis(const Basis& basis, const float* rows, int count, float* out) {
  multiply(rows, count, basis.down.data(), basis.dim, basis.rank, out);
}

void from_basis(const Basis& basis, const float* rows, int count, float* out) {
  multiply(rows, count, basis.up.data(), basis.rank, basis.dim, out);
}

}  // namespace pith

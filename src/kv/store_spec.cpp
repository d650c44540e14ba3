#include "kv/store_spec.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <span>
#include <utility>

#include "base/error.h"
#include "base/random.h"
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

// Turns runs of `run` numbers; its own inverse.
void walsh_hadamard(float* x, int dim, int run) {
  const float scale = 1 / std::sqrt(static_cast<float>(run));
  for (int first = 0; first < dim; first += run) {
    for (int half = 1; half < run; half *= 2)
      for (int i = first; i < first + run; i += 2 * half)
        for (int j = i; j < i + half; ++j) {
          const float a = x[j], b = x[j + half];
          x[j] = a + b;
          x[j + half] = a - b;
        }
    for (int i = first; i < first + run; ++i) x[i] *= scale;
  }
}

// The first coordinate of each run is a sum with all signs.
float sign_of(const Basis& basis, int d) {
  const int first = d / basis.hadamard * basis.hadamard;
  return basis.down[static_cast<size_t>(d) * basis.rank + first] < 0 ? -1.0f : 1.0f;
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
  if (basis.hadamard > 0) {
    for (int r = 0; r < count; ++r, rows += basis.dim, out += basis.dim) {
      for (int d = 0; d < basis.dim; ++d) out[d] = sign_of(basis, d) * rows[d];
      walsh_hadamard(out, basis.dim, basis.hadamard);
    }
    return;
  }
  if (basis.leading()) {
    for (int r = 0; r < count; ++r, rows += basis.dim, out += basis.rank)
      std::copy_n(rows, basis.rank, out);
    return;
  }
  multiply(rows, count, basis.down.data(), basis.dim, basis.rank, out);
}

void from_basis(const Basis& basis, const float* rows, int count, float* out) {
  if (basis.leading()) {
    for (int r = 0; r < count; ++r, rows += basis.rank, out += basis.dim)
      std::fill(std::copy_n(rows, basis.rank, out), out + basis.dim, 0.0f);
    return;
  }
  multiply(rows, count, basis.up.data(), basis.rank, basis.dim, out);
}

size_t BasisTable::bytes() const {
  size_t bytes = (k.capacity() + v.capacity()) * sizeof(Basis);
  for (const auto* side : {&k, &v})
    for (const Basis& basis : *side)
      bytes += (basis.down.capacity() + basis.up.capacity()) * sizeof(float);
  const KeyTurns* last = nullptr;  // layers that turn alike share theirs
  for (const auto& layer : turns) {
    if (layer && layer.get() != last) bytes += layer->bytes();
    last = layer.get();
  }
  return bytes;
}

std::shared_ptr<const BasisTable> hadamard_bases(int dim, uint64_t seed) {
  const int run = dim & -dim;
  Random random(seed);
  Basis basis{.dim = dim, .rank = dim, .down = {}, .up = {}, .hadamard = run};
  const auto n = static_cast<size_t>(dim);
  basis.down.assign(n * n, 0);
  basis.up.assign(n * n, 0);
  for (int d = 0; d < dim; ++d) {
    const float sign = random.uniform(-1, 1) < 0 ? -1.0f : 1.0f;
    std::vector<float> row(n);
    row[static_cast<size_t>(d)] = sign;
    walsh_hadamard(row.data(), dim, run);
    for (size_t c = 0; c < n; ++c) {
      basis.down[static_cast<size_t>(d) * n + c] = row[c];
      basis.up[c * n + static_cast<size_t>(d)] = row[c];
    }
  }
  auto table = std::make_shared<BasisTable>();
  table->heads = 1;
  table->k.push_back(basis);
  table->v.push_back(std::move(basis));
  return table;
}

}  // namespace pith

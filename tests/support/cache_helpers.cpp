#include "support/cache_helpers.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "base/error.h"
#include "tensor/half.h"

namespace pith::test {
namespace {

std::vector<float> read_row(const std::byte* page, Quant quant, int row, int dim) {
  std::vector<float> out(static_cast<size_t>(dim));
  for (int d = 0; d < dim; ++d) {
    const size_t i = static_cast<size_t>(row) * dim + d;
    if (quant == Quant::f32) {
      std::memcpy(&out[d], page + i * 4, 4);
    } else {
      PITH_CHECK(quant == Quant::f16, "the helper reads plain formats");
      uint16_t half = 0;
      std::memcpy(&half, page + i * 2, 2);
      out[d] = half_to_float(half);
    }
  }
  return out;
}

std::vector<float> lifted(std::vector<float> coded, const float* map, int dim) {
  if (map == nullptr) return coded;
  std::vector<float> out(static_cast<size_t>(dim), 0.0f);
  for (size_t j = 0; j < coded.size(); ++j)
    for (int d = 0; d < dim; ++d) out[d] += coded[j] * map[j * dim + d];
  return out;
}

}  // namespace

std::vector<float> exact_row(int id, int dim) {
  std::vector<float> row(static_cast<size_t>(dim));
  for (int d = 0; d < dim; ++d) row[d] = static_cast<float>((id * 37 + d * 101) % 1021 - 510) / 8;
  return row;
}

Basis shuffling_basis(int dim) {
  Basis basis{dim, dim, {}, {}};
  const size_t n = static_cast<size_t>(dim);
  basis.down.assign(n * n, 0);
  basis.up.assign(n * n, 0);
  for (size_t d = 0; d < n; ++d) {
    const size_t to = (d + 3) % n;
    basis.down[d * n + to] = basis.up[to * n + d] = d % 2 ? -1.0f : 1.0f;
  }
  return basis;
}

PlainRows read_paged(const PagedHead& head, int dim) {
  PlainRows out;
  for (size_t p = 0; p < head.sealed_k.size(); ++p)
    for (int r = 0; r < head.page_rows; ++r) {
      out.k.push_back(
          lifted(read_row(head.sealed_k[p], head.format(p).k, r, head.k_dim), head.query_map, dim));
      out.v.push_back(lifted(read_row(head.sealed_v[p], head.format(p).v, r, head.v_dim),
                             head.output_map, dim));
    }
  for (int r = 0; r < head.open_rows; ++r) {
    const size_t p = static_cast<size_t>(r / head.page_rows);
    out.k.push_back(read_row(head.open_k[p], head.open_quant, r % head.page_rows, dim));
    out.v.push_back(read_row(head.open_v[p], head.open_quant, r % head.page_rows, dim));
  }
  out.positions.assign(head.positions.begin(), head.positions.end());
  return out;
}

int ModelHead::keep(std::span<const int32_t> rows_kept, int page_rows) {
  int sealed_kept = 0, marked_kept = 0;
  for (const int32_t row : rows_kept) {
    sealed_kept += row < sealed;
    marked_kept += row < marked_rows;
  }
  int recoded = 0;
  std::vector<Row> left;
  for (size_t i = 0; i < rows_kept.size(); ++i) {
    const int old = rows_kept[i], first = old / page_rows * page_rows;
    int of_its_page = 0;
    for (const int32_t row : rows_kept) of_its_page += row / page_rows * page_rows == first;
    const bool stays =
        of_its_page == page_rows && static_cast<int>(i) % page_rows == old % page_rows;
    recoded += old < sealed && !stays;
    left.push_back(rows[static_cast<size_t>(old)]);
  }
  rows = std::move(left);
  sealed = sealed_kept / page_rows * page_rows;
  marked_rows = marked_kept;
  return recoded;
}

void ModelHead::seal(int page_rows, int tail_rows) {
  while (sealed + page_rows + tail_rows <= static_cast<int>(rows.size())) sealed += page_rows;
}

void ModelHead::mark() {
  marked_rows = static_cast<int>(rows.size());
  marked_pseudo = pseudo;
}

void ModelHead::rewind(int page_rows) {
  std::vector<int32_t> older(static_cast<size_t>(marked_rows));
  std::iota(older.begin(), older.end(), 0);
  keep(older, page_rows);
  pseudo = marked_pseudo;
}

}  // namespace pith::test

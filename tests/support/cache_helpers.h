// Rows whose numbers are exact in f16 and f32, what a PagedHead says in plain numbers, and a naive
// model of one head: a list of rows.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "kv/store.h"

namespace pith::test {

// Numbers of row `id`: eighths below 64, so that no format of the store rounds them, not even
// after a signed permutation of the channels.
std::vector<float> exact_row(int id, int dim);

// A basis that reorders channels and flips every other sign: full rank, and exact.
Basis shuffling_basis(int dim);

struct PlainRows {
  std::vector<std::vector<float>> k, v;
  std::vector<int32_t> positions;
};
// Reads a head as a kernel would, page by page, but with the portable conversions of
// tensor/half.h and the maps written out.
PlainRows read_paged(const PagedHead& head, int dim);

// What a head must hold, in the simplest possible terms.
struct ModelHead {
  struct Row {
    int32_t position;
    float score;
    std::vector<float> k, v;
  };
  std::vector<Row> rows;
  std::vector<PseudoRow> pseudo;
  int sealed = 0;       // rows
  int marked_rows = 0;  // and what a rewind brings back
  std::vector<PseudoRow> marked_pseudo;

  // Returns the sealed rows that do not stay where they were coded.
  int keep(std::span<const int32_t> rows_kept, int page_rows);
  void seal(int page_rows, int tail_rows);
  void mark();
  void rewind(int page_rows);
};

}  // namespace pith::test

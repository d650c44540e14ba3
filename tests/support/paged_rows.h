// Rows of one head laid out as a cache would: sealed pages, open pages, pseudo rows. And what they
// are worth to a query, in float64.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "support/attention_oracle.h"

namespace pith::test {

struct PagedLayout {
  int dim = 64;
  int page_rows = 32;
  int sealed_pages = 0, open_rows = 0, pseudo_rows = 0;
  Quant k = Quant::f16, v = Quant::f16, open = Quant::f16;
  int k_rank = 0, v_rank = 0;  // 0: sealed rows are in plain coordinates
  int first_position = 0, position_step = 1;

  int rows() const { return sealed_pages * page_rows + open_rows; }
};

class PagedRows {
 public:
  PagedRows(const PagedLayout& layout, uint64_t seed);
  PagedRows(const PagedRows&) = delete;

  PagedHead head() const;  // valid while this lives and does not change
  // The same rows with so many pages sealed; plain coordinates only.
  void seal(int pages);

  int rows() const { return layout_.rows(); }
  const std::vector<int32_t>& positions() const { return positions_; }

  // Adds what the query sees: the window, then every pseudo row.
  void add_to(AttentionOracle& oracle, std::span<const float> q, const AttentionRule& rule,
              int query_head, int64_t q_pos) const;

 private:
  struct Side {
    Quant quant = Quant::f16;
    int coded_dim = 0;
    std::vector<float> up;     // [coded_dim, dim], if it has a map
    std::vector<float> plain;  // [rows, dim] as the stored numbers stand for it
    std::vector<float> given;  // [rows, dim]
    std::vector<std::vector<std::byte>> pages;
    std::vector<const std::byte*> sealed, open;
    std::vector<float> pseudo;  // [pseudo_rows, dim]
  };
  void fill(Side& side, Quant quant, int rank, uint64_t seed);
  void store(Side& side);

  PagedLayout layout_;
  Side k_, v_;
  std::vector<float> log_weight_;
  std::vector<int32_t> positions_;
};

}  // namespace pith::test

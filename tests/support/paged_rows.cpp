#include "support/paged_rows.h"

#include <cmath>

#include "kernels/kernels.h"

namespace pith::test {

PagedRows::PagedRows(const PagedLayout& layout, uint64_t seed) : layout_(layout) {
  fill(k_, layout.k, layout.k_rank, 10 * seed + 1);
  fill(v_, layout.v, layout.v_rank, 10 * seed + 5);
  for (int p = 0; p < layout.pseudo_rows; ++p)
    log_weight_.push_back(std::log(static_cast<float>(3 * p + 2)));
  for (int r = 0; r < layout.rows(); ++r)
    positions_.push_back(layout.first_position + r * layout.position_step);
}

void PagedRows::fill(Side& side, Quant quant, int rank, uint64_t seed) {
  const auto dim = static_cast<size_t>(layout_.dim);
  side.quant = quant;
  side.coded_dim = rank > 0 ? rank : layout_.dim;
  side.given = normal_numbers(static_cast<size_t>(layout_.rows()) * dim, seed);
  side.pseudo = normal_numbers(static_cast<size_t>(layout_.pseudo_rows) * dim, seed + 1);
  if (rank > 0)
    side.up = normal_numbers(static_cast<size_t>(rank) * dim, seed + 2,
                             1 / std::sqrt(static_cast<float>(rank)));
  store(side);
}

// Sealed rows in coordinates of their own are random codes; nobody asks which rows they came from.
void PagedRows::store(Side& side) {
  const auto dim = static_cast<size_t>(layout_.dim);
  const auto page_rows = static_cast<size_t>(layout_.page_rows);
  const size_t sealed = static_cast<size_t>(layout_.sealed_pages);
  const auto coded_dim = static_cast<size_t>(side.coded_dim);
  side.pages.clear();
  side.plain.assign(side.given.size(), 0);
  const size_t pages =
      sealed + (static_cast<size_t>(layout_.open_rows) + page_rows - 1) / page_rows;
  for (size_t p = 0; p < pages; ++p) {
    const bool coded = p < sealed && !side.up.empty();
    const Quant quant = p < sealed ? side.quant : layout_.open;
    const PageKernels& kernels = active_kernels().page[static_cast<int>(quant)];
    const size_t stored_dim = coded ? coded_dim : dim, first = p * page_rows;
    const size_t rows = std::min(page_rows, static_cast<size_t>(layout_.rows()) - first);
    const std::vector<float> codes = normal_numbers(rows * stored_dim, 1000 + p);
    const float* from = coded ? codes.data() : side.given.data() + first * dim;
    side.pages.emplace_back(kernels.bytes(layout_.page_rows, static_cast<int>(stored_dim)));
    std::vector<float> back(rows * stored_dim);
    kernels.encode(from, static_cast<int64_t>(stored_dim), static_cast<int>(rows),
                   static_cast<int>(stored_dim), side.pages.back().data(), 0);
    kernels.decode(side.pages.back().data(), 0, static_cast<int>(rows),
                   static_cast<int>(stored_dim), back.data());
    for (size_t r = 0; r < rows; ++r)
      for (size_t d = 0; d < dim; ++d) {
        double x = 0;
        if (coded)
          for (size_t c = 0; c < coded_dim; ++c)
            x += static_cast<double>(back[r * coded_dim + c]) * side.up[c * dim + d];
        else
          x = back[r * dim + d];
        side.plain[(first + r) * dim + d] = static_cast<float>(x);
      }
  }
  side.sealed.clear();
  side.open.clear();
  for (size_t p = 0; p < pages; ++p)
    (p < sealed ? side.sealed : side.open).push_back(side.pages[p].data());
}

void PagedRows::seal(int pages) {
  const int rows = layout_.rows();
  layout_.sealed_pages = pages;
  layout_.open_rows = rows - pages * layout_.page_rows;
  store(k_);
  store(v_);
}

PagedHead PagedRows::head() const {
  PagedHead head;
  head.sealed_k = k_.sealed;
  head.sealed_v = v_.sealed;
  head.k_quant = k_.quant;
  head.v_quant = v_.quant;
  head.k_dim = k_.coded_dim;
  head.v_dim = v_.coded_dim;
  head.query_map = k_.up.empty() ? nullptr : k_.up.data();
  head.output_map = v_.up.empty() ? nullptr : v_.up.data();
  head.open_k = k_.open;
  head.open_v = v_.open;
  head.open_quant = layout_.open;
  head.open_rows = layout_.open_rows;
  head.pseudo_k = ConstMat::packed(k_.pseudo.data(), {layout_.pseudo_rows, layout_.dim});
  head.pseudo_v = ConstMat::packed(v_.pseudo.data(), {layout_.pseudo_rows, layout_.dim});
  head.pseudo_log_weight = log_weight_;
  head.positions = positions_;
  head.page_rows = layout_.page_rows;
  return head;
}

void PagedRows::add_to(AttentionOracle& oracle, std::span<const float> q, const AttentionRule& rule,
                       int query_head, int64_t q_pos) const {
  const auto dim = static_cast<size_t>(layout_.dim);
  const auto row = [&](const std::vector<float>& of, size_t r) {
    return std::span(of).subspan(r * dim, dim);
  };
  for (size_t r = 0; r < positions_.size(); ++r) {
    if (rule.window > 0 && positions_[r] <= q_pos - rule.window)
      oracle.skip();
    else
      oracle.add(oracle_logit(q, row(k_.plain, r), rule, query_head, q_pos, positions_[r]),
                 row(v_.plain, r));
  }
  AttentionRule here = rule;  // pseudo rows have no position
  here.alibi = {};
  for (size_t p = 0; p < log_weight_.size(); ++p)
    oracle.add(oracle_logit(q, row(k_.pseudo, p), here, 0, 0, 0) + log_weight_[p],
               row(v_.pseudo, p));
}

}  // namespace pith::test

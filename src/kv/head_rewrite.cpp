// Rows that get new vectors, and the summaries of groups of pages, which follow the pages.
#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "kernels/kernels.h"
#include "kv/store.h"

namespace pith {

size_t HeadCache::groups_of(int pages) const {
  const int each = summary_ ? summary_->group_pages() : 0;
  return each > 0 ? static_cast<size_t>((pages + each - 1) / each) : 0;
}

// Brings the groups up to date with the summaries of sealed pages.
void HeadCache::join_groups() {
  const size_t groups = groups_of(sealed_), floats = static_cast<size_t>(summary_floats_);
  if (groups * floats < groups_.size()) {
    groups_.truncate(groups * floats);
    groups_.fit();
  }
  if (groups == 0) return;
  const int each = summary_->group_pages();
  groups_.extend(groups * floats - groups_.size());
  for (int g = std::min(grouped_, sealed_) / each; g < static_cast<int>(groups); ++g) {
    const int first = g * each, pages = std::min(each, sealed_ - first);
    summary_->join(ConstMat::packed(summaries_.data() + static_cast<size_t>(first) * floats,
                                    {pages, summary_floats_}),
                   groups_.span().subspan(static_cast<size_t>(g) * floats, floats));
  }
  grouped_ = sealed_;
}

ConstMat HeadCache::groups() const {
  return ConstMat::packed(groups_.data(),
                          {static_cast<int64_t>(groups_of(sealed_)), summary_floats_});
}

// Gives the rows that a plan rewrites their new vectors; its first kept row is row `first` by now.
void HeadCache::rewrite(const HeadPlan& plan, int first) {
  for (const RewrittenRow& row : plan.rewritten) {
    const auto at = std::ranges::lower_bound(plan.keep, row.row);
    PITH_CHECK(at != plan.keep.end() && *at == row.row, "a row that is rewritten is kept");
    const int index = first + static_cast<int>(at - plan.keep.begin());
    if (!row.k.empty()) set_row(k_, index, row.k);
    if (!row.v.empty()) set_row(v_, index, row.v);
    const int page = index / page_rows_;
    if (page < sealed_ && summary_ && !row.k.empty()) {
      summarise(page);
      grouped_ = std::min(grouped_, page);
    }
  }
  if (!plan.rewritten.empty()) join_groups();
}

void HeadCache::arrange(std::span<const int32_t> order, std::span<const uint8_t> tiers) {
  PITH_CHECK(tiered() && tiers_.size() == static_cast<size_t>(sealed_), "a head has tiers");
  PITH_CHECK(unscored_ <= sealed_rows(), "rows that are ranked have scores");
  const int first = sealed_rows();
  const auto count = static_cast<size_t>(rows() - first), page = static_cast<size_t>(page_rows_);
  PITH_CHECK(order.size() == count && tiers.size() <= count / page, "open rows are arranged");
  for (const uint8_t tier : tiers) PITH_CHECK(tier < formats_.size(), "a tier exists");
  std::vector<bool> seen(count);
  for (const int32_t row : order) {
    const auto at = static_cast<size_t>(row - first);
    PITH_CHECK(row >= first && at < count && !seen[at], "every open row is arranged once");
    seen[at] = true;
  }
  tiers_.append(tiers);

  const size_t passing = arrange_bytes(0), row_bytes = open_bytes() / page;
  pool_->charge(passing, MemoryClass::prompt);
  std::vector<std::byte> rows_before(count * row_bytes);
  for (Side* side : {&k_, &v_}) {
    for (size_t i = 0; i < count; i += page)
      std::memcpy(rows_before.data() + i * row_bytes,
                  side->data[static_cast<size_t>(sealed_) + i / page],
                  std::min(page, count - i) * row_bytes);
    for (size_t i = 0; i < count; ++i) {
      Page* const to = writable(*side, sealed_ + static_cast<int>(i / page));
      std::memcpy(to->data + i % page * row_bytes,
                  rows_before.data() + static_cast<size_t>(order[i] - first) * row_bytes,
                  row_bytes);
    }
  }
  const auto move_lane = [&](auto lane) {
    const std::vector before(lane.begin(), lane.end());
    for (size_t i = 0; i < count; ++i) lane[i] = before[static_cast<size_t>(order[i] - first)];
  };
  move_lane(positions_.span().subspan(static_cast<size_t>(first)));
  move_lane(scores_from(first));
  pool_->refund(passing, MemoryClass::prompt);
}

// Returns how many sealed rows were coded again.
int HeadCache::set_row(Side& side, int row, std::span<const float> values) {
  PITH_CHECK(values.size() == static_cast<size_t>(dim_), "a row has as many numbers as its head");
  const int page = row / page_rows_, at = row % page_rows_;
  Page* const own = writable(side, page);
  if (plain_page(side, page)) {
    open_->encode(values.data(), dim_, 1, dim_, own->data, at);
    return 0;
  }
  std::vector<float> rows(static_cast<size_t>(page_rows_) * dim_);
  decode_page(side, page, 0, page_rows_, rows.data());
  std::ranges::copy(values, rows.begin() + static_cast<std::ptrdiff_t>(at) * dim_);
  code_page(side, format(side, page), positions_of(page), rows, own->data);
  return page_rows_;
}

}  // namespace pith

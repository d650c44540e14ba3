// A head that begins with the rows of another one, whose sealed pages it shares.
#include <algorithm>

#include "base/error.h"
#include "kv/store.h"

namespace pith {

void HeadCache::adopt(const HeadCache& other, int adopted, int total,
                      std::span<const int32_t> positions, std::span<const float> scores,
                      const PageSummary* summary) {
  PITH_CHECK(rows() == 0 && pseudo_.empty(), "an empty head takes another one's rows");
  PITH_CHECK(!tiered() && other.spec_->page_rows == page_rows_ && other.pseudo_.empty(),
             "heads that share pages store rows alike");
  PITH_CHECK(adopted > 0 && adopted % page_rows_ == 0 && adopted <= other.sealed_rows() &&
                 adopted <= total - spec_->tail_rows,
             "whole sealed pages are shared");
  const auto count = static_cast<size_t>(adopted), pages = count / static_cast<size_t>(page_rows_);
  PITH_CHECK(positions.size() >= count && scores.size() >= count && total >= adopted,
             "every row has a position and a score");
  summary_ = summary;
  summary_floats_ = summary ? summary->floats(dim_) : 0;
  hold(total);
  for (const auto& [side, from] : {std::pair(&k_, &other.k_), std::pair(&v_, &other.v_)}) {
    side->pages.append(from->pages.span().first(pages));
    side->data.append(from->data.span().first(pages));
    for (Page* page : side->pages.span()) pool_->share(page);
  }
  positions_.append(positions.first(count));
  scores_.append(scores.first(count));
  sealed_ = static_cast<int>(pages);
  if (summary_ == nullptr) return;
  // Room for what the seal after all rows asks for, so that both together take no more than it.
  const int all = std::max(sealed_, (total - spec_->tail_rows) / page_rows_);
  const auto floats = static_cast<size_t>(summary_floats_);
  summaries_.hold(static_cast<size_t>(all) * floats);
  groups_.hold(groups_of(all) * floats);
  chosen_.k.hold(static_cast<size_t>(all));
  chosen_.v.hold(static_cast<size_t>(all));
  PITH_CHECK(other.summary_floats_ == summary_floats_, "heads that share pages have one reader");
  summaries_.append(other.summaries_.span().first(pages * floats));
  join_groups();
  hold_chosen();
}

// What adopting so many rows leaves out of write_bytes and seal_bytes: a page open, and what it
// grows by when it is coded.
size_t HeadCache::adopted_bytes(int adopted) const {
  size_t page = 0;
  for (const Side* side : {&k_, &v_})
    page += std::max(PagePool::page_cost(open_bytes()), coded_cost(*side));
  return static_cast<size_t>(adopted / page_rows_) * page;
}

std::unique_ptr<KvStore> KvStore::fork_first(int rows) const {
  std::unique_ptr<KvStore> first = fork();
  std::vector<int32_t> keep(static_cast<size_t>(rows));
  for (size_t i = 0; i < keep.size(); ++i) keep[i] = static_cast<int32_t>(i);
  for (HeadCache& head : first->heads_)
    head.keep_rows(std::span(keep).first(std::min(keep.size(), static_cast<size_t>(head.rows()))));
  return first;
}

int KvStore::sealed_rows() const {
  int rows = heads_.empty() ? 0 : heads_[0].sealed_rows();
  for (const HeadCache& head : heads_) rows = std::min(rows, head.sealed_rows());
  return rows;
}

}  // namespace pith

// What a head holds, and what its next steps may need from the pool.
#include <algorithm>

#include "kernels/kernels.h"
#include "kv/store.h"

namespace pith {

CacheBytes HeadCache::bytes(Count count) const {
  CacheBytes bytes;
  for (const Side* side : {&k_, &v_}) {
    int p = 0;
    for (const Page* page : side->pages.span()) {
      const size_t owners = count == Count::share ? static_cast<size_t>(page->owners) : 1;
      const size_t held = (PagePool::page_cost(page->bytes) + owners - 1) / owners;
      (p++ < sealed_ ? bytes.sealed : bytes.open) += held;
      if (side == &k_) bytes.keys += held;
    }
    bytes.lanes += side->pages.bytes() + side->data.bytes();
  }
  bytes.lanes += positions_.bytes() + scores_.bytes() + chosen_.k.bytes() + chosen_.v.bytes() +
                 chosen_.positions.bytes() + chosen_.rows.bytes() + chosen_.format_of.bytes() +
                 tiers_.bytes();
  bytes.summaries = summaries_.bytes() + groups_.bytes();
  bytes.pseudo = (pseudo_.size() + pseudo_before_.size()) * pseudo_cost() + pseudo_k_.bytes() +
                 pseudo_v_.bytes() + pseudo_log_weight_.bytes();
  return bytes;
}

// What taking `added` rows adds for good: open pages, a copy of a shared last page, lanes. While a
// page grows, it needs more: seal_passing has it.
size_t HeadCache::write_bytes(int added, bool with_pseudo) const {
  const auto pages_for = [&](int n) {
    return static_cast<size_t>((n + page_rows_ - 1) / page_rows_);
  };
  const auto row_count = static_cast<size_t>(rows()) + static_cast<size_t>(added);
  const size_t pages = pages_for(rows() + added);
  // Rows that the last page has room for go there, the others to new pages.
  const int at = rows() % page_rows_, here = at > 0 ? std::min(page_rows_ - at, added) : 0;
  const int behind = added - here, last = behind % page_rows_;
  size_t bytes = 2 * static_cast<size_t>(behind / page_rows_) * PagePool::page_cost(open_bytes());
  if (last > 0) bytes += 2 * PagePool::page_cost(open_bytes(last));
  for (const Side* side : {&k_, &v_}) {
    bytes += side->pages.growth(pages) + side->data.growth(pages);
    if (here == 0) continue;
    const Page& page = *side->pages.back();
    const size_t before = PagePool::page_cost(page.bytes),
                 after = PagePool::page_cost(std::max<size_t>(page.bytes, open_bytes(at + here)));
    bytes += page.owners > 1 ? after : after - before;
  }
  bytes +=
      positions_.growth(row_count) + scores_.growth(row_count - static_cast<size_t>(unscored_));
  if (summary_) bytes += chosen_.positions.growth(row_count) + chosen_.rows.growth(row_count);
  if (with_pseudo) bytes += pseudo_bytes();
  return bytes;
}

// What one plan's pseudo rows may need.
size_t HeadCache::pseudo_bytes() const {
  const size_t added = static_cast<size_t>(spec_->pseudo_rows), all = pseudo_.size() + added;
  return added * pseudo_cost() + pseudo_k_.growth(all * dim_) + pseudo_v_.growth(all * dim_) +
         pseudo_log_weight_.growth(all);
}

// What sealing after `added` more rows adds for good; each page needs more while it is coded, see
// seal_passing.
size_t HeadCache::seal_bytes(int added, const PageSummary* summary) const {
  if (summary == nullptr) summary = summary_;
  const int summary_floats = summary ? summary->floats(dim_) : 0;
  const int each = summary ? summary->group_pages() : 0;
  const int sealed = std::max(sealed_, (rows() + added - spec_->tail_rows) / page_rows_);
  size_t bytes = 0;
  for (const Side* side : {&k_, &v_}) {
    const size_t coded = coded_cost(*side), plain = PagePool::page_cost(open_bytes());
    if (coded == 0) continue;
    const size_t unshared = coded > plain ? coded - plain : 0;
    for (int p = sealed_; p < sealed; ++p)
      bytes += (p + 1) * page_rows_ <= rows() && side->pages[p]->owners > 1 ? coded : unshared;
  }
  if (tiered()) bytes += tiers_.growth(static_cast<size_t>(sealed));
  if (summary_floats > 0) {
    const size_t pages = static_cast<size_t>(sealed),
                 row_count = static_cast<size_t>(rows()) + static_cast<size_t>(added);
    bytes += summaries_.growth(pages * static_cast<size_t>(summary_floats));
    if (each > 0)
      bytes += groups_.growth((pages + static_cast<size_t>(each) - 1) / static_cast<size_t>(each) *
                              static_cast<size_t>(summary_floats));
    bytes += chosen_.k.growth(pages) + chosen_.v.growth(pages);
    if (tiered()) bytes += chosen_.format_of.growth(pages);
    if (summary_ == nullptr)
      bytes += chosen_.positions.growth(row_count) + chosen_.rows.growth(row_count);
  }
  return bytes;
}

// And an open page that grows, beside what it grows to.
size_t HeadCache::seal_passing() const {
  const size_t coded = coded_cost(k_) + coded_cost(v_);
  return coded > 0 ? coded + PagePool::page_cost(open_bytes()) : 0;
}

// Of the largest page of codes that the side may have; 0 if none is coded.
size_t HeadCache::coded_cost(const Side& side) const {
  size_t most = 0;
  for (const Format& format : side.formats)
    if (!format.moves) most = std::max(most, PagePool::page_cost(format.bytes));
  return most;
}

size_t HeadCache::bytes_for_apply() const {
  size_t bytes = pseudo_bytes();
  if (!pseudo_replaced_) bytes += static_cast<size_t>(marked_pseudo_) * pseudo_cost();
  for (const Side* side : {&k_, &v_}) {
    if (coded_cost(*side) > 0 && sealed_ > 0) bytes += PagePool::page_cost(open_bytes());
    if (pool_->shared_pages() == 0) continue;
    for (const Page* page : side->pages.span())
      if (page->owners > 1) bytes += PagePool::page_cost(page->bytes);
  }
  return bytes;
}

size_t HeadCache::fork_bytes() const {
  const auto clone_bytes = [](const auto& array) { return array.size() * sizeof(array[0]); };
  const CountedArray<float> none;
  size_t bytes = clone_bytes(positions_) + clone_bytes(scores_) + clone_bytes(tiers_) +
                 clone_bytes(summaries_) + clone_bytes(groups_) +
                 (pseudo_.size() + pseudo_before_.size()) * pseudo_cost() +
                 2 * none.growth(pseudo_k_.size()) + none.growth(pseudo_.size());
  for (const Side* side : {&k_, &v_}) bytes += clone_bytes(side->pages) + clone_bytes(side->data);
  if (summary_)
    bytes += 2 * CountedArray<const std::byte*>().growth(static_cast<size_t>(sealed_)) +
             2 * none.growth(positions_.size());
  if (summary_ && tiered()) bytes += CountedArray<uint8_t>().growth(static_cast<size_t>(sealed_));
  return bytes;
}

size_t HeadCache::arrange_bytes(int added) const {
  if (!tiered()) return 0;
  const auto moved = static_cast<size_t>(rows() + added - sealed_rows());
  return moved * (open_bytes() / static_cast<size_t>(page_rows_) + sizeof(int32_t));
}

}  // namespace pith

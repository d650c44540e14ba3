// Rows leave a head, or move to other positions, in order and in place.
//
// Target page t takes rows keep[t * page_rows ...], none of which lies before page t. So pages are
// filled from the front: once a target has been gathered, the old page at its place has been
// read to its end and may be reused. A target that is exactly one old page takes that page over,
// shared or not, coded or not, without looking inside.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "base/error.h"
#include "kernels/kernels.h"
#include "kv/store.h"

namespace pith {
namespace {

// Of the pages that were read to the end, one of each size that no fork needs is kept for the next
// target; more go back to the pool at once.
class Spares {
 public:
  explicit Spares(PagePool& pool) : pool_(pool) {}
  Spares(const Spares&) = delete;
  ~Spares() {
    for (Page* page : kept_)
      if (page != nullptr) pool_.release(page);
  }
  void put(Page* page) {
    if (page->owners == 1)
      for (Page*& kept : kept_) {
        if (kept == nullptr) {
          kept = page;
          return;
        }
        if (kept->bytes == page->bytes) break;
      }
    pool_.release(page);
  }
  Page* take(size_t bytes, MemoryClass what) {
    for (Page*& kept : kept_)
      if (kept != nullptr && kept->bytes == bytes) return std::exchange(kept, nullptr);
    return pool_.acquire(bytes, what);
  }

 private:
  PagePool& pool_;
  Page* kept_[2] = {nullptr, nullptr};
};

// Calls run(page, first, count, done) for each stretch of rows that lie side by side in a page.
template <class Run>
void each_run(std::span<const int32_t> rows, int page_rows, const Run& run) {
  for (size_t i = 0; i < rows.size();) {
    const int page = rows[i] / page_rows, first = rows[i] % page_rows;
    size_t count = 1;
    while (i + count < rows.size() && rows[i + count] == rows[i] + static_cast<int32_t>(count) &&
           first + static_cast<int>(count) < page_rows)
      ++count;
    run(page, first, static_cast<int>(count), static_cast<int>(i));
    i += count;
  }
}

}  // namespace

int HeadCache::apply(const HeadPlan& plan) {
  check_plan(plan.keep, rows());
  PITH_CHECK(plan.pseudo.size() <= pseudo_.size() + static_cast<size_t>(spec_->pseudo_rows),
             "a plan adds no more pseudo rows than StoreSpec::pseudo_rows says");
  const int recoded = keep_rows(plan.keep);
  rewrite(plan, 0);
  if (!pseudo_replaced_) {
    pseudo_before_.assign(pseudo_.begin(), pseudo_.begin() + marked_pseudo_);
    pool_->charge(pseudo_before_.size() * pseudo_cost(), MemoryClass::pseudo);
    pseudo_replaced_ = true;
  }
  if (!pseudo_.empty() || !plan.pseudo.empty()) set_pseudo(plan.pseudo);
  return recoded;
}

// A page of codes that is filled again takes the place of one that was read to its end, and so does
// a plain one, as no coded row becomes plain.
void HeadCache::shed(std::span<const int32_t> keep) {
  check_plan(keep, rows());
  PITH_CHECK(keep.size() == positions_.size() || keep.size() % page_rows_ == 0,
             "rows that stay fill pages");
  keep_rows(keep, /*seals=*/true);
}

int HeadCache::shared_rows() const {
  if (pool_->shared_pages() == 0) return 0;
  size_t pages = 0;
  for (const Side* side : {&k_, &v_})
    for (size_t p = pages; p < side->pages.size(); ++p)
      if (side->pages[p]->owners > 1) pages = p + 1;
  return std::min(rows(), static_cast<int>(pages) * page_rows_);
}

// Returns the sealed rows that lost their page. `seals`: pages that hold a row that was sealed
// still are, and others as far as the tail allows.
int HeadCache::keep_rows(std::span<const int32_t> keep, bool seals) {
  size_t unchanged = 0;
  while (unchanged < keep.size() && keep[unchanged] == static_cast<int32_t>(unchanged)) ++unchanged;
  if (unchanged == positions_.size()) return 0;
  const auto kept_below = [&](int row) {
    return static_cast<int>(std::ranges::lower_bound(keep, row) - keep.begin());
  };
  const int sealed_kept = kept_below(sealed_rows());
  int sealed_after = sealed_kept / page_rows_;
  if (seals) {
    const int pages = static_cast<int>(keep.size()) / page_rows_;
    const int behind = (static_cast<int>(keep.size()) - spec_->tail_rows) / page_rows_;
    sealed_after = std::max((sealed_kept + page_rows_ - 1) / page_rows_, behind);
    sealed_after = std::min({sealed_after, pages, sealed_});
  }
  const int from = static_cast<int>(unchanged) / page_rows_;
  PITH_CHECK(!tiered() || from >= sealed_, "rows that lie in tiers stay");

  std::vector<int> to_summarise;
  if (summary_)
    for (int t = from; t < sealed_after; ++t) {
      const int source = whole_page(keep, t);
      if (source < 0 || source >= sealed_)
        to_summarise.push_back(t);
      else
        std::memmove(summaries_.data() + static_cast<size_t>(t) * summary_floats_,
                     summaries_.data() + static_cast<size_t>(source) * summary_floats_,
                     static_cast<size_t>(summary_floats_) * sizeof(float));
    }
  const int recoded_k = compact(k_, keep, from, sealed_after);
  const int recoded_v = compact(v_, keep, from, sealed_after);
  const auto unscored = static_cast<size_t>(kept_below(unscored_));
  for (size_t i = unchanged; i < keep.size(); ++i)
    positions_[i] = positions_[static_cast<size_t>(keep[i])];
  for (size_t i = std::max(unchanged, unscored); i < keep.size(); ++i)
    scores_[i - unscored] = scores_[scored(keep[i])];
  unscored_ = static_cast<int>(unscored);
  marked_rows_ = kept_below(marked_rows_);
  sealed_ = sealed_after;
  positions_.truncate(keep.size());
  scores_.truncate(keep.size() - unscored);
  summaries_.truncate(static_cast<size_t>(sealed_) * summary_floats_);
  positions_.fit();
  scores_.fit();
  summaries_.fit();
  for (const int page : to_summarise) summarise(page);
  grouped_ = std::min(grouped_, from);
  join_groups();
  return std::max(recoded_k, recoded_v);
}

// The old page whose rows, from its first on, are exactly those of the target page; -1: none.
int HeadCache::whole_page(std::span<const int32_t> keep, int page) const {
  const size_t first = static_cast<size_t>(page) * page_rows_;
  const size_t last = std::min(first + page_rows_, keep.size()) - 1;
  const bool together = keep[last] - keep[first] == static_cast<int32_t>(last - first);
  return together && keep[first] % page_rows_ == 0 ? keep[first] / page_rows_ : -1;
}

int HeadCache::compact(Side& side, std::span<const int32_t> keep, int from, int sealed_after) {
  const int pages_before = static_cast<int>(side.pages.size());
  const int pages_after = static_cast<int>((keep.size() + page_rows_ - 1) / page_rows_);
  Spares spares(*pool_);
  const Format& all = side.formats[0];  // where there are tiers, only open pages come here
  std::vector<std::byte> gathered(std::max(open_bytes(), all.bytes));
  int done = from;  // old pages before are read to the end
  const auto retire = [&](int until) {
    for (; done < until; ++done) spares.put(std::exchange(side.pages[done], nullptr));
  };
  int recoded = 0;
  for (int t = from; t < pages_after; ++t) {
    const bool coded = t < sealed_after && !all.moves;
    const int whole = whole_page(keep, t);
    if (whole >= 0 && (all.moves || (whole < sealed_) == (t < sealed_after))) {
      retire(whole);
      done = whole + 1;
      set_page(side, t, std::exchange(side.pages[whole], nullptr));
      continue;
    }
    const size_t first = static_cast<size_t>(t) * page_rows_;
    const size_t end = std::min(first + page_rows_, keep.size());
    const std::span<const int32_t> rows = keep.subspan(first, end - first);
    if (coded)
      gather_coded(side, rows, gathered.data());
    else
      gather_plain(side, rows, gathered.data());
    if (!all.moves)
      recoded += static_cast<int>(std::ranges::lower_bound(rows, sealed_rows()) - rows.begin());
    retire(end == keep.size() ? pages_before : keep[end] / page_rows_);
    const size_t bytes = coded ? all.bytes : open_bytes(static_cast<int>(rows.size()));
    Page* page = spares.take(bytes, side.what);
    std::memcpy(page->data, gathered.data(), bytes);
    set_page(side, t, page);
  }
  retire(pages_before);
  side.pages.truncate(static_cast<size_t>(pages_after));
  side.data.truncate(static_cast<size_t>(pages_after));
  side.pages.fit();
  side.data.fit();
  return recoded;
}

// A page of sealed rows: those from sealed pages stay in the coordinates of the basis.
void HeadCache::gather_coded(const Side& side, std::span<const int32_t> rows,
                             std::byte* page) const {
  std::vector<float> coordinates(rows.size() * static_cast<size_t>(side.dim)), plain;
  each_run(rows, page_rows_, [&](int source, int first, int count, int at) {
    float* const to = coordinates.data() + static_cast<size_t>(at) * side.dim;
    if (source < sealed_) {
      side.formats[0].kernels->decode(side.data[source], first, count, side.dim, to);
      return;
    }
    plain.resize(static_cast<size_t>(count) * dim_);
    open_->decode(side.data[source], first, count, dim_, plain.data());
    to_coordinates(side,
                   positions_.span().subspan(static_cast<size_t>(source * page_rows_ + first),
                                             static_cast<size_t>(count)),
                   plain.data(), to);
  });
  side.formats[0].kernels->encode(coordinates.data(), side.dim, page_rows_, side.dim, page, 0);
}

// Plain rows; those from coded pages become plain again.
void HeadCache::gather_plain(const Side& side, std::span<const int32_t> rows,
                             std::byte* page) const {
  const size_t row_bytes = open_bytes() / static_cast<size_t>(page_rows_);
  std::vector<float> decoded;
  each_run(rows, page_rows_, [&](int source, int first, int count, int at) {
    if (plain_page(side, source)) {
      std::memcpy(page + static_cast<size_t>(at) * row_bytes,
                  side.data[source] + static_cast<size_t>(first) * row_bytes,
                  static_cast<size_t>(count) * row_bytes);
      return;
    }
    decoded.resize(static_cast<size_t>(count) * dim_);
    decode_page(side, source, first, count, decoded.data());
    open_->encode(decoded.data(), dim_, count, dim_, page, at);
  });
}

int HeadCache::repack(std::span<const int32_t> positions, const TurnKeys& turn) {
  PITH_CHECK(positions.size() == positions_.size(), "every row has a position");
  int recoded = 0;
  std::vector<float> keys;
  std::vector<int32_t> by;
  std::vector<int> to_summarise;
  for (int first = 0; turn && first < rows(); first += page_rows_) {
    const int page = first / page_rows_, count = std::min(page_rows_, rows() - first);
    by.resize(static_cast<size_t>(count));
    for (int i = 0; i < count; ++i) by[i] = positions[first + i] - positions_[first + i];
    if (std::ranges::all_of(by, [](int32_t steps) { return steps == 0; })) continue;
    if (page < sealed_ && summary_) to_summarise.push_back(page);
    if (k_.turns && !plain_page(k_, page)) continue;  // keys lie there whatever their positions
    keys.resize(static_cast<size_t>(count) * dim_);
    decode_page(k_, page, 0, count, keys.data());
    turn(Mat::packed(keys.data(), {count, dim_}), by);
    Page* own = writable(k_, page);
    if (!plain_page(k_, page)) {
      code_page(k_, format(k_, page), positions.subspan(static_cast<size_t>(first)), keys,
                own->data);
      recoded += count;
    } else {
      open_->encode(keys.data(), dim_, count, dim_, own->data, 0);
    }
  }
  std::ranges::copy(positions, positions_.data());
  for (const int page : to_summarise) {
    summarise(page);
    grouped_ = std::min(grouped_, page);
  }
  join_groups();
  return recoded;
}

void HeadCache::mark() {
  pool_->refund(pseudo_before_.size() * pseudo_cost(), MemoryClass::pseudo);
  pseudo_before_ = {};
  pseudo_replaced_ = false;
  marked_pseudo_ = static_cast<int>(pseudo_.size());
  marked_rows_ = rows();
}

void HeadCache::rewind() {
  std::vector<int32_t> older(static_cast<size_t>(marked_rows_));
  std::iota(older.begin(), older.end(), 0);
  keep_rows(older);
  std::vector<PseudoRow> before;
  if (pseudo_replaced_) {
    pool_->refund(pseudo_before_.size() * pseudo_cost(), MemoryClass::pseudo);
    before = std::move(pseudo_before_);
    pseudo_before_ = {};
    pseudo_replaced_ = false;
  } else {
    before.assign(pseudo_.begin(), pseudo_.begin() + marked_pseudo_);
  }
  set_pseudo(std::move(before));
}

}  // namespace pith

// Rows come in, full pages are sealed, kernels are told what to read. How rows leave is in
// head_reduce.cpp, what each of these may need from the pool in head_bytes.cpp.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "kernels/kernels.h"
#include "kv/store.h"

namespace pith {
namespace {

const Basis* basis_of(const std::vector<Basis>& table, int index) {
  const Basis& basis = table.at(table.size() == 1 ? 0 : static_cast<size_t>(index));
  return basis.rank > 0 ? &basis : nullptr;
}

}  // namespace

HeadCache::HeadCache(const KvShape& shape, const StoreSpec& spec, PagePool& pool, int index)
    : spec_(&spec),
      pool_(&pool),
      open_(&active_kernels().page[static_cast<size_t>(spec.open)]),
      dim_(shape.dim),
      page_rows_(spec.page_rows),
      tiers_(pool, MemoryClass::lanes),
      positions_(pool, MemoryClass::lanes),
      scores_(pool, MemoryClass::lanes),
      summaries_(pool, MemoryClass::summaries),
      groups_(pool, MemoryClass::summaries),
      chosen_(no_choice(pool)),
      pseudo_k_(pool, MemoryClass::pseudo),
      pseudo_v_(pool, MemoryClass::pseudo),
      pseudo_log_weight_(pool, MemoryClass::pseudo) {
  PITH_CHECK(spec.page_rows > 0 && spec.tail_rows >= 0 && spec.pseudo_rows >= 0,
             "a store spec counts rows");
  PITH_CHECK(is_plain(spec.open), "open rows are plain");
  const int layer = index / shape.heads;
  formats_.push_back(spec.layers.empty() ? PageFormats{spec.k, spec.v}
                                         : spec.layers.at(static_cast<size_t>(layer)));
  if (shape.window(layer) == 0)
    for (const StoreTier& tier : spec.tiers) formats_.push_back(tier.formats);
  const auto table = [](Quant quant) -> const PageKernels& {
    return active_kernels().page[static_cast<size_t>(quant)];
  };
  const auto set_up = [&](Side& side, MemoryClass what, const Basis* basis) {
    PITH_CHECK(basis == nullptr || basis->dim == dim_, "a basis fits its head");
    side.what = what;
    side.basis = basis;
    side.dim = basis ? basis->rank : dim_;
    if (basis && what == MemoryClass::pages_k && !spec.basis->turns.empty())
      side.turns = spec.basis->turns.at(static_cast<size_t>(layer)).get();
    for (const PageFormats& formats : formats_) {
      const Quant quant = what == MemoryClass::pages_k ? formats.k : formats.v;
      side.formats.push_back({.kernels = &table(quant),
                              .moves = quant == spec.open && basis == nullptr,
                              .bytes = table(quant).bytes(page_rows_, side.dim)});
    }
    side.pages = {pool, MemoryClass::lanes};
    side.data = {pool, MemoryClass::lanes};
  };
  for (const PageFormats& formats : formats_) {
    PITH_CHECK(table(formats.k).score, "queries can meet keys");
    PITH_CHECK(table(formats.v).accumulate, "values can be summed");
    PITH_CHECK(formats_.size() == 1 || !table(formats.k).prepare,
               "queries meet keys of tiers as they are");
  }
  const BasisTable* bases = spec.basis.get();
  set_up(k_, MemoryClass::pages_k, bases ? basis_of(bases->k, index) : nullptr);
  set_up(v_, MemoryClass::pages_v, bases ? basis_of(bases->v, index) : nullptr);
  constexpr int kGrowth = 8;
  open_step_ = coded_cost(k_) + coded_cost(v_) > 0 ? std::min(kGrowth, page_rows_) : page_rows_;
}

HeadCache::HeadCache(const HeadCache& other) : HeadCache() {
  spec_ = other.spec_;
  pool_ = other.pool_;
  open_ = other.open_;
  dim_ = other.dim_;
  page_rows_ = other.page_rows_;
  open_step_ = other.open_step_;
  k_ = forked(other.k_);
  v_ = forked(other.v_);
  sealed_ = other.sealed_;
  formats_ = other.formats_;
  tiers_ = other.tiers_.clone();
  positions_ = other.positions_.clone();
  scores_ = other.scores_.clone();
  unscored_ = other.unscored_;
  summary_ = other.summary_;
  summary_floats_ = other.summary_floats_;
  summaries_ = other.summaries_.clone();
  groups_ = other.groups_.clone();
  grouped_ = other.grouped_;
  chosen_ = no_choice(*pool_);
  hold_chosen();
  pseudo_k_ = {*pool_, MemoryClass::pseudo};
  pseudo_v_ = {*pool_, MemoryClass::pseudo};
  pseudo_log_weight_ = {*pool_, MemoryClass::pseudo};
  set_pseudo(other.pseudo_);
  marked_rows_ = other.marked_rows_;
  marked_pseudo_ = other.marked_pseudo_;
  pseudo_replaced_ = other.pseudo_replaced_;
  pool_->charge(other.pseudo_before_.size() * pseudo_cost(), MemoryClass::pseudo);
  pseudo_before_ = other.pseudo_before_;
}

HeadCache::Chosen HeadCache::no_choice(PagePool& pool) {
  return {{pool, MemoryClass::lanes},
          {pool, MemoryClass::lanes},
          {pool, MemoryClass::lanes},
          {pool, MemoryClass::lanes},
          {pool, MemoryClass::lanes}};
}

HeadCache::Side HeadCache::forked(const Side& side) const {
  Side copy{.what = side.what,
            .formats = side.formats,
            .basis = side.basis,
            .turns = side.turns,
            .dim = side.dim,
            .pages = side.pages.clone(),
            .data = side.data.clone()};
  for (Page* page : copy.pages.span()) pool_->share(page);
  return copy;
}

HeadCache::~HeadCache() {
  for (Side* side : {&k_, &v_})
    for (Page* page : side->pages.span())
      if (page != nullptr) pool_->release(page);  // null: a change was cut short by no_memory
  if (pool_ != nullptr)
    pool_->refund((pseudo_.size() + pseudo_before_.size()) * pseudo_cost(), MemoryClass::pseudo);
}

size_t HeadCache::open_bytes(int rows) const {
  const int room = (rows + open_step_ - 1) / open_step_ * open_step_;
  return open_->bytes(std::min(room, page_rows_), dim_);
}

size_t HeadCache::scored(int row) const {
  PITH_CHECK(row >= unscored_, "a row whose score is asked for has one");
  return static_cast<size_t>(row - unscored_);
}

void HeadCache::forget_scores() {
  if (spec_->keeps_scores) return;
  unscored_ = rows();
  scores_.clear();
}

size_t HeadCache::pseudo_cost() const {
  return sizeof(PseudoRow) + 2 * static_cast<size_t>(dim_) * sizeof(float);
}

ConstMat HeadCache::summaries() const {
  return ConstMat::packed(summaries_.data(), {summary_floats_ > 0 ? sealed_ : 0, summary_floats_});
}

void HeadCache::write(ConstMat k, ConstMat v, std::span<const int32_t> positions,
                      std::span<const float> scores, const HeadPlan& plan) {
  PITH_CHECK(k.dim[0] == v.dim[0] && k.dim[1] == dim_ && v.dim[1] == dim_,
             "keys and values are [rows, dim]");
  PITH_CHECK(positions.size() == static_cast<size_t>(k.dim[0]), "every row has a position");
  PITH_CHECK(scores.empty() || scores.size() == positions.size(), "every row has a score");
  check_plan(plan.keep, k.dim[0]);
  PITH_CHECK(plan.pseudo.size() <= static_cast<size_t>(spec_->pseudo_rows),
             "a plan adds no more pseudo rows than StoreSpec::pseudo_rows says");
  const int before = rows();
  fill(k_, k, plan.keep);
  fill(v_, v, plan.keep);
  const std::span<int32_t> new_positions = positions_.extend(plan.keep.size());
  const std::span<float> new_scores = scores_.extend(plan.keep.size());
  for (size_t i = 0; i < plan.keep.size(); ++i) {
    new_positions[i] = positions[static_cast<size_t>(plan.keep[i])];
    new_scores[i] = scores.empty() ? 0.0f : scores[static_cast<size_t>(plan.keep[i])];
  }
  rewrite(plan, before);
  if (!plan.pseudo.empty()) {
    std::vector<PseudoRow> all;
    all.reserve(pseudo_.size() + plan.pseudo.size());
    all.insert(all.end(), pseudo_.begin(), pseudo_.end());
    all.insert(all.end(), plan.pseudo.begin(), plan.pseudo.end());
    set_pseudo(std::move(all));
  }
  hold_chosen();
}

void HeadCache::append(std::span<const float> k, std::span<const float> v, int32_t position) {
  PITH_CHECK(k.size() == static_cast<size_t>(dim_) && v.size() == k.size(),
             "a row has as many numbers as its head");
  constexpr int32_t kOnlyRow[] = {0};
  fill(k_, ConstMat::packed(k.data(), {1, dim_}), kOnlyRow);
  fill(v_, ConstMat::packed(v.data(), {1, dim_}), kOnlyRow);
  if (scores_.size() == 0 && !spec_->keeps_scores)
    ++unscored_;
  else
    scores_.push_back(0);
  positions_.push_back(position);
  hold_chosen();
}

void HeadCache::hold(int added) {
  const size_t all = static_cast<size_t>(rows()) + static_cast<size_t>(added);
  const size_t pages = (all + static_cast<size_t>(page_rows_) - 1) / page_rows_;
  for (Side* side : {&k_, &v_}) {
    side->pages.hold(pages);
    side->data.hold(pages);
  }
  positions_.hold(all);
  scores_.hold(all - static_cast<size_t>(unscored_));
  if (summary_ == nullptr) return;
  chosen_.positions.hold(all);
  chosen_.rows.hold(all);
}

void HeadCache::check_plan(std::span<const int32_t> keep, int64_t rows) {
  int32_t before = -1;
  for (const int32_t row : keep) {
    PITH_CHECK(row > before && row < rows, "a plan names existing rows in ascending order");
    before = row;
  }
}

// Puts the named rows of x behind the last row of a side; the lanes follow later.
void HeadCache::fill(Side& side, ConstMat x, std::span<const int32_t> keep) {
  int row = rows();
  const size_t pages = (keep.size() + static_cast<size_t>(row + page_rows_ - 1)) / page_rows_;
  side.pages.hold(pages);
  side.data.hold(pages);
  for (size_t i = 0; i < keep.size();) {
    const int at = row % page_rows_;
    const size_t room = std::min(static_cast<size_t>(page_rows_ - at), keep.size() - i);
    const size_t bytes = open_bytes(at + static_cast<int>(room));
    Page* page = nullptr;
    if (at == 0) {
      page = pool_->acquire(bytes, side.what);
      side.pages.push_back(page);
      side.data.push_back(page->data);
    } else {
      page = writable(side, row / page_rows_, bytes);
    }
    size_t run = 1;
    while (run < room && keep[i + run] == keep[i] + static_cast<int32_t>(run)) ++run;
    open_->encode(x.data + keep[i] * x.stride[0], x.stride[0], static_cast<int>(run), dim_,
                  page->data, at);
    i += run;
    row += static_cast<int>(run);
  }
}

void HeadCache::set_page(Side& side, int page, Page* with) {
  side.pages[page] = with;
  side.data[page] = with->data;
}

// The page, after a copy if forks share it or it has fewer bytes.
Page* HeadCache::writable(Side& side, int page, size_t bytes) {
  Page* before = side.pages[page];
  if (before->owners == 1 && before->bytes >= bytes) return before;
  Page* own = pool_->acquire(std::max<size_t>(bytes, before->bytes), side.what);
  std::memcpy(own->data, before->data, before->bytes);
  set_page(side, page, own);
  pool_->release(before);
  return own;
}

void HeadCache::set_pseudo(std::vector<PseudoRow> rows) {
  pool_->refund(pseudo_.size() * pseudo_cost(), MemoryClass::pseudo);
  pseudo_ = std::move(rows);
  pool_->charge(pseudo_.size() * pseudo_cost(), MemoryClass::pseudo);
  pseudo_k_.truncate(0);
  pseudo_v_.truncate(0);
  pseudo_log_weight_.truncate(0);
  pseudo_k_.hold(pseudo_.size() * dim_);
  pseudo_v_.hold(pseudo_.size() * dim_);
  pseudo_log_weight_.hold(pseudo_.size());
  for (const PseudoRow& row : pseudo_) {
    PITH_CHECK(row.k.size() == static_cast<size_t>(dim_) && row.v.size() == row.k.size(),
               "a pseudo row has as many numbers as its head");
    PITH_CHECK(row.weight > 0, "a pseudo row stands for something");
    pseudo_k_.append(row.k);
    pseudo_v_.append(row.v);
    pseudo_log_weight_.push_back(std::log(row.weight));
  }
  pseudo_k_.fit();
  pseudo_v_.fit();
  pseudo_log_weight_.fit();
}

void HeadCache::seal(const PageSummary* summary) {
  PITH_CHECK(sealed_ == 0 || summary == summary_, "a head has one reader");
  summary_ = summary;
  summary_floats_ = summary ? summary->floats(dim_) : 0;
  const int sealed_after = std::max(sealed_, (rows() - spec_->tail_rows) / page_rows_);
  std::vector<float> plain;
  summaries_.hold(static_cast<size_t>(sealed_after) * summary_floats_);
  while (sealed_ < sealed_after) {
    const Format &k_format = format(k_, sealed_), &v_format = format(v_, sealed_);
    Page* k = k_format.moves ? nullptr : pool_->acquire(k_format.bytes, k_.what);
    Page* v = v_format.moves ? nullptr : pool_->acquire(v_format.bytes, v_.what);
    for (auto& [side, coded] : {std::pair(&k_, k), std::pair(&v_, v)}) {
      if (coded == nullptr) continue;
      plain.resize(static_cast<size_t>(page_rows_) * dim_);
      open_->decode(side->pages[sealed_]->data, 0, page_rows_, dim_, plain.data());
      code_page(*side, format(*side, sealed_), positions_of(sealed_), plain, coded->data);
      pool_->release(side->pages[sealed_]);
      set_page(*side, sealed_, coded);
    }
    if (tiered() && tiers_.size() == static_cast<size_t>(sealed_)) tiers_.push_back(0);
    ++sealed_;
    if (summary_) {
      summaries_.extend(static_cast<size_t>(summary_floats_));
      summarise(sealed_ - 1);
    }
  }
  join_groups();
  hold_chosen();
}

void HeadCache::summarise(int page) {
  std::vector<float> k(static_cast<size_t>(page_rows_) * dim_);
  decode_page(k_, page, 0, page_rows_, k.data());
  summary_->summarise(ConstMat::packed(k.data(), {page_rows_, dim_}),
                      summaries_.span().subspan(static_cast<size_t>(page) * summary_floats_,
                                                static_cast<size_t>(summary_floats_)));
}

// Of the rows of a full page.
std::span<const int32_t> HeadCache::positions_of(int page) const {
  const auto rows = static_cast<size_t>(page_rows_);
  return positions_.span().subspan(static_cast<size_t>(page) * rows, rows);
}

// rows: [positions.size(), dim], plain; `way` 1 is to their positions, -1 back.
void HeadCache::turn(const Side& side, std::span<const int32_t> positions, float* rows,
                     int way) const {
  if (side.turns == nullptr) return;
  std::vector<float> scratch(side.turns->scratch_floats());
  side.turns->turn(active_kernels(), rows, dim_, positions, way, scratch.data());
}

// rows: [positions.size(), dim], plain, at `positions`; used up. out: [positions.size(), side.dim].
void HeadCache::to_coordinates(const Side& side, std::span<const int32_t> positions, float* rows,
                               float* out) const {
  if (side.basis == nullptr) {
    std::copy_n(rows, positions.size() * static_cast<size_t>(dim_), out);
    return;
  }
  turn(side, positions, rows, -1);
  to_basis(*side.basis, rows, static_cast<int>(positions.size()), out);
}

// rows: [page_rows, dim], plain, at `positions`; used up.
void HeadCache::code_page(const Side& side, const Format& format,
                          std::span<const int32_t> positions, std::vector<float>& rows,
                          std::byte* page) const {
  if (side.basis) {
    std::vector<float> mapped(static_cast<size_t>(page_rows_) * side.dim);
    to_coordinates(side, positions.first(static_cast<size_t>(page_rows_)), rows.data(),
                   mapped.data());
    rows.swap(mapped);
  }
  format.kernels->encode(rows.data(), side.dim, page_rows_, side.dim, page, 0);
}

// out: [rows, dim], plain.
void HeadCache::decode_page(const Side& side, int page, int first, int rows, float* out) const {
  const std::byte* data = side.data[page];
  const PageKernels& kernels = *format(side, page).kernels;
  if (plain_page(side, page)) {
    open_->decode(data, first, rows, dim_, out);
  } else if (side.basis) {
    std::vector<float> coded(static_cast<size_t>(rows) * side.dim);
    kernels.decode(data, first, rows, side.dim, coded.data());
    from_basis(*side.basis, coded.data(), rows, out);
    if (side.turns)
      turn(side, positions_of(page).subspan(static_cast<size_t>(first), static_cast<size_t>(rows)),
           out, 1);
  } else {
    kernels.decode(data, first, rows, dim_, out);
  }
}

void HeadCache::copy_rows(const Side& side, int first, int count, float* out) const {
  for (int row = first; row < first + count;) {
    const int page = row / page_rows_;
    const int rows = std::min((page + 1) * page_rows_, first + count) - row;
    decode_page(side, page, row % page_rows_, rows, out + static_cast<size_t>(row - first) * dim_);
    row += rows;
  }
}

ConstMat HeadCache::plain_copy(const Side& side, std::vector<float>& scratch) const {
  scratch.resize(static_cast<size_t>(rows()) * dim_);
  copy_rows(side, 0, rows(), scratch.data());
  return ConstMat::packed(scratch.data(), {rows(), dim_});
}

void HeadCache::copy_keys(int first, int count, float* out) const {
  copy_rows(k_, first, count, out);
}

void HeadCache::copy_values(int first, int count, float* out) const {
  copy_rows(v_, first, count, out);
}

ConstMat HeadCache::keys(std::vector<float>& scratch) const {
  return plain_copy(k_, scratch);
}

ConstMat HeadCache::values(std::vector<float>& scratch) const {
  return plain_copy(v_, scratch);
}

// A reader's choice is listed in arrays that already have room, so that paged() takes no memory.
void HeadCache::hold_chosen() {
  if (summary_ == nullptr) return;
  chosen_.k.hold(static_cast<size_t>(sealed_));
  chosen_.v.hold(static_cast<size_t>(sealed_));
  chosen_.positions.hold(positions_.size());
  chosen_.rows.hold(positions_.size());
  if (tiered()) chosen_.format_of.hold(static_cast<size_t>(sealed_));
}

PagedHead HeadCache::paged(std::span<const int32_t> chosen_pages) const {
  const size_t sealed = static_cast<size_t>(sealed_);
  const int64_t pseudo = static_cast<int64_t>(pseudo_.size());
  PagedHead head;
  head.k_quant = formats_[0].k;
  head.v_quant = formats_[0].v;
  if (tiered()) head.formats = formats_;
  head.k_dim = k_.dim;
  head.v_dim = v_.dim;
  const auto map = [](const Basis* basis) {
    return basis && !basis->leading() ? basis->up.data() : nullptr;
  };
  head.query_map = map(k_.basis);
  head.key_turns = k_.turns;
  head.output_map = map(v_.basis);
  head.open_k = k_.data.span().subspan(sealed);
  head.open_v = v_.data.span().subspan(sealed);
  head.open_quant = spec_->open;
  head.open_rows = rows() - sealed_rows();
  head.pseudo_k = ConstMat::packed(pseudo_k_.data(), {pseudo, dim_});
  head.pseudo_v = ConstMat::packed(pseudo_v_.data(), {pseudo, dim_});
  head.pseudo_log_weight = pseudo_log_weight_.span();
  head.page_rows = page_rows_;
  if (chosen_pages.empty()) {
    head.sealed_k = k_.data.span().first(sealed);
    head.sealed_v = v_.data.span().first(sealed);
    if (tiered()) head.format_of = tiers_.span().first(sealed);
    head.positions = positions_.span();
    return head;
  }

  chosen_.k.truncate(0);
  chosen_.v.truncate(0);
  chosen_.positions.truncate(0);
  chosen_.rows.truncate(0);
  chosen_.format_of.truncate(0);
  const auto list_rows = [&](int first, int count) {
    chosen_.positions.append(
        positions_.span().subspan(static_cast<size_t>(first), static_cast<size_t>(count)));
    for (int32_t& row : chosen_.rows.extend(static_cast<size_t>(count))) row = first++;
  };
  for (const int32_t page : chosen_pages) {
    PITH_CHECK(page >= 0 && page < sealed_, "a reader chooses among sealed pages");
    chosen_.k.push_back(k_.data[page]);
    chosen_.v.push_back(v_.data[page]);
    if (tiered()) chosen_.format_of.push_back(tiers_[page]);
    list_rows(page * page_rows_, page_rows_);
  }
  list_rows(sealed_rows(), head.open_rows);
  head.sealed_k = chosen_.k.span();
  head.sealed_v = chosen_.v.span();
  head.positions = chosen_.positions.span();
  head.row_numbers = chosen_.rows.span();
  head.format_of = chosen_.format_of.span();
  return head;
}

}  // namespace pith

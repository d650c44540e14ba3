// The cache of one session: a ragged sequence of rows for every key/value head.
//
//   KvStore -- HeadCache [layer][head] -- sealed pages (coded) | open pages (plain) | pseudo rows
//                                     \-- lanes: position, score (one value per row)
//
// Rows enter plain. A full page is sealed, that is coded, once enough newer rows exist;
// while a prompt runs nothing is sealed, so that budgets can still be revised for free.
// If a side's sealed format is its open format and it has no basis, sealing moves nothing.
//
//   life = ( mark adopt? write* apply* seal | append* apply* seal | fork | rewind )*
//
// Memory is asked for before a step (bytes_for_...), never discovered in the middle. Only fork
// and a system that refuses memory below the pool's limit throw (no_memory); after the latter a
// store may only be destroyed. A store belongs to one thread at a time, except that several may
// read several heads.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "kv/counted_array.h"
#include "kv/dropped_tokens.h"
#include "kv/page_pool.h"
#include "kv/plan.h"
#include "kv/store_spec.h"
#include "tensor/kv_shape.h"

namespace pith {

// A few floats that describe a sealed page to whoever chooses pages later.
class PageSummary {
 public:
  virtual ~PageSummary() = default;
  virtual int floats(int dim) const = 0;
  // k_page: [page_rows, dim], as attention will read it: coded and decoded again.
  virtual void summarise(ConstMat k_page, std::span<float> summary) const = 0;
  // Pages of which every so many, in order, have one summary more between them; 0: none do.
  virtual int group_pages() const { return 0; }
  // summaries: [1 .. group_pages(), floats] of the pages of a group.
  virtual void join(ConstMat /*summaries*/, std::span<float> /*group*/) const {}
};

// Turns keys [n, dim] in place, row i by by[i] positions: a rotation, without Rope::magnitude
// (stored keys have it already).
using TurnKeys = std::function<void(Mat keys, std::span<const int32_t> by)>;

// How pages that several own count for one of them: by its share (of two owners each has half,
// rounded up), so that the sum over all is what the pool has; or whole, as if it were alone.
enum class Count { share, whole };

// What a session holds, from the allocator. Lanes include the page tables.
struct CacheBytes {
  size_t sealed = 0, open = 0, pseudo = 0, lanes = 0, summaries = 0, dropped = 0;
  size_t keys = 0;  // of sealed and open: pages of keys; the others are of values
  size_t total() const { return sealed + open + pseudo + lanes + summaries + dropped; }
};

struct HeadImage;

class HeadCache {
 public:
  HeadCache() = default;  // KvStore makes them usable
  HeadCache(HeadCache&&) noexcept = default;
  HeadCache& operator=(HeadCache&&) = delete;
  ~HeadCache();

  int rows() const { return static_cast<int>(positions_.size()); }
  int sealed_rows() const { return sealed_ * page_rows_; }  // the first of them
  std::span<const int32_t> positions() const { return positions_.span(); }
  // A lane that moves with the rows: those from unscored_rows() on, which is 0 until scores are
  // forgotten; and the same from row `first` on.
  std::span<float> scores() { return scores_.span(); }
  std::span<const float> scores() const { return scores_.span(); }
  std::span<float> scores_from(int first) { return scores_.span().subspan(scored(first)); }
  std::span<const float> scores_from(int first) const {
    return scores_.span().subspan(scored(first));
  }
  int unscored_rows() const { return unscored_; }
  std::span<const PseudoRow> pseudo() const { return pseudo_; }
  ConstMat summaries() const;  // [sealed pages, floats]; no rows without a reader
  ConstMat groups() const;     // [groups of sealed pages, floats], if the reader joins pages

  // Plain copies of all rows, decoded where sealed. For reducers that look at vectors.
  ConstMat keys(std::vector<float>& scratch) const;
  ConstMat values(std::vector<float>& scratch) const;
  // The same of rows [first, first + count), into [count, dim].
  void copy_keys(int first, int count, float* out) const;
  void copy_values(int first, int count, float* out) const;

  // Appends the rows that the plan keeps, and adds its pseudo rows to the head's. k and v are
  // [rows, dim], positions and scores [rows]; no scores means zeros.
  void write(ConstMat k, ConstMat v, std::span<const int32_t> positions,
             std::span<const float> scores, const HeadPlan& plan);
  void append(std::span<const float> k, std::span<const float> v, int32_t position);
  // Room in lanes and tables for so many rows more, which then come in several calls and take no
  // more than if they came in one.
  void hold(int rows);
  // Keeps the rows that the plan names; its pseudo rows replace the head's. Full pages that stay
  // whole are not touched. Returns how many sealed rows have to be coded again because their page
  // lost a row or an older page did.
  int apply(const HeadPlan& plan);
  // Keeps the rows that `keep` names, all of them or as many as fill pages, and the pseudo rows,
  // and takes no memory, if none goes of the first shared_rows(), which lie in pages that forks
  // share. So coded rows stay coded: plain ones fill up their last page, be they of the tail or
  // not.
  void shed(std::span<const int32_t> keep);
  int shared_rows() const;
  // Gives every row a new position, and turns the keys of those whose position changes, sealed
  // ones too (`turn` may be empty: no rotation). Returns the sealed rows that were coded again.
  // Only differences of positions matter to attention, so a policy that closes gaps moves the few
  // old rows up to the newest, not the many new ones down, and may let heads differ in length:
  // row r goes to newest - (rows - 1 - r), and the next token keeps its absolute position.
  int repack(std::span<const int32_t> positions, const TurnKeys& turn);
  // Begins an empty head with the first `adopted` rows of another one of the same spec: whole
  // sealed pages, which both share from then on. positions and scores: at least so many. `total`:
  // the rows that it will have once the rest is written, and sealed for `summary`.
  void adopt(const HeadCache& other, int adopted, int total, std::span<const int32_t> positions,
             std::span<const float> scores, const PageSummary* summary);
  // Before sealing, where the spec has tiers: puts the open rows in the order that `order` names,
  // all of them once, so that the first of them fill pages of the given tiers (0: none).
  void arrange(std::span<const int32_t> order, std::span<const uint8_t> tiers);
  // Behind a prompt, if the spec does not keep scores.
  void forget_scores();
  // Codes every full page that is older than the tail. The summary is the same in every call and
  // outlives the head.
  void seal(const PageSummary* summary);

  // What the attention kernels read; no choice means all pages. Valid until the next change.
  PagedHead paged(std::span<const int32_t> chosen_pages) const;

  // For session files, between prompts. `restore` fills an empty head with an image that why_not
  // has no objection to, given the policy's reader; the caller has asked for restore_bytes.
  HeadImage image() const;
  std::string why_not(const HeadImage& image, const PageSummary* summary) const;
  size_t restore_bytes(const HeadImage& image) const;
  void restore(const HeadImage& image, const PageSummary* summary);

  CacheBytes bytes(Count count = Count::share) const;
  // What apply and repack together may need, at worst: pages that forks share are copied, and
  // sealed rows at a cut go back to an open page.
  size_t bytes_for_apply() const;

 private:
  friend class KvStore;

  struct Format {  // of sealed pages
    const PageKernels* kernels = nullptr;
    bool moves = false;  // sealed pages are what they were when open
    size_t bytes = 0;    // of a page
  };
  struct Side {  // keys or values
    MemoryClass what = MemoryClass::pages_k;
    std::vector<Format> formats;      // that of all rows, then those of tiers
    const Basis* basis = nullptr;     // null: identity
    const KeyTurns* turns = nullptr;  // of coded rows, which lie before them; null: none
    int dim = 0;                      // of sealed rows
    CountedArray<Page*> pages;        // page p holds rows [p * page_rows, ...); sealed ones first
    CountedArray<const std::byte*> data;  // pages[p]->data
  };
  struct Chosen {  // behind paged(chosen_pages)
    CountedArray<const std::byte*> k, v;
    CountedArray<int32_t> positions, rows;
    CountedArray<uint8_t> format_of;
  };
  HeadCache(const KvShape& shape, const StoreSpec& spec, PagePool& pool, int index);
  HeadCache(const HeadCache& other);  // a fork

  static void check_plan(std::span<const int32_t> keep, int64_t rows);
  static Chosen no_choice(PagePool& pool);
  // The format that sealed page `page` has, or will have.
  const Format& format(const Side& side, int page) const {
    return side
        .formats[static_cast<size_t>(page) < tiers_.size() ? tiers_[static_cast<size_t>(page)] : 0];
  }
  bool tiered() const { return formats_.size() > 1; }
  size_t scored(int row) const;  // its place among the scores
  // Whether the page lies as it was written.
  bool plain_page(const Side& side, int page) const {
    return page >= sealed_ || format(side, page).moves;
  }
  size_t coded_cost(const Side& side) const;
  // Of an open page: full ones, and such as have room for so many rows. Where pages are coded, an
  // open one grows with its rows, as it is large beside them.
  size_t open_bytes() const { return open_bytes(page_rows_); }
  size_t open_bytes(int rows) const;
  size_t page_bytes(const Side& side, int page, int rows, int sealed) const;
  int open_rows(int rows, size_t page) const;
  size_t pseudo_cost() const;

  void fill(Side& side, ConstMat x, std::span<const int32_t> keep);
  static void set_page(Side& side, int page, Page* with);
  Page* writable(Side& side, int page, size_t bytes = 0);
  void set_pseudo(std::vector<PseudoRow> rows);
  void hold_chosen();
  void summarise(int page);
  void join_groups();
  size_t groups_of(int pages) const;
  void rewrite(const HeadPlan& plan, int first);
  int set_row(Side& side, int row, std::span<const float> values);
  void code_page(const Side& side, const Format& format, std::span<const int32_t> positions,
                 std::vector<float>& rows, std::byte* page) const;
  void turn(const Side& side, std::span<const int32_t> positions, float* rows, int way) const;
  void to_coordinates(const Side& side, std::span<const int32_t> positions, float* rows,
                      float* out) const;
  std::span<const int32_t> positions_of(int page) const;
  void decode_page(const Side& side, int page, int first, int rows, float* out) const;
  ConstMat plain_copy(const Side& side, std::vector<float>& scratch) const;
  void copy_rows(const Side& side, int first, int count, float* out) const;

  int keep_rows(std::span<const int32_t> keep, bool seals = false);
  int whole_page(std::span<const int32_t> keep, int page) const;
  int compact(Side& side, std::span<const int32_t> keep, int from, int sealed_after);
  void gather_coded(const Side& side, std::span<const int32_t> rows, std::byte* page) const;
  void gather_plain(const Side& side, std::span<const int32_t> rows, std::byte* page) const;

  void mark();
  void rewind();
  Side forked(const Side& side) const;

  size_t write_bytes(int added, bool with_pseudo) const;
  size_t pseudo_bytes() const;
  size_t seal_bytes(int added, const PageSummary* summary) const;
  size_t seal_passing() const;
  size_t adopted_bytes(int adopted) const;
  size_t arrange_bytes(int added) const;
  size_t fork_bytes() const;

  const StoreSpec* spec_ = nullptr;
  PagePool* pool_ = nullptr;
  const PageKernels* open_ = nullptr;
  int dim_ = 0, page_rows_ = 1;
  int open_step_ = 1;  // rows by which an open page grows
  Side k_, v_;
  int sealed_ = 0;                    // pages
  std::vector<PageFormats> formats_;  // as Side::formats
  CountedArray<uint8_t> tiers_;       // of pages from the first on, if there are tiers; else empty
  CountedArray<int32_t> positions_;
  CountedArray<float> scores_;  // of rows from unscored_ on
  int unscored_ = 0;

  const PageSummary* summary_ = nullptr;
  int summary_floats_ = 0;
  CountedArray<float> summaries_;  // [sealed pages, floats]
  CountedArray<float> groups_;     // [groups, floats]
  int grouped_ = 0;                // pages whose summaries are part of their group's
  mutable Chosen chosen_;

  std::vector<PseudoRow> pseudo_;
  CountedArray<float> pseudo_k_, pseudo_v_, pseudo_log_weight_;  // the same, packed for kernels

  int marked_rows_ = 0;    // rows before the prompt
  int marked_pseudo_ = 0;  // pseudo rows before the prompt; kept apart once a plan replaces them
  bool pseudo_replaced_ = false;
  std::vector<PseudoRow> pseudo_before_;
};

class KvStore {
 public:
  KvStore(const KvShape& shape, const StoreSpec& spec, PagePool& pool);  // spec and pool outlive it
  KvStore& operator=(const KvStore&) = delete;
  ~KvStore();
  const KvShape& shape() const { return shape_; }
  HeadCache& at(int layer, int head) { return heads_[layer * shape_.heads + head]; }
  const HeadCache& at(int layer, int head) const { return heads_[layer * shape_.heads + head]; }
  int64_t rows() const;  // of all heads
  // Tokens that dropped out behind a layer, if StoreSpec::keeps_dropped. Marked, rewound, forked
  // and counted with the rest.
  DroppedTokens& dropped(int layer) { return dropped_[static_cast<size_t>(layer)]; }
  const DroppedTokens& dropped(int layer) const { return dropped_[static_cast<size_t>(layer)]; }
  void seal(const PageSummary* summary);
  void forget_scores();
  void mark();  // a prompt starts here
  // Drops the rows and pseudo rows written since. Older rows that a plan dropped do not return.
  void rewind();
  // Copy on write: one prefill, many questions. Throws no_memory if bytes_for_fork() are not free.
  std::unique_ptr<KvStore> fork() const;
  // A fork of the first `rows` rows of every head.
  std::unique_ptr<KvStore> fork_first(int rows) const;
  int sealed_rows() const;  // of the head that has fewest
  CacheBytes bytes(Count count = Count::share) const;

  // What must be free in the pool before ..., at worst; after that it cannot fail.
  // ... a layer of a prompt ends: each of its heads takes `rows` more rows (fewer if a budget caps
  // them), and everything is sealed. `summary` need be given only before the first seal. `adopted`
  // of the rows come by HeadCache::adopt.
  size_t bytes_for_layer(int rows, const PageSummary* summary = nullptr, int adopted = 0) const;
  // ... every head takes one more row, and everything is sealed.
  // `more`: rows that may join each layer beside it; empty: none.
  size_t bytes_for_step(const PageSummary* summary = nullptr, std::span<const int> more = {}) const;
  // ... heads are reduced, on top of the above: nothing, unless forks share their pages or sealed
  // pages are coded. HeadCache::bytes_for_apply has the part of one head.
  size_t bytes_for_apply() const;
  size_t bytes_for_fork() const;

 private:
  KvStore(const KvStore& other);  // a fork
  KvShape shape_;
  const StoreSpec& spec_;
  PagePool& pool_;
  std::vector<HeadCache> heads_;
  std::vector<DroppedTokens> dropped_;  // [layers], or empty
};

// The uncompressed rows of the one layer that is being prefilled. No larger uncompressed
// cache ever exists, because a prompt runs layer by layer.
struct LayerRows {
  ConstCube k, v;                      // [heads, rows, dim], keys after RoPE
  std::span<const int32_t> positions;  // [rows]
};

}  // namespace pith

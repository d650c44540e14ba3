// The cache of one session: a ragged sequence of rows for every key/value head.
//
//   KvStore -- HeadCache [layer][head] -- sealed pages (coded) | open pages (plain) | pseudo rows
//                                     \-- lanes: position, score (one value per row)
//
// Rows enter plain. A full page is sealed, that is coded, once enough newer rows exist;
// while a prompt runs nothing is sealed, so that budgets can still be revised for free.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"
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
  virtual void summarise(ConstMat k_page, std::span<float> summary) const = 0;
};

class HeadCache {
 public:
  int rows() const { return static_cast<int>(positions_.size()); }
  std::span<const int32_t> positions() const { return positions_; }
  std::span<float> scores() { return scores_; }  // moves with the rows
  std::span<const float> scores() const { return scores_; }
  std::span<const PseudoRow> pseudo() const { return pseudo_; }
  ConstMat summaries() const;  // [sealed pages, floats]

  // Plain copies of all rows, decoded where sealed. For reducers that look at vectors.
  ConstMat keys(std::vector<float>& scratch) const;
  ConstMat values(std::vector<float>& scratch) const;

  // Appends the rows that the plan keeps, and takes over its pseudo rows.
  void write(ConstMat k, ConstMat v, std::span<const int32_t> positions,
             std::span<const float> scores, const HeadPlan& plan);
  void append(std::span<const float> k, std::span<const float> v, int32_t position);
  // Keeps the rows that the plan names. Sealed pages that lose rows are coded again.
  void apply(const HeadPlan& plan);
  // Codes every full page that is older than the tail.
  void seal(const PageSummary* summary);

  // What the attention kernels read; no choice means all pages. Valid until the next change.
  PagedHead paged(std::span<const int32_t> chosen_pages) const;

 private:
  friend class KvStore;
  const StoreSpec* spec_ = nullptr;
  PagePool* pool_ = nullptr;
  const Basis* k_basis_ = nullptr;  // null: identity
  const Basis* v_basis_ = nullptr;
  int dim_ = 0;
  std::vector<Page*> sealed_k_, sealed_v_;  // full
  std::vector<Page*> open_k_, open_v_;      // plain; the last one may be partly filled
  int open_rows_ = 0;
  int marked_ = 0;  // rows before the prompt
  std::vector<float> summaries_;
  int summary_floats_ = 0;
  std::vector<PseudoRow> pseudo_;
  std::vector<int32_t> positions_;  // lanes
  std::vector<float> scores_;
  struct Frames;  // the pointers behind paged()
  std::shared_ptr<Frames> frames_;
};

// What a session holds, from the allocator. Pages that forks share count once per owner's share:
// a page with two owners counts half for each.
struct CacheBytes {
  size_t sealed = 0, open = 0, pseudo = 0, lanes = 0, summaries = 0;
  size_t total() const { return sealed + open + pseudo + lanes + summaries; }
};

class KvStore {
 public:
  KvStore(const KvShape& shape, const StoreSpec& spec, PagePool& pool);  // both outlive it
  KvStore(const KvStore&) = delete;
  ~KvStore();
  const KvShape& shape() const { return shape_; }
  HeadCache& at(int layer, int head) { return heads_[layer * shape_.heads + head]; }
  const HeadCache& at(int layer, int head) const { return heads_[layer * shape_.heads + head]; }
  void seal(const PageSummary* summary);
  void mark();                            // a prompt starts here
  void rewind();                          // drops the rows written since
  std::unique_ptr<KvStore> fork() const;  // copy on write: one prefill, many questions
  CacheBytes bytes() const;

  // What must be free in the pool before ...
  size_t bytes_for_layer(int rows) const;  // ... a layer of a prompt ends, at worst
  size_t bytes_for_step() const;           // ... every head takes one more row

 private:
  KvShape shape_;
  const StoreSpec& spec_;
  PagePool& pool_;
  std::vector<HeadCache> heads_;
};

// The uncompressed rows of the one layer that is being prefilled. No larger uncompressed
// cache ever exists, because a prompt runs layer by layer.
struct LayerRows {
  ConstCube k, v;                      // [heads, rows, dim], keys after RoPE
  std::span<const int32_t> positions;  // [rows]
};

}  // namespace pith

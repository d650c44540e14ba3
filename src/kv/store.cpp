#include "kv/store.h"

#include <algorithm>

#include "base/error.h"

namespace pith {

KvStore::KvStore(const KvShape& shape, const StoreSpec& spec, PagePool& pool)
    : shape_(shape), spec_(spec), pool_(pool) {
  const int heads = shape.layers * shape.heads;
  if (const BasisTable* bases = spec.basis.get())
    for (const std::vector<Basis>* side : {&bases->k, &bases->v})
      PITH_CHECK(side->size() == static_cast<size_t>(heads) || side->size() == 1,
                 "a basis table has an entry for every head, or one for all");
  heads_.reserve(static_cast<size_t>(heads));
  for (int i = 0; i < heads; ++i) heads_.push_back(HeadCache(shape_, spec_, pool_, i));
  for (int l = 0; spec.keeps_dropped && l < shape.layers; ++l)
    dropped_.emplace_back(pool_, shape.width);
}

KvStore::~KvStore() = default;

int64_t KvStore::rows() const {
  int64_t rows = 0;
  for (const HeadCache& head : heads_) rows += head.rows();
  return rows;
}

void KvStore::seal(const PageSummary* summary) {
  for (HeadCache& head : heads_) head.seal(summary);
}

void KvStore::forget_scores() {
  for (HeadCache& head : heads_) head.forget_scores();
}

void KvStore::mark() {
  for (HeadCache& head : heads_) head.mark();
  for (DroppedTokens& tokens : dropped_) tokens.mark();
}

void KvStore::rewind() {
  for (HeadCache& head : heads_) head.rewind();
  for (DroppedTokens& tokens : dropped_) tokens.rewind();
}

KvStore::KvStore(const KvStore& other)
    : shape_(other.shape_), spec_(other.spec_), pool_(other.pool_) {
  heads_.reserve(other.heads_.size());
  for (const HeadCache& head : other.heads_) heads_.push_back(HeadCache(head));
  for (const DroppedTokens& tokens : other.dropped_) dropped_.push_back(tokens.clone());
}

std::unique_ptr<KvStore> KvStore::fork() const {
  const size_t needed = bytes_for_fork();
  if (needed > pool_.free_bytes())
    throw Error(Errc::no_memory, "a fork takes " + mebibytes(needed) + " of cache memory and " +
                                     mebibytes(pool_.free_bytes()) + " are free of " +
                                     mebibytes(pool_.limit_bytes()) +
                                     "; raise the cache limit or end another session");
  return std::unique_ptr<KvStore>(new KvStore(*this));
}

CacheBytes KvStore::bytes(Count count) const {
  CacheBytes sum;
  for (const HeadCache& head : heads_) {
    const CacheBytes bytes = head.bytes(count);
    sum.keys += bytes.keys;
    sum.sealed += bytes.sealed;
    sum.open += bytes.open;
    sum.pseudo += bytes.pseudo;
    sum.lanes += bytes.lanes;
    sum.summaries += bytes.summaries;
  }
  for (const DroppedTokens& tokens : dropped_) sum.dropped += tokens.bytes();
  return sum;
}

size_t KvStore::bytes_for_layer(int rows, const PageSummary* summary, int adopted) const {
  size_t seal = 0, passing = 0, largest = 0, dropped = 0;
  for (int layer = 0; layer < shape_.layers; ++layer) {
    size_t written = 0;
    for (int h = 0; h < shape_.heads; ++h) {
      const HeadCache& head = at(layer, h);
      const size_t now = head.seal_bytes(0, summary);
      seal += now;
      const size_t bytes = head.write_bytes(rows, true) + head.seal_bytes(rows, summary) - now;
      written += bytes - std::min(bytes, head.adopted_bytes(adopted));
      passing = std::max({passing, head.seal_passing(), head.arrange_bytes(rows)});
    }
    largest = std::max(largest, written);
  }
  for (const DroppedTokens& tokens : dropped_) dropped = std::max(dropped, tokens.growth(rows));
  return seal + largest + passing + dropped;
}

size_t KvStore::bytes_for_step(const PageSummary* summary, std::span<const int> more) const {
  size_t bytes = 0, passing = 0;
  for (size_t i = 0; i < heads_.size(); ++i) {
    const HeadCache& head = heads_[i];
    const size_t layer = i / static_cast<size_t>(shape_.heads);
    const int rows = 1 + (more.empty() ? 0 : more[layer]);
    bytes += head.write_bytes(rows, false) + head.seal_bytes(rows, summary);
    passing = std::max(passing, head.seal_passing());
  }
  for (size_t l = 0; l < more.size() && l < dropped_.size(); ++l)
    bytes += dropped_[l].growth(more[l]);
  return bytes + passing;
}

size_t KvStore::bytes_for_apply() const {
  size_t bytes = 0;
  for (const HeadCache& head : heads_) bytes += head.bytes_for_apply();
  return bytes;
}

size_t KvStore::bytes_for_fork() const {
  size_t bytes = 0;
  for (const HeadCache& head : heads_) bytes += head.fork_bytes();
  for (const DroppedTokens& tokens : dropped_) bytes += tokens.clone_bytes();
  return bytes;
}

}  // namespace pith

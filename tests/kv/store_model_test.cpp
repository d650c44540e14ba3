// Random lives of a store and its forks, each step compared with lists of rows (ModelHead). Before
// every step the pool is filled until exactly the bytes are free that the store asked for.
#include <algorithm>
#include <gtest/gtest.h>
#include <memory>
#include <numeric>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include "base/random.h"
#include "kv/store.h"
#include "support/cache_helpers.h"

namespace pith::test {
namespace {

constexpr int kDim = 8;
constexpr KvShape kShape{.layers = 2, .query_heads = 4, .heads = 2, .dim = kDim, .width = 32};
constexpr int kHeads = kShape.layers * kShape.heads;

// Keeps the sum of a page's keys, so that a summary that belongs to another page is seen.
class KeySums final : public PageSummary {
 public:
  int floats(int dim) const override { return dim; }
  void summarise(ConstMat k_page, std::span<float> summary) const override {
    std::ranges::fill(summary, 0.0f);
    for (int64_t r = 0; r < k_page.dim[0]; ++r)
      for (int64_t d = 0; d < k_page.dim[1]; ++d) summary[d] += k_page.row(r)[d];
  }
};

constexpr float kForgotten = -7;  // a score that no row is given

StoreSpec random_spec(Random& random) {
  const auto quant = [&] { return random.below(2) ? Quant::f16 : Quant::f32; };
  StoreSpec spec{.k = quant(), .v = quant(), .open = quant()};
  // Longer ones have open pages that grow.
  spec.page_rows = static_cast<int>(1 + random.below(5) + (random.below(3) ? 0 : 9));
  spec.keeps_scores = random.below(3) > 0;
  spec.tail_rows = static_cast<int>(random.below(7));
  spec.pseudo_rows = 2;
  if (random.below(2)) {
    auto bases = std::make_shared<BasisTable>();
    bases->heads = kShape.heads;
    bases->k.resize(kHeads);
    bases->v.resize(kHeads);
    for (int i = 0; i < kHeads; ++i) {
      if (i % 2 == 0) bases->k[i] = shuffling_basis(kDim);
      if (i < 2) bases->v[i] = shuffling_basis(kDim);
    }
    spec.basis = bases;
  }
  return spec;
}

// One store and what it must hold.
struct Life {
  std::unique_ptr<KvStore> store;
  std::vector<ModelHead> heads;
  int next_position = 0;
};

class World {
 public:
  explicit World(uint64_t seed) : random_(seed), spec_(random_spec(random_)) {
    if (random_.below(2)) summary_ = &sums_;
    lives_.push_back(
        {std::make_unique<KvStore>(kShape, spec_, pool_), std::vector<ModelHead>(kHeads), 0});
  }

  void act(int what) {
    Life& life = lives_[random_.below(lives_.size())];
    switch (what % 10) {
      case 0:
      case 1:
        prompt_layer(life);
        break;
      case 2:
      case 3:
        step(life);
        break;
      case 4:
        reduce(life);
        break;
      case 5:
        fork(life);
        break;
      case 6:
        end();
        break;
      case 7:
        mark(life);
        break;
      case 8:
        rewind(life);
        break;
      case 9:
        shed(life);
        break;
      default:
        break;
    }
    check();
  }

  void finish() {
    lives_.clear();
    RC_ASSERT(pool_.used_bytes() == 0u);
  }

 private:
  // Leaves exactly `bytes` free while `change` runs.
  template <class Change>
  void with_free(size_t bytes, const Change& change) {
    RC_ASSERT(bytes <= pool_.free_bytes());
    const size_t filler = pool_.free_bytes() - bytes;
    pool_.charge(filler, MemoryClass::prompt);
    change();
    pool_.refund(filler, MemoryClass::prompt);
  }

  int id() { return next_id_++; }

  std::vector<int32_t> some_of(int rows) {
    std::vector<int32_t> kept;
    const uint64_t way = random_.below(5), density = random_.below(10);
    const int page = spec_.page_rows;
    const int from = rows ? static_cast<int>(random_.below(rows)) : 0;
    for (int r = 0; r < rows; ++r) {
      const bool keep = way == 0   ? random_.below(10) < density  // here and there
                        : way == 1 ? r < from                     // the oldest
                        : way == 2 ? r >= from                    // the newest
                        : way == 3 ? r / page != from / page      // all but one page
                                   : r != from;                   // all but one row
      if (keep) kept.push_back(r);
    }
    return kept;
  }

  std::vector<PseudoRow> some_pseudo() {
    std::vector<PseudoRow> rows(random_.below(3));
    for (PseudoRow& row : rows)
      row = {exact_row(id(), kDim), exact_row(id(), kDim), 1.0f + static_cast<float>(id() % 5)};
    return rows;
  }

  void seal(Life& life) {
    life.store->seal(summary_);
    for (ModelHead& head : life.heads) head.seal(spec_.page_rows, spec_.tail_rows);
  }

  void prompt_layer(Life& life) {
    const int rows = static_cast<int>(random_.below(4 * spec_.page_rows + 1));
    const int layer = static_cast<int>(random_.below(kShape.layers));
    with_free(life.store->bytes_for_layer(rows, summary_), [&] {
      for (int h = 0; h < kShape.heads; ++h) {
        const bool scored = random_.below(2);
        std::vector<float> k, v, scores;
        std::vector<int32_t> positions;
        std::vector<ModelHead::Row> given;
        for (int r = 0; r < rows; ++r) {
          const int row = id();
          given.push_back({life.next_position + r, scored ? static_cast<float>(row) : 0.0f,
                           exact_row(row, kDim), exact_row(row + 500, kDim)});
          k.insert(k.end(), given[r].k.begin(), given[r].k.end());
          k.push_back(1e9f);  // rows lie apart
          v.insert(v.end(), given[r].v.begin(), given[r].v.end());
          positions.push_back(given[r].position);
          if (scored) scores.push_back(given[r].score);
        }
        const HeadPlan plan{random_.below(3) ? some_of(rows) : std::vector<int32_t>{},
                            some_pseudo()};
        life.store->at(layer, h).write({k.data(), {rows, kDim}, {kDim + 1, 1}},
                                       {v.data(), {rows, kDim}, {kDim, 1}}, positions, scores,
                                       plan);
        ModelHead& head = life.heads[layer * kShape.heads + h];
        for (const int32_t r : plan.keep) head.rows.push_back(given[r]);
        head.pseudo.insert(head.pseudo.end(), plan.pseudo.begin(), plan.pseudo.end());
      }
      if (random_.below(3) == 0) seal(life);
    });
    life.next_position += rows;
  }

  void step(Life& life) {
    with_free(life.store->bytes_for_step(summary_), [&] {
      for (int i = 0; i < kHeads; ++i) {
        const int row = id();
        const std::vector<float> k = exact_row(row, kDim), v = exact_row(row + 500, kDim);
        life.store->at(i / kShape.heads, i % kShape.heads).append(k, v, life.next_position);
        std::vector<ModelHead::Row>& rows = life.heads[i].rows;
        const bool none = std::ranges::all_of(
            rows, [](const ModelHead::Row& r) { return r.score == kForgotten; });
        rows.push_back({life.next_position, none && !spec_.keeps_scores ? kForgotten : 0, k, v});
      }
      if (random_.below(4)) seal(life);
    });
    ++life.next_position;
  }

  void reduce(Life& life) {
    with_free(life.store->bytes_for_apply(), [&] {
      for (int i = 0; i < kHeads; ++i) {
        if (random_.below(3) == 0) continue;
        HeadCache& cache = life.store->at(i / kShape.heads, i % kShape.heads);
        ModelHead& head = life.heads[i];
        const HeadPlan plan{some_of(cache.rows()), some_pseudo()};
        const int recoded = cache.apply(plan);
        RC_ASSERT(recoded == expected_recoded(i, head.keep(plan.keep, spec_.page_rows)));
        head.pseudo = plan.pseudo;
        if (random_.below(3) == 0) repack(cache, head);
      }
    });
  }

  // With nothing free: as many rows of those that no fork shares as fill pages, or all.
  void shed(Life& life) {
    with_free(0, [&] {
      for (int i = 0; i < kHeads; ++i) {
        if (random_.below(3) == 0) continue;
        HeadCache& cache = life.store->at(i / kShape.heads, i % kShape.heads);
        ModelHead& head = life.heads[i];
        const int rows = cache.rows(), shared = cache.shared_rows(), page = spec_.page_rows;
        std::vector<int32_t> keep;
        for (const int32_t row : some_of(rows))
          if (row >= shared) keep.push_back(row);
        std::vector<int32_t> first(static_cast<size_t>(shared));
        std::iota(first.begin(), first.end(), 0);
        keep.insert(keep.begin(), first.begin(), first.end());
        if (static_cast<int>(keep.size()) < rows)
          keep.resize(keep.size() - std::min(keep.size() % page, keep.size() - shared));
        if (static_cast<int>(keep.size()) < rows && keep.size() % page != 0) continue;
        const auto kept = static_cast<int>(keep.size()), sealed = head.sealed;
        int sealed_kept = 0;
        for (const int32_t row : keep) sealed_kept += row < sealed;
        cache.shed(keep);
        head.keep(keep, page);
        if (kept == rows) continue;
        head.sealed = (sealed_kept + page - 1) / page * page;
        if (kept > spec_.tail_rows)
          head.sealed = std::max(head.sealed, (kept - spec_.tail_rows) / page * page);
        head.sealed = std::min(head.sealed, sealed);
      }
    });
  }

  // A side whose pages only move between open and sealed never codes anything again.
  int expected_recoded(int head, int rows) const {
    const auto moves = [&](Quant quant, const std::vector<Basis>* bases) {
      return quant == spec_.open && (bases == nullptr || (*bases)[head].rank == 0);
    };
    const BasisTable* b = spec_.basis.get();
    return moves(spec_.k, b ? &b->k : nullptr) && moves(spec_.v, b ? &b->v : nullptr) ? 0 : rows;
  }

  // Turns are modelled by negation of all channels, once per step: exact, and its own inverse.
  void repack(HeadCache& cache, ModelHead& head) {
    std::vector<int32_t> positions;
    const int rows = cache.rows();
    for (int r = 0; r < rows; ++r) positions.push_back(head.rows.back().position - (rows - 1 - r));
    cache.repack(positions, [](Mat keys, std::span<const int32_t> by) {
      for (size_t r = 0; r < by.size(); ++r)
        for (float& x : keys.row(static_cast<int64_t>(r)))
          if (by[r] % 2 != 0) x = -x;
    });
    for (int r = 0; r < rows; ++r) {
      if ((positions[r] - head.rows[r].position) % 2 != 0)
        for (float& x : head.rows[r].k) x = -x;
      head.rows[r].position = positions[r];
    }
  }

  void fork(const Life& life) {
    if (lives_.size() >= 4) return;
    std::unique_ptr<KvStore> store;
    with_free(life.store->bytes_for_fork(), [&] { store = life.store->fork(); });
    Life copy{std::move(store), life.heads, life.next_position};
    lives_.push_back(std::move(copy));
  }

  void end() {
    if (lives_.size() > 1)
      lives_.erase(lives_.begin() + static_cast<long>(random_.below(lives_.size())));
  }

  void mark(Life& life) {
    with_free(0, [&] {
      life.store->forget_scores();
      life.store->mark();
    });
    for (ModelHead& head : life.heads) {
      for (ModelHead::Row& row : head.rows)
        if (!spec_.keeps_scores) row.score = kForgotten;
      head.mark();
    }
  }

  void rewind(Life& life) {
    with_free(life.store->bytes_for_apply(), [&] { life.store->rewind(); });
    for (ModelHead& head : life.heads) head.rewind(spec_.page_rows);
  }

  void check() {
    size_t used = 0, pages = 0;
    int64_t rows = 0;
    for (const Life& life : lives_) {
      for (int i = 0; i < kHeads; ++i) {
        const HeadCache& cache = life.store->at(i / kShape.heads, i % kShape.heads);
        check(cache, life.heads[i]);
        rows += cache.rows();
        pages += 2 * static_cast<size_t>((cache.rows() + spec_.page_rows - 1) / spec_.page_rows);
      }
      const CacheBytes bytes = life.store->bytes();
      used += bytes.total();
    }
    int64_t counted = 0;
    for (const Life& life : lives_) counted += life.store->rows();
    RC_ASSERT(counted == rows);
    // Shares are rounded up, by less than a byte per owner.
    RC_ASSERT(used >= pool_.used_bytes());
    RC_ASSERT(used - pool_.used_bytes() <= (lives_.size() > 1 ? pages : 0));
    size_t classes = 0;
    for (int c = 0; c < kMemoryClasses; ++c)
      classes += pool_.used_bytes(static_cast<MemoryClass>(c));
    RC_ASSERT(classes == pool_.used_bytes());
  }

  void check(const HeadCache& cache, const ModelHead& head) {
    RC_ASSERT(cache.rows() == static_cast<int>(head.rows.size()));
    RC_ASSERT(cache.sealed_rows() == head.sealed);
    const PagedHead paged = cache.paged({});
    RC_ASSERT(paged.rows() == cache.rows());
    const PlainRows read = read_paged(paged, kDim);
    std::vector<float> k_scratch, v_scratch;
    const ConstMat k = cache.keys(k_scratch), v = cache.values(v_scratch);
    for (int r = 0; r < cache.rows(); ++r) {
      RC_ASSERT(cache.positions()[r] == head.rows[r].position);
      RC_ASSERT(read.positions[r] == head.rows[r].position);
      if (r < cache.unscored_rows())
        RC_ASSERT(head.rows[r].score == kForgotten);
      else
        RC_ASSERT(cache.scores_from(r)[0] == head.rows[r].score);
      RC_ASSERT(read.k[r] == head.rows[r].k);
      RC_ASSERT(read.v[r] == head.rows[r].v);
      RC_ASSERT(std::ranges::equal(k.row(r), head.rows[r].k));
      RC_ASSERT(std::ranges::equal(v.row(r), head.rows[r].v));
    }
    RC_ASSERT(cache.pseudo().size() == head.pseudo.size());
    for (size_t i = 0; i < head.pseudo.size(); ++i) {
      RC_ASSERT(std::ranges::equal(paged.pseudo_k.row(static_cast<int64_t>(i)), head.pseudo[i].k));
      RC_ASSERT(std::ranges::equal(paged.pseudo_v.row(static_cast<int64_t>(i)), head.pseudo[i].v));
      RC_ASSERT(cache.pseudo()[i].weight == head.pseudo[i].weight);
    }
    if (summary_ == nullptr || head.sealed == 0) return;
    const ConstMat sums = cache.summaries();
    RC_ASSERT(sums.dim[0] == head.sealed / spec_.page_rows);
    for (int d = 0; d < kDim; ++d)
      for (int p = 0; p < sums.dim[0]; ++p) {
        float sum = 0;
        for (int r = p * spec_.page_rows; r < (p + 1) * spec_.page_rows; ++r)
          sum += head.rows[r].k[d];
        RC_ASSERT(sums.row(p)[d] == sum);
      }
  }

  Random random_;
  StoreSpec spec_;
  KeySums sums_;
  const PageSummary* summary_ = nullptr;
  PagePool pool_{size_t{1} << 30};
  std::vector<Life> lives_;
  int next_id_ = 0;
};

RC_GTEST_PROP(KvStoreModel, AnyLifeOfAStoreAndItsForksHoldsWhatListsOfRowsHold,
              (uint64_t seed, const std::vector<uint8_t>& acts)) {
  World world(seed);
  for (const uint8_t what : acts) world.act(what);
  world.finish();
}

}  // namespace
}  // namespace pith::test

#include "runtime/squeeze.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>
#include <utility>

#include "policy/select.h"

namespace pith {
namespace {

constexpr int kRowsAtOnce = 256;  // that are decoded to see their norms
// A squeeze frees at least this share of the limit, since looking at all rows costs the same
// however little is wanted.
constexpr size_t kLeastShare = 32;

// There is little memory when these are made, so nothing is remembered per row: what a head's rows
// are worth is looked up one head at a time, once to price its blocks and again when some go.
struct Head {
  const Session* session = nullptr;
  HeadCache* cache = nullptr;
  int index = 0;              // of the session
  int first = 0, newest = 0;  // rows that stay at the beginning and at the end
  int gone = 0, going = 0;    // rows that went, and the cheapest of the rest that go now
  size_t page_bytes = 0,
         last_bytes = 0;  // that a block frees, about; and the block of the last page

  int page_rows() const { return session->policy->store.page_rows; }
  int pages() const { return (cache->rows() + page_rows() - 1) / page_rows(); }
};

struct Block {
  float price = 0;
  int32_t head = 0, rows = 0;  // of the head that are gone with this block
};

bool may_lose_rows(const Session& session) {
  const StoreSpec& store = session.policy->store;
  return !session.prefill && !store.repack_positions && !store.keeps_dropped && store.tiers.empty();
}

bool keeps_scores(const Policy& policy) {
  return policy.reduce_every > 0 && policy.scorer && policy.scorer->scores_steps();
}

std::vector<float> relevance(const Session& session, const HeadCache& cache) {
  std::vector<float> of(static_cast<size_t>(cache.rows()));
  if (keeps_scores(*session.policy)) {
    std::ranges::transform(cache.scores(), of.begin(),
                           [](float x) { return std::isnan(x) ? 0.0f : std::max(0.0f, x); });
    return of;
  }
  const auto dim = static_cast<size_t>(session.store->shape().dim);
  std::vector<float> k(kRowsAtOnce * dim), v(k.size());
  for (int first = 0; first < cache.rows(); first += kRowsAtOnce) {
    const int count = std::min(kRowsAtOnce, cache.rows() - first);
    cache.copy_keys(first, count, k.data());
    cache.copy_values(first, count, v.data());
    for (size_t r = 0; r < static_cast<size_t>(count); ++r) {
      const auto ratio = static_cast<float>(value_per_key({&v[r * dim], dim}, {&k[r * dim], dim}));
      of[static_cast<size_t>(first) + r] = std::isfinite(ratio) ? ratio : 0;
    }
  }
  return of;
}

// The rows of the head that may go.
std::span<float> contested(const Head& head, std::span<float> rows) {
  return rows.subspan(static_cast<size_t>(head.first),
                      rows.size() - static_cast<size_t>(head.first + head.newest));
}

void find_bytes(Head& head) {
  const CacheBytes bytes = head.cache->bytes();
  const auto sealed = static_cast<size_t>(head.cache->sealed_rows() / head.page_rows());
  const size_t open = static_cast<size_t>(head.pages()) - sealed;
  head.page_bytes = sealed > 0 ? bytes.sealed / sealed : bytes.open / open;
  head.last_bytes = open > 0 ? bytes.open / open : head.page_bytes;
}

// Appends the heads of a session that can lose rows, and their blocks.
void collect(Session& session, int index, const SqueezeRule& rule, std::vector<Head>& heads,
             std::vector<Block>& blocks) {
  const KvShape& shape = session.store->shape();
  const Protect& protect = session.policy->protect;
  const size_t first_block = blocks.size();
  double sum = 0;
  int64_t rows = 0;
  for (int i = 0; i < shape.layers * shape.heads; ++i) {
    HeadCache& cache = session.store->at(i / shape.heads, i % shape.heads);
    Head head{.session = &session, .cache = &cache, .index = index};
    head.first = std::max({rule.sinks, protect.sink, cache.shared_rows()});
    head.newest = std::max({1, rule.recent, protect.recent});
    if (cache.rows() <= head.first + head.newest) continue;
    find_bytes(head);
    std::vector<float> matters = relevance(session, cache);
    sum = std::accumulate(matters.begin(), matters.end(), sum);
    rows += cache.rows();

    const std::span<float> sorted = contested(head, matters);
    std::ranges::sort(sorted);
    // The last page goes with the rows that are in it, the others with a page of rows each.
    int going = cache.rows() - (head.pages() - 1) * head.page_rows();
    for (; going <= static_cast<int>(sorted.size()); going += head.page_rows())
      blocks.push_back({.price = sorted[static_cast<size_t>(going) - 1],
                        .head = static_cast<int32_t>(heads.size()),
                        .rows = going});
    heads.push_back(head);
  }
  const auto mean = static_cast<float>(rows > 0 ? sum / static_cast<double>(rows) : 0);
  for (size_t b = first_block; mean > 0 && b < blocks.size(); ++b) blocks[b].price /= mean;
}

// Drops the `going` rows of the head that matter least, the older of equal ones.
void drop(Head& head) {
  HeadCache& cache = *head.cache;
  const std::vector<float> matters = relevance(*head.session, cache);
  float dearest = 0;
  int of_dearest = head.going;  // rows that matter as much, and go
  {
    std::vector<float> order = matters;
    const std::span<float> rows = contested(head, order);
    const auto last = rows.begin() + head.going - 1;
    std::ranges::nth_element(rows, last);
    dearest = *last;
    for (auto row = rows.begin(); row != last; ++row) of_dearest -= *row < dearest;
  }
  std::vector<int32_t> keep;
  keep.reserve(matters.size() - static_cast<size_t>(head.going));
  for (int32_t row = 0; row < cache.rows(); ++row) {
    const float price = matters[static_cast<size_t>(row)];
    if (row >= head.first && row < cache.rows() - head.newest &&
        (price < dearest || (price == dearest && of_dearest-- > 0)))
      continue;
    keep.push_back(row);
  }
  cache.shed(keep);
  head.gone += std::exchange(head.going, 0);
}

}  // namespace

Squeezed squeeze(std::span<Session* const> sessions, size_t bytes, const SqueezeRule& rule) {
  Squeezed done;
  done.rows.resize(sessions.size());
  done.pages.resize(sessions.size());
  if (sessions.empty() || bytes == 0) return done;
  const PagePool& pool = sessions[0]->pool;
  std::vector<Head> heads;
  std::vector<Block> blocks;
  size_t most_blocks = 0;
  for (const Session* session : sessions)
    if (may_lose_rows(*session))
      most_blocks += static_cast<size_t>(session->store->rows()) /
                         static_cast<size_t>(session->policy->store.page_rows) +
                     static_cast<size_t>(session->store->shape().layers) *
                         static_cast<size_t>(session->store->shape().heads);
  blocks.reserve(most_blocks);
  for (size_t s = 0; s < sessions.size(); ++s)
    if (may_lose_rows(*sessions[s]))
      collect(*sessions[s], static_cast<int>(s), rule, heads, blocks);
  std::ranges::sort(blocks, {}, [](const Block& block) {
    return std::tuple(block.price, block.head, block.rows);
  });

  const size_t before = pool.used_bytes();
  const auto freed = [&] { return before > pool.used_bytes() ? before - pool.used_bytes() : 0; };
  // What a block frees is an estimate, so blocks go in rounds.
  for (size_t next = 0; next < blocks.size() && freed() < bytes;) {
    const size_t missing = bytes - freed();
    std::vector<int32_t> touched;
    for (size_t expected = 0; next < blocks.size() && expected < missing; ++next) {
      Head& head = heads[static_cast<size_t>(blocks[next].head)];
      const size_t frees = head.gone + head.going == 0 ? head.last_bytes : head.page_bytes;
      expected += std::max<size_t>(1, frees);
      if (head.going == 0) touched.push_back(blocks[next].head);
      head.going = blocks[next].rows - head.gone;
    }
    for (const int32_t t : touched) {
      Head& head = heads[static_cast<size_t>(t)];
      const auto s = static_cast<size_t>(head.index);
      const int pages = head.pages();
      done.rows[s] += head.going;
      drop(head);
      done.pages[s] += 2 * (pages - head.pages());
    }
  }
  done.bytes = freed();
  return done;
}

Squeezed squeeze_until_free(std::span<Session* const> sessions, size_t bytes,
                            const SqueezeRule& rule) {
  if (sessions.empty()) return {};
  const PagePool& pool = sessions[0]->pool;
  const size_t free = pool.free_bytes();
  const size_t missing = bytes > free ? bytes - free : 0;
  const size_t wanted = missing > 0 ? std::max(missing, pool.limit_bytes() / kLeastShare) : 0;
  return squeeze(sessions, wanted, rule);
}

}  // namespace pith

#include "runtime/squeeze.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "policy/select.h"

namespace pith {
namespace {

constexpr int kRowsAtOnce = 256;  // that are decoded to see their norms

struct Head {
  HeadCache* cache = nullptr;
  int session = 0, page_rows = 1;
  std::vector<int32_t> order;  // rows that may go, the least relevant first
  size_t gone = 0, going = 0;  // rows that went before `order`, and the first of it that go now
  size_t page_bytes = 0;       // that a block frees, about
};

struct Block {
  double price = 0;
  int32_t head = 0;
  size_t rows = 0;  // of the head that are gone with this block
};

bool may_lose_rows(const Session& session) {
  const StoreSpec& store = session.policy->store;
  return !session.prefill && !store.repack_positions && !store.keeps_dropped && store.tiers.empty();
}

bool keeps_scores(const Policy& policy) {
  return policy.reduce_every > 0 && policy.scorer && policy.scorer->scores_steps();
}

std::vector<double> relevance(const Session& session, const HeadCache& cache) {
  std::vector<double> of(static_cast<size_t>(cache.rows()));
  if (keeps_scores(*session.policy)) {
    std::ranges::transform(cache.scores(), of.begin(),
                           [](float x) { return std::isnan(x) ? 0.0 : std::max(0.0f, x); });
    return of;
  }
  const auto dim = static_cast<size_t>(session.store->shape().dim);
  std::vector<float> k(kRowsAtOnce * dim), v(k.size());
  for (int first = 0; first < cache.rows(); first += kRowsAtOnce) {
    const int count = std::min(kRowsAtOnce, cache.rows() - first);
    cache.copy_keys(first, count, k.data());
    cache.copy_values(first, count, v.data());
    for (size_t r = 0; r < static_cast<size_t>(count); ++r) {
      const double ratio = value_per_key({&v[r * dim], dim}, {&k[r * dim], dim});
      of[static_cast<size_t>(first) + r] = std::isfinite(ratio) ? ratio : 0;
    }
  }
  return of;
}

// Appends the heads of a session that can lose rows, and their blocks.
void collect(Session& session, int index, const SqueezeRule& rule, std::vector<Head>& heads,
             std::vector<Block>& blocks) {
  const KvShape& shape = session.store->shape();
  const Protect& protect = session.policy->protect;
  const size_t first_block = blocks.size();
  double sum = 0;
  int64_t rows = 0;
  for (int l = 0; l < shape.layers; ++l)
    for (int h = 0; h < shape.heads; ++h) {
      HeadCache& cache = session.store->at(l, h);
      const int sinks = std::max(rule.sinks, protect.sink);
      const int last = cache.rows() - std::max({1, rule.recent, protect.recent});
      if (last <= sinks) continue;
      const std::vector<double> matters = relevance(session, cache);
      sum = std::accumulate(matters.begin(), matters.end(), sum);
      rows += cache.rows();

      Head head;
      head.cache = &cache;
      head.session = index;
      head.page_rows = session.policy->store.page_rows;
      head.order.resize(static_cast<size_t>(last - sinks));
      std::iota(head.order.begin(), head.order.end(), sinks);
      std::ranges::stable_sort(head.order, {},
                               [&](int32_t row) { return matters[static_cast<size_t>(row)]; });
      const int pages = (cache.rows() + head.page_rows - 1) / head.page_rows;
      const CacheBytes bytes = cache.bytes();
      head.page_bytes = (bytes.sealed + bytes.open) / static_cast<size_t>(pages);
      // The last page goes with the rows that are in it, the others with a page of rows each.
      size_t going = static_cast<size_t>(cache.rows() - (pages - 1) * head.page_rows);
      for (; going <= head.order.size(); going += static_cast<size_t>(head.page_rows))
        blocks.push_back({.price = matters[static_cast<size_t>(head.order[going - 1])],
                          .head = static_cast<int32_t>(heads.size()),
                          .rows = going});
      heads.push_back(std::move(head));
    }
  const double mean = rows > 0 ? sum / static_cast<double>(rows) : 0;
  for (size_t b = first_block; mean > 0 && b < blocks.size(); ++b) blocks[b].price /= mean;
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
  for (size_t s = 0; s < sessions.size(); ++s)
    if (may_lose_rows(*sessions[s]))
      collect(*sessions[s], static_cast<int>(s), rule, heads, blocks);
  std::ranges::stable_sort(blocks, {}, &Block::price);

  const size_t before = pool.used_bytes();
  const auto freed = [&] { return before > pool.used_bytes() ? before - pool.used_bytes() : 0; };
  // What a block frees is an estimate (pages may be shared or coded anew), so blocks go in rounds.
  for (size_t next = 0; next < blocks.size() && freed() < bytes;) {
    const size_t missing = bytes - freed();
    std::vector<int32_t> touched;
    for (size_t expected = 0; next < blocks.size() && expected < missing; ++next) {
      Head& head = heads[static_cast<size_t>(blocks[next].head)];
      head.going = std::max(head.going, blocks[next].rows - head.gone);
      expected += std::max<size_t>(1, head.page_bytes);
      touched.push_back(blocks[next].head);
    }
    std::ranges::sort(touched);
    touched.erase(std::unique(touched.begin(), touched.end()), touched.end());
    for (const int32_t t : touched) {
      Head& head = heads[static_cast<size_t>(t)];
      HeadCache& cache = *head.cache;
      if (cache.bytes_for_apply() > pool.free_bytes()) {
        head.going = 0;
        continue;
      }
      std::vector<bool> goes(static_cast<size_t>(cache.rows()));
      for (size_t i = 0; i < head.going; ++i) goes[static_cast<size_t>(head.order[i])] = true;
      HeadPlan plan;
      plan.pseudo.assign(cache.pseudo().begin(), cache.pseudo().end());
      std::vector<int32_t> moved(goes.size(), -1);
      for (int32_t row = 0; row < cache.rows(); ++row) {
        if (goes[static_cast<size_t>(row)]) continue;
        moved[static_cast<size_t>(row)] = static_cast<int32_t>(plan.keep.size());
        plan.keep.push_back(row);
      }
      const auto pages = [&] { return (cache.rows() + head.page_rows - 1) / head.page_rows; };
      const int before_pages = pages();
      cache.apply(plan);
      done.pages[static_cast<size_t>(head.session)] += 2 * (before_pages - pages());
      done.rows[static_cast<size_t>(head.session)] += static_cast<int64_t>(head.going);
      head.order.erase(head.order.begin(), head.order.begin() + static_cast<int64_t>(head.going));
      for (int32_t& row : head.order) row = moved[static_cast<size_t>(row)];
      head.gone += std::exchange(head.going, 0);
    }
  }
  done.bytes = freed();
  return done;
}

}  // namespace pith

// Where a session stands: what its file holds, where it begins behind the rows of others, and which
// position comes next.
#include <algorithm>
#include <utility>

#include "base/error.h"
#include "policy/compressor.h"

namespace pith {

void Compressor::share_rows(const KvStore& pages, int rows) {
  PITH_CHECK(policy_.keeps_all() && store_.rows() == 0 && store_.shape().windows.empty(),
             "only rows that stay are shared, and only at the start of a session");
  prompt_.shared = &pages;
  prompt_.shared_rows = rows;
}

Compressor::State Compressor::state() const {
  return {table_.rows, prompt_tokens_, tokens_, shift_, steps_, stats_};
}

void Compressor::restore(const State& state, Backend& ops, std::span<const Rope> ropes) {
  PITH_CHECK(state.budgets.size() == table_.rows.size(), "every head has a budget");
  table_.rows = state.budgets;
  prompt_tokens_ = state.prompt_tokens;
  tokens_ = state.tokens;
  shift_ = state.shift;
  steps_ = state.steps;
  stats_ = state.stats;
  ops_ = &ops;
  ropes_.assign(ropes.begin(), ropes.end());
  for (Rope& rope : ropes_) rope.magnitude = 1;  // stored keys have it already
}

int Compressor::query_position(int tokens_seen) const {
  if (!policy_.store.repack_positions) return static_cast<int>(tokens_seen - shift_);
  int rows = 0;
  for (int l = 0; l < store_.shape().layers; ++l)
    for (int h = 0; h < store_.shape().heads; ++h)
      rows = std::max(rows, std::as_const(store_).at(l, h).rows());
  return rows;
}

}  // namespace pith

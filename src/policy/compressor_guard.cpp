// The guard's part of the compressor: see policy/guard.h.
#include <algorithm>
#include <memory>
#include <numeric>
#include <utility>

#include "base/parallel.h"
#include "policy/compressor.h"
#include "policy/guard.h"

namespace pith {

void Compressor::become(Compressor&& other) noexcept {
  std::destroy_at(this);
  std::construct_at(this, std::move(other));
}

// Every head that holds less than its floor gets the rows it lacks, as far as memory allows.
void Compressor::guard_heads(const LayerTap& tap, ConstMat scores, ConstMat mass, int hidden) {
  const Guard& guard = *policy_.guard;
  const KvShape& shape = tap.shape;
  const size_t heads = static_cast<size_t>(shape.heads);
  if (prompt_.least.empty()) prompt_.least.assign(static_cast<size_t>(shape.layers) * heads, 0);
  const int rows = static_cast<int>(scores.dim[1]) - hidden;
  Protect protect = protect_now();
  protect.sink = std::max(0, protect.sink - hidden);
  if (protect.rows() > rows) protect = {0, rows, 0};
  const auto visible = [&](ConstMat of, int head) {
    return of.row(head).subspan(static_cast<size_t>(hidden));
  };

  std::vector<int> needed(heads);
  tap.ops.threads().for_each(shape.heads, [&](int64_t h, int) {
    const int head = static_cast<int>(h);
    needed[static_cast<size_t>(h)] = rows_for_share(visible(scores, head), visible(mass, head),
                                                    guard.floor(shape, tap.layer, head), protect);
  });
  hold_least(tap.layer - 1);  // what the budget takes back from layers below
  // What is left of the memory of the layers so far.
  int64_t left = INT64_MAX;
  if (guard.most_rows > 0) {
    left = int64_t{guard.most_rows} * shape.heads * (tap.layer + 1);
    for (int l = 0; l <= tap.layer; ++l)
      for (int h = 0; h < shape.heads; ++h)
        left -= l < tap.layer ? std::as_const(store_).at(l, h).rows()
                              : std::min(rows, prompt_.table.at(l, h));
    left = std::max<int64_t>(0, left);
  }
  for (int h = 0; h < shape.heads; ++h) {
    const size_t at = static_cast<size_t>(h);
    int& given = prompt_.table.at(tap.layer, h);
    int& least = prompt_.least[static_cast<size_t>(tap.layer) * heads + at];
    const int has = std::min(rows, given);
    least = needed[at];
    if (needed[at] > has) {
      const int more = static_cast<int>(std::min<int64_t>(needed[at] - has, left));
      least = given = has + more;
      left -= more;
      prompt_.stats.rows_guarded += more;
      prompt_.stats.heads_short += least < needed[at];
    }
    const std::span<const float> own = visible(mass, h);
    const double all = std::accumulate(own.begin(), own.end(), 0.0);
    prompt_.stats.mass_seen += all;
    prompt_.stats.mass_kept +=
        all * share_of_rows(visible(scores, h), own, std::max(given, protect.rows()), protect);
  }
}

void Compressor::hold_least(int newest_layer) {
  for (int l = 0; l <= newest_layer; ++l)
    for (int h = 0; h < store_.shape().heads; ++h) {
      const size_t at = static_cast<size_t>(l) * static_cast<size_t>(store_.shape().heads) +
                        static_cast<size_t>(h);
      prompt_.table.at(l, h) = std::max(prompt_.table.at(l, h), prompt_.least[at]);
    }
}

// If too much attention goes to tokens that would be left behind, none are.
void Compressor::guard_tokens(const LayerTap& tap, ConstMat mass, StreamPlan& next) {
  if (next.rows.empty() || next.restart || next.renumber) return;
  double all = 0, held = 0;
  for (int h = 0; h < tap.shape.heads; ++h) {
    for (const float m : mass.row(h)) all += m;
    for (const int32_t row : next.rows) held += mass.row(h)[static_cast<size_t>(row)];
  }
  if (held >= all * policy_.guard->travel_floor(tap.shape, tap.layer)) return;
  prompt_.stats.tokens_guarded += mass.dim[1] - static_cast<int64_t>(next.rows.size());
  next.rows.clear();
}

}  // namespace pith

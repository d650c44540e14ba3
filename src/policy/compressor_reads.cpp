// What of a layer a prompt reads, what a probe's passes look at, and which tokens a generated one
// calls back.
#include <algorithm>

#include "base/error.h"
#include "base/parallel.h"
#include "policy/compressor.h"
#include "policy/select.h"
#include "policy/timer.h"

namespace pith {

void Compressor::plan_reads(const TileTap& tap, ReadPlan& plan) const {
  plan.clear();
  if (!policy_.tile_reader || prompt_.whole || policy_.tile_reader->reads_all(tap.layer)) return;
  plan.begin(tap.shape.heads, static_cast<int64_t>(tap.positions.size()));
  policy_.tile_reader->choose(tap, plan);
}

// Gathers the stored rows that the probe looks at, in front of the keys of its own rows.
void Compressor::probe_layer(const ProbeLayer& p) {
  const Timer timer(prompt_.stats.prompt_seconds);
  const KvStore& store = store_;
  const auto row_at = [&](int head, int32_t position) {
    const std::span<const int32_t> all = store.at(p.layer, head).positions();
    return static_cast<int>(std::ranges::lower_bound(all, position) - all.begin());
  };
  // Nothing of this prompt has left a head, so all heads hold the same rows of it.
  const int32_t begin = prompt_.first_position + p.run.first,
                end = prompt_.first_position + p.run.last;
  const int scored = row_at(0, end) - row_at(0, begin);
  int sinks = p.run.sinks;
  for (int h = 0; h < p.shape.heads; ++h) {
    PITH_CHECK(row_at(h, end) - row_at(h, begin) == scored, "a probe finds every row");
    sinks = std::min(sinks, row_at(h, std::min<int32_t>(p.run.sinks, begin)));
  }
  if (scored == 0) return;  // a sliding window has left them behind

  const int stored = sinks + scored, rows = static_cast<int>(p.positions.size());
  const int64_t unused = p.k.dim[1] - rows - stored;
  PITH_CHECK(unused >= 0 && p.scores.dim[1] >= scored, "there is room for the stored rows");
  Cube k = p.k, v = p.v;
  k.data += unused * k.stride[1];
  k.dim[1] -= unused;
  v.dim[1] = v.data ? scored : 0;
  Mat scores = p.scores;
  scores.dim[1] = scored;
  p.ops.threads().for_each(p.shape.heads, [&](int64_t head, int) {
    const HeadCache& cache = store.at(p.layer, static_cast<int>(head));
    const int first = row_at(static_cast<int>(head), begin);
    cache.copy_keys(0, sinks, k[head].data);
    cache.copy_keys(first, scored, k[head].row(sinks).data());
    if (v.data) cache.copy_values(first, scored, v[head].data);
    std::ranges::fill(scores.row(head), 0.0f);
  });
  std::vector<int32_t> positions;
  const std::span<const int32_t> held = store.at(p.layer, 0).positions();
  positions.insert(positions.end(), held.begin(), held.begin() + sinks);
  const auto first = held.begin() + row_at(0, begin);
  positions.insert(positions.end(), first, first + scored);
  positions.insert(positions.end(), p.positions.begin(), p.positions.end());
  policy_.probe->score({.ops = p.ops,
                        .shape = p.shape,
                        .rule = p.rule,
                        .layer = p.layer,
                        .sinks = sinks,
                        .scored = scored,
                        .rows = rows,
                        .q = p.q,
                        .k = k,
                        .positions = positions,
                        .v = v,
                        .stream_norm = p.stream_norm,
                        .wo = p.wo},
                       scores);
  make_comparable(scores);
  for (int h = 0; h < p.shape.heads; ++h) {
    const std::span<float> lane = store_.at(p.layer, h).scores_from(row_at(h, begin));
    for (int r = 0; r < scored; ++r) lane[r] = std::max(lane[r], scores.row(h)[r]);
  }
}

size_t Compressor::bytes_for_layer(int rows) const {
  if (prompt_.shared)  // nothing leaves, so pages that are shared are not copied
    return store_.bytes_for_layer(rows, policy_.reader.get(), prompt_.shared_rows);
  return store_.bytes_for_layer(rows, policy_.reader.get()) + store_.bytes_for_apply();
}

size_t Compressor::bytes_for_step() const {
  const bool due = continuing() && (steps_ + 1) % policy_.reduce_every == 0;
  const bool shrinks = due || !store_.shape().windows.empty();
  if (policy_.store.keeps_dropped) return bytes_to_call_back();
  return store_.bytes_for_step(policy_.reader.get()) + (shrinks ? store_.bytes_for_apply() : 0);
}

// At most so many tokens may run through each layer beside a generated one: all that wait below it.
std::vector<int> Compressor::coming_rows() const {
  std::vector<int> coming;
  int below = 0;
  for (int l = 0; l < store_.shape().layers; ++l) {
    coming.push_back(below);
    if (calls_back(l)) below += store_.dropped(l).tokens();
  }
  return coming;
}

// The rows that may come, and what it takes to run them: see CalledBack in runtime/called_back.h.
size_t Compressor::bytes_to_call_back() const {
  const KvShape& shape = store_.shape();
  const std::vector<int> coming = coming_rows();
  size_t most = 0;
  for (int l = 0; l < shape.layers; ++l) {
    const auto rows = static_cast<size_t>(coming[static_cast<size_t>(l)]);
    size_t plain = 0;
    for (int h = 0; rows > 0 && h < shape.heads; ++h)
      plain += 2 * (static_cast<size_t>(store_.at(l, h).rows()) + rows) * shape.dim;
    most = std::max(most, rows * static_cast<size_t>(shape.width) + plain);
  }
  return store_.bytes_for_step(policy_.reader.get(), coming) + most * sizeof(float);
}

void Compressor::keep_dropped(const LayerTap& tap, std::span<const int32_t> travelling) {
  std::vector<int32_t> rows, positions;
  for (int32_t r = 0; const int32_t next : travelling) {
    for (; r < next; ++r) {
      rows.push_back(r);
      positions.push_back(tap.rows.positions[static_cast<size_t>(r)]);
    }
    ++r;
  }
  if (!rows.empty()) store_.dropped(tap.layer).add(tap.ops.to_host(tap.hidden), rows, positions);
}

std::vector<int32_t> Compressor::call_back(std::span<const StepTap> heads) const {
  std::vector<int32_t> back;
  const std::span<const int32_t> dropped = store_.dropped(heads[0].layer).positions();
  if (!dropped.empty())
    policy_.router->call_back(heads, static_cast<int>(tokens_ + 1), dropped, back);
  return back;
}

void Compressor::choose_pages(int layer, int head, ConstMat q, float scale,
                              std::vector<int32_t>& pages) {
  pages.clear();
  if (!policy_.reader || policy_.reader->reads_all(layer)) return;
  const HeadCache& cache = std::as_const(store_).at(layer, head);
  const ConstMat summaries = cache.summaries();
  if (summaries.dim[0] > 0)
    policy_.reader->choose(
        {.q = q, .summaries = summaries, .groups = cache.groups(), .scale = scale}, pages);
}

void Compressor::observe(std::span<const StepTap> heads) {
  if (!continuing()) return;  // nobody reads the lanes again
  std::vector<std::span<float>> lanes;
  lanes.reserve(heads.size());
  for (const StepTap& tap : heads) lanes.push_back(store_.at(tap.layer, tap.head).scores());
  policy_.scorer->score_layer_step(heads, lanes);
}

}  // namespace pith

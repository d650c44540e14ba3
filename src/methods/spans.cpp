// Spans per head (DuoAttention's deployment, arXiv:2410.10819): some heads need the whole text, the
// others only its first rows and the newest. Which ones do comes from a calibration file; the
// scores in it are those of KVzip's heads, found in minutes, where the paper trains a gate.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "policy/calibration.h"
#include "policy/defaults.h"
#include "policy/registry.h"

namespace pith {
namespace {

using Streaming = std::vector<uint8_t>;  // [layers * heads] 1: first and newest rows only

// Streaming heads are the lowest scores, `share` of the heads of layers without a sliding window.
Streaming choose_heads(std::span<const float> scores, const KvShape& shape, double share) {
  Streaming streaming(scores.size(), 0);
  std::vector<size_t> order;
  for (size_t i = 0; i < scores.size(); ++i)
    if (shape.window(static_cast<int>(i) / shape.heads) == 0) order.push_back(i);
  // Of equal scores the later layer's streams.
  std::ranges::sort(order, [&](size_t a, size_t b) {
    return scores[a] != scores[b] ? scores[a] < scores[b] : a > b;
  });
  order.resize(static_cast<size_t>(std::lround(share * static_cast<double>(order.size()))));
  for (const size_t head : order) streaming[head] = 1;
  return streaming;
}

class SpanReader final : public TileReader {
 public:
  SpanReader(Streaming streaming, int heads, Protect span)
      : streaming_(std::move(streaming)), heads_(heads), span_(span) {}

  bool looks() const override { return false; }

  bool reads_all(int layer) const override {
    const auto first = streaming_.begin() + static_cast<ptrdiff_t>(layer) * heads_;
    return std::none_of(first, first + heads_, [](uint8_t s) { return s != 0; });
  }

  // The rows that stay after the prompt, counted from each block of queries and rounded outwards to
  // whole blocks of keys.
  void choose(const TileTap& tap, ReadPlan& plan) const override {
    for (int64_t head = 0; head < plan.heads; ++head)
      for (int64_t block = 0; block < plan.blocks(); ++block) {
        const int64_t own = block * ReadPlan::kBlock;
        const int64_t end = std::min(plan.rows, own + ReadPlan::kBlock);
        const int64_t sinks = (span_.sink + kKeyBlock - 1) / kKeyBlock * kKeyBlock;
        const int64_t recent = std::max<int64_t>(0, own - span_.recent) / kKeyBlock * kKeyBlock;
        std::vector<RowRange>& ranges = plan.at(head, block);
        if (!streaming_[static_cast<size_t>(tap.layer * heads_ + head)] || recent <= sinks) {
          ranges = {{0, end}};
          continue;
        }
        if (sinks > 0) ranges.push_back({0, sinks});
        ranges.push_back({recent, end});
      }
  }

 private:
  Streaming streaming_;
  int heads_;
  Protect span_;
};

class SpanBudget final : public Budget {
 public:
  SpanBudget(Streaming streaming, Protect span) : streaming_(std::move(streaming)), span_(span) {}

  void assign(const ScoreBoard& board, BudgetTable& table) const override {
    for (size_t i = 0; i < table.rows.size(); ++i)
      table.rows[i] =
          streaming_[i] ? std::max(span_.rows(), board.protected_rows()) : BudgetTable::kAll;
  }

 private:
  Streaming streaming_;
  Protect span_;
};

void build_spans(Options& o, const KvShape& shape, Policy& p) {
  if (o.given("budget")) o.fail("takes no budget: 'sparsity', 'sink' and 'recent' say what stays");
  const double sparsity = o.ratio("sparsity", shape.group() > 1 ? 0.5 : 0.75,
                                  "share of the heads that keep first and newest rows only");
  protect_options(o, p, {.sink = 64, .recent = 256}, 1);
  p.reduce_every = o.count("reduce_every", 1, "generated tokens between reductions", 1);
  const size_t heads = static_cast<size_t>(shape.layers) * static_cast<size_t>(shape.heads);
  const std::span<const float> scores =
      o.calibration("calibration", "file that says how far each head looks", "pith calibrate spans")
          .tensor("spans.score", heads);
  const Streaming streaming = choose_heads(scores, shape, sparsity);
  const Protect span = p.protect;
  p.scorer = newest_first();
  p.budget = std::make_unique<SpanBudget>(streaming, span);
  p.tile_reader = std::make_unique<SpanReader>(streaming, shape.heads, span);
}

const RegisterMethod spans{{
    .name = "spans",
    .summary = "some heads keep everything, the others the first rows and the newest",
    .source = "arXiv:2410.10819 (DuoAttention), arXiv:2505.23416 (head scores)",
    .family = "selection: static pattern",
    .build = build_spans,
    .cost = "a prompt: streaming heads read sink + recent + 128 rows per query instead of all; "
            "a token: one row leaves each streaming head",
    .departures =
        {"Heads are told apart by the largest score that KVzip gives any of their rows, averaged "
         "over texts; the paper trains a gate per head for hours.",
         "Streaming heads read sinks and recent rows in every prompt, whatever its length, in "
         "blocks of 128 queries that see `recent` rows before the block and all of it; the paper's "
         "sight depends on the chunk that a prompt is cut into.",
         "`sink` and `recent` are rounded up to 64 rows while a prompt is read; what stays after "
         "it is exact.",
         "Rows of earlier turns that a streaming head kept are read along."},
}};

}  // namespace
}  // namespace pith

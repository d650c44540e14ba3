// ChunkKV (arXiv:2502.00299): rows stay or go in chunks of text, by the mean score of their tokens,
// the same chunks in all heads of a layer: what is kept are phrases, not words. methods.md 8.3.
//
// A chunk is `chunk` positions of the text, counted from its beginning, so it stays the same chunk
// while its neighbours go. Rows at its edges that always stay are not part of it.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "policy/registry.h"

namespace pith {
namespace {

struct Chunk {
  int first = 0, rows = 0;
  double mean = 0;
};

class WholeChunks final : public Reducer {
 public:
  WholeChunks(int length, bool together) : length_(length), together_(together) {}
  bool needs_layer_scores() const override { return together_; }

  void reduce(const HeadView& head, int budget, HeadPlan& plan) const override {
    const int rows = static_cast<int>(head.positions.size());
    const int sink = std::min(head.protect.sink, rows);
    const int recent = std::min(head.protect.recent, rows - sink);
    const std::vector<double> score = row_scores(head);
    std::vector<Chunk> chunks;
    for (int r = sink; r < rows - recent; ++r) {
      const bool same = !chunks.empty() && head.positions[static_cast<size_t>(r)] / length_ ==
                                               head.positions[static_cast<size_t>(r - 1)] / length_;
      if (!same) chunks.push_back({.first = r});
      ++chunks.back().rows;
      chunks.back().mean += score[static_cast<size_t>(r)];
    }
    for (Chunk& chunk : chunks) chunk.mean /= chunk.rows;
    std::ranges::stable_sort(chunks, std::greater(), &Chunk::mean);

    int left = std::max(0, budget - sink - recent);
    plan.keep.clear();
    const auto keep = [&](int first, int count) {
      for (int r = first; r < first + count; ++r) plan.keep.push_back(r);
    };
    keep(0, sink);
    keep(rows - recent, recent);
    for (const Chunk& chunk : chunks) {
      if (left == 0) break;
      if (chunk.rows <= left) {
        keep(chunk.first, chunk.rows);
        left -= chunk.rows;
        continue;
      }
      // The budget is met exactly: the best rows of the first chunk that does not fit as a whole.
      std::vector<int> best(static_cast<size_t>(chunk.rows));
      std::iota(best.begin(), best.end(), chunk.first);
      std::ranges::stable_sort(best, [&](int a, int b) {
        return score[static_cast<size_t>(a)] > score[static_cast<size_t>(b)];
      });
      for (int i = 0; i < left; ++i) plan.keep.push_back(best[static_cast<size_t>(i)]);
      left = 0;
    }
    std::ranges::sort(plan.keep);
    plan.pseudo.assign(head.pseudo.begin(), head.pseudo.end());
  }

 private:
  std::vector<double> row_scores(const HeadView& head) const {
    std::vector<double> sum(head.scores.size());
    const auto add = [&](std::span<const float> scores) {
      for (size_t r = 0; r < sum.size(); ++r)
        sum[r] += std::isnan(scores[r]) ? -std::numeric_limits<double>::infinity() : scores[r];
    };
    if (head.layer_scores.empty())
      add(head.scores);
    else
      for (const std::span<const float> scores : head.layer_scores) add(scores);
    return sum;
  }

  int length_;
  bool together_;
};

const RegisterMethod chunkkv{{
    .name = "chunkkv",
    .summary = "keep rows in whole chunks of text, the same in all heads of a layer",
    .source = "arXiv:2502.00299",
    .family = "selection: attention scores",
    .build =
        [](Options& o, const KvShape& /*shape*/, Policy& p) {
          const int length = o.count("chunk", 20, "tokens of a chunk", 1, 1 << 20);
          const bool together =
              o.flag("together", true, "heads of a layer keep the same chunks, by their sum");
          p.reducer = std::make_unique<WholeChunks>(length, together);
        },
    .cost = "a prompt: the scorer's; a token: nothing",
    .departures =
        {"A budget is met exactly: of the first chunk that does not fit, the best rows stay. The "
         "reference keeps as many whole chunks as the ratio allows.",
         "Chunks are counted by position, from the start of the text; chunk=32 is a page.",
         "Heads that hold different rows, or scores that are taken anew while generating, decide "
         "by themselves.",
         "Reusing a layer's chunks in the next layer (N_reuse) is left out: it saves scoring."},
}};

}  // namespace
}  // namespace pith

// Ada-KV (arXiv:2407.11550): the heads of a layer compete for the layer's rows, so that a head
// whose attention is spread out gets more of them; a floor is safe. methods.md 9.7.
//   rows = (1 - floor) * winners among the layer's best scores + floor * mean
#include <algorithm>
#include <numeric>

#include "policy/defaults.h"
#include "policy/registry.h"
#include "policy/shares.h"

namespace pith {
namespace {

class HeadsCompete final : public Budget {
 public:
  HeadsCompete(double floor, double steepness) : floor_(floor), steepness_(steepness) {}
  bool needs_amount() const override { return true; }

  void assign(const ScoreBoard& board, BudgetTable& table) const override {
    std::vector<int> even;
    if (!even_shares(board, even)) return;
    const int layer = board.newest_layer(), safe = board.protected_rows();
    if (steepness_ > 0) even = pyramid(board, table, even, steepness_);
    const int mean = even[static_cast<size_t>(layer)];

    std::vector<std::span<const float>> scores;
    std::vector<int> caps;
    for (int h = 0; h < table.heads; ++h) {
      scores.push_back(board.contested(layer, h));
      caps.push_back(std::max(0, board.most_rows(layer, h) - safe));
    }
    const std::vector<int> won = winners(scores, 0, int64_t{mean} * table.heads);
    std::vector<double> weights;
    weights.reserve(won.size());
    for (const int rows : won) weights.push_back((1 - floor_) * rows + floor_ * mean);
    const std::vector<int> rows = share_rows(weights, caps, mean * table.heads);
    for (int h = 0; h < table.heads; ++h) table.at(layer, h) = safe + rows[static_cast<size_t>(h)];
  }

 private:
  double floor_, steepness_;
};

const RegisterMethod adakv{{
    .name = "adakv",
    .summary = "let the heads of a layer compete for its rows",
    .source = "arXiv:2407.11550",
    .family = "hybrid: budgets of layers and heads",
    .build =
        [](Options& o, const KvShape& /*shape*/, Policy& p) {
          const double floor = o.ratio("floor", 0.2, "share of the mean that every head keeps");
          const double beta = o.number(
              "pyramid", 0, "layers share as in pyramidkv with this beta; 0: evenly", 0, 1000);
          if (beta > 0 && beta < 1) o.refuse("pyramid", "0, or 1 and more");
          default_vote(p, {.window = 32, .width = 7, .pool = Pool::max});
          p.budget = std::make_unique<HeadsCompete>(floor, beta);
        },
    .cost = "a prompt: snapkv's vote and a selection over the scores of a layer; a token: nothing",
    .departures =
        {"The rows of a layer add up to heads x budget, by largest remainders; the reference "
         "rounds each head and may miss the total by a few.",
         "Heads compete with the sums of their group's votes; `snapkv:reduce=max,pooled=groups` "
         "is the reference's other order.",
         "The option `normalize` of the reference (scores scaled by what a head keeps) is left "
         "out; it is off there."},
}};

}  // namespace
}  // namespace pith

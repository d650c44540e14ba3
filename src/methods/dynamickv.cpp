// DynamicKV (arXiv:2412.14838): every layer first keeps more than its share, and every few layers
// all of them compete: the best scores of all layers so far decide how many rows each deserves, and
// earlier layers give the others back. methods.md 2.6, the corrected form.
#include <algorithm>
#include <numeric>

#include "policy/defaults.h"
#include "policy/registry.h"
#include "policy/shares.h"

namespace pith {
namespace {

class LayersCompete final : public Budget {
 public:
  LayersCompete(double most, int period) : most_(most), period_(period) {}
  bool needs_amount() const override { return true; }

  void assign(const ScoreBoard& board, BudgetTable& table) const override {
    std::vector<int> even;
    if (!even_shares(board, even)) return;
    const int newest = board.newest_layer(), safe = board.protected_rows();
    const int total = std::accumulate(even.begin(), even.end(), 0);
    constexpr int kMost = BudgetTable::kAll / 2;
    for (int l = newest; l < table.layers; ++l)
      for (int h = 0; h < table.heads; ++h)
        table.at(l, h) =
            safe + static_cast<int>(std::min<double>(most_ * even[static_cast<size_t>(l)], kMost));
    if (newest % period_ != period_ - 1 && newest + 1 != table.layers) return;

    // Rows that a layer gave back are gone: it competes with those it has, and never grows.
    std::vector<std::span<const float>> scores;
    std::vector<int> caps;
    int64_t winning = 0;
    for (int l = 0; l <= newest; ++l) {
      int cap = BudgetTable::kAll;
      for (int h = 0; h < table.heads; ++h) {
        scores.push_back(board.contested(l, h));
        cap = std::min({cap, table.at(l, h) - safe, board.most_rows(l, h) - safe});
      }
      caps.push_back(std::max(0, cap));
      winning += int64_t{even[static_cast<size_t>(l)]} * table.heads;
    }
    const std::vector<int> won = winners(scores, 0, winning);
    std::vector<double> weights(caps.size());
    for (size_t i = 0; i < won.size(); ++i) weights[i / static_cast<size_t>(table.heads)] += won[i];
    const std::vector<int> rows = share_rows(weights, caps, total);
    for (int l = 0; l <= newest; ++l)
      for (int h = 0; h < table.heads; ++h) table.at(l, h) = safe + rows[static_cast<size_t>(l)];
  }

 private:
  double most_;
  int period_;
};

const RegisterMethod dynamickv{{
    .name = "dynamickv",
    .summary = "let layers compete for rows; earlier ones give theirs back",
    .source = "arXiv:2412.14838",
    .family = "hybrid: budgets of layers and heads",
    .build =
        [](Options& o, const KvShape& /*shape*/, Policy& p) {
          const double most =
              o.number("most", 10, "what a layer may hold at first, in budgets", 1, 1000);
          const int period = o.count("period", 4, "layers between redistributions", 1, 1 << 16);
          default_vote(p, {.window = 8, .width = 7, .pool = Pool::mean});
          p.budget = std::make_unique<LayersCompete>(most, period);
        },
    .cost = "a prompt: snapkv's vote, a selection over all scores held every `period` layers, and "
            "up to `most` budgets of rows in the layers since; a token: nothing",
    .departures =
        {"A layer gets at most the rows it still holds. The reference slices beyond them into the "
         "window, whose rows then count twice in the softmax.",
         "The budget is shared out exactly, by largest remainders over layers that still have "
         "rows; the last layer always redistributes, also where `period` does not divide the "
         "layers.",
         "Rows are kept per key/value head; the reference repeats keys for every query head.",
         "Layers compete with the rows they still hold: a row that was given back wins nothing "
         "for its layer later.",
         "Kept rows stay in order of position."},
}};

}  // namespace
}  // namespace pith

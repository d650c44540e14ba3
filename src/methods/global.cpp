// One threshold for all layers and heads: of all rows of the model the best stay, wherever they are
// (KVzip's non-uniform form, arXiv:2505.23416, methods.md 9.11, for any scorer). Layers are cut as
// they come: a row that is not among the best so far cannot be among the best of all.
#include <algorithm>
#include <numeric>

#include "policy/defaults.h"
#include "policy/registry.h"
#include "policy/shares.h"

namespace pith {
namespace {

class OneThreshold final : public Budget {
 public:
  explicit OneThreshold(double floor) : floor_(floor) {}
  bool needs_amount() const override { return true; }

  void assign(const ScoreBoard& board, BudgetTable& table) const override {
    std::vector<int> even;
    if (!even_shares(board, even)) return;
    const int safe = board.protected_rows(), newest = board.newest_layer();
    const int mean = *std::ranges::min_element(even);
    const int free = static_cast<int>(floor_ * mean);
    const int64_t total = std::accumulate(even.begin(), even.end(), int64_t{0}) * table.heads;
    // The floor of layers to come is set aside.
    const int64_t later = int64_t{free} * table.heads * (table.layers - 1 - newest);
    std::vector<std::span<const float>> scores;
    for (int l = 0; l <= newest; ++l)
      for (int h = 0; h < table.heads; ++h) scores.push_back(board.contested(l, h));
    const std::vector<int> won = winners(scores, free, total - later);
    // Where the prompt has fewer rows than the budget, heads may grow while generating.
    const int64_t held = std::accumulate(won.begin(), won.end(), int64_t{0});
    const int room = static_cast<int>(std::max<int64_t>(0, total - held) /
                                      static_cast<int64_t>(table.rows.size()));
    const bool all = newest + 1 == table.layers;
    for (size_t i = 0; i < won.size(); ++i) table.rows[i] = safe + won[i] + (all ? room : 0);
  }

 private:
  double floor_;
};

const RegisterMethod global{{
    .name = "global",
    .summary = "hold all layers and heads to one threshold",
    .source = "the non-uniform form of arXiv:2505.23416 (KVzip)",
    .family = "hybrid: budgets of layers and heads",
    .build =
        [](Options& o, const KvShape& /*shape*/, Policy& p) {
          const double floor = o.ratio("floor", 0, "share of the mean that every head keeps");
          default_vote(p, {.window = 32, .width = 7, .pool = Pool::max});
          p.budget = std::make_unique<OneThreshold>(floor);
        },
    .cost = "a prompt: the scorer's, a selection over all scores held after every layer, and rows "
            "of the whole budget in the lowest layers until the others need them; a token: nothing",
    .departures = {"The best rows are counted, ties to lower layers, heads and positions; the "
                   "reference keeps what is strictly above a threshold and loses all ties.",
                   "`floor` is ours: with 0, as in the paper, a head may keep nothing but the rows "
                   "that always stay."},
}};

}  // namespace
}  // namespace pith

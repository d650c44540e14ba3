// Coverage, a budget of this house: every head keeps the fewest rows that hold `mass` of what the
// last queries of this prompt pay attention to. A head that looks at three rows keeps three, one
// that looks everywhere keeps many: the size of the cache follows the task. `budget` is not a
// target but a limit: if all heads together want more, the rows with the least mass go, whichever
// head and layer they are in. The top-p rule is FlexPrefill's (arXiv:2502.20766), there for
// computing less in a prompt; here it decides what stays.
#include <algorithm>
#include <functional>
#include <numeric>
#include <vector>

#include "policy/defaults.h"
#include "policy/registry.h"
#include "policy/shares.h"

namespace pith {
namespace {

class CoverMass final : public Budget {
 public:
  CoverMass(double mass, int floor, Amount most) : mass_(mass), floor_(floor), most_(most) {}
  bool needs_mass() const override { return true; }

  void assign(const ScoreBoard& board, BudgetTable& table) const override {
    const int newest = board.newest_layer(), safe = board.protected_rows();
    std::vector<std::vector<float>> wanted;  // scores of the rows that each head wants
    std::vector<int> rows;
    int64_t sum = 0;
    for (int l = 0; l <= newest; ++l)
      for (int h = 0; h < table.heads; ++h) {
        const std::span<const float> contested = board.contested(l, h);
        std::vector<float>& best = wanted.emplace_back(contested.begin(), contested.end());
        if (l == newest) {
          std::ranges::sort(best, std::greater());
          best.resize(static_cast<size_t>(needed(board, h, best)));
        }
        rows.push_back(static_cast<int>(best.size()));
        sum += rows.back();
      }
    std::vector<int> even;
    if (even_shares(board, even)) {
      const int64_t limit = std::accumulate(even.begin(), even.end(), int64_t{0}) * table.heads;
      if (sum > limit) {
        // Layers to come may need the floor at least.
        const int64_t later = int64_t{floor_} * table.heads * (table.layers - 1 - newest);
        const std::vector<std::span<const float>> lists(wanted.begin(), wanted.end());
        rows = winners(lists, static_cast<int>(std::min<int64_t>(floor_, even[0])),
                       std::max<int64_t>(0, limit - later));
      }
    }
    for (size_t i = 0; i < rows.size(); ++i) table.rows[i] = safe + rows[i];
  }

 private:
  // How many of the best scores, beside the protected rows, reach the mass.
  int needed(const ScoreBoard& board, int head, std::span<const float> best) const {
    double all = 0, contested = 0;
    for (const float s : board.scored(board.newest_layer(), head)) all += s;
    for (const float s : best) contested += s;
    double left = mass_ * all - (all - contested);
    size_t rows = mass_ < 1 ? 0 : best.size();
    while (rows < best.size() && left > 0) left -= best[rows++];
    const size_t most =
        static_cast<size_t>(std::max(0, most_.of(board.prompt_tokens()) - board.protected_rows()));
    rows = std::max(rows, static_cast<size_t>(floor_));
    return static_cast<int>(std::min({rows, most, best.size()}));
  }

  double mass_;
  int floor_;
  Amount most_;
};

const RegisterMethod coverage{{
    .name = "coverage",
    .summary = "keep the fewest rows that hold a share of the attention of the last queries",
    .source = "this project; top-p as in arXiv:2502.20766 (FlexPrefill)",
    .family = "hybrid: budgets of layers and heads",
    .build =
        [](Options& o, const KvShape& /*shape*/, Policy& p) {
          const double mass = o.ratio("mass", 0.98, "share of the attention that stays");
          const int floor = o.count("floor", 0,
                                    "rows that every head keeps beside those that "
                                    "always stay");
          const Amount most =
              o.amount("most", {.share = 1}, "rows of one head at most, or a share of the prompt");
          if (most.bytes > 0) o.refuse("most", "rows or a share; `budget` takes bytes");
          default_vote(p, {.window = 256, .width = 1, .pool = Pool::none});
          protect_options(o, p, {.sink = 0, .recent = 32});
          p.budget = std::make_unique<CoverMass>(mass, floor, most);
        },
    .cost = "a prompt: a vote of 256 queries, sorted; a token: nothing",
    .departures = {"Not a published method. A budget that is given is a limit for the whole model, "
                   "not what is spent; CompressionStats and `pith trace` have the mass that was "
                   "kept."},
}};

}  // namespace
}  // namespace pith

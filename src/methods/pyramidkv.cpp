// PyramidKV (arXiv:2406.02069): attention gathers in fewer rows from layer to layer, so the budget
// falls in a line from the first layer to the last. methods.md 9.5.
#include "policy/defaults.h"
#include "policy/registry.h"
#include "policy/shares.h"

namespace pith {
namespace {

class FallingLine final : public Budget {
 public:
  explicit FallingLine(double steepness) : steepness_(steepness) {}
  bool needs_amount() const override { return true; }

  void assign(const ScoreBoard& board, BudgetTable& table) const override {
    std::vector<int> even;
    if (!even_shares(board, even)) return;
    const std::vector<int> rows = pyramid(board, table, even, steepness_);
    // What a layer keeps was decided when it came.
    for (int l = board.newest_layer(); l < table.layers; ++l)
      for (int h = 0; h < table.heads; ++h)
        table.at(l, h) = board.protected_rows() + rows[static_cast<size_t>(l)];
  }

 private:
  double steepness_;
};

const RegisterMethod pyramidkv{{
    .name = "pyramidkv",
    .summary = "give lower layers more rows than upper ones",
    .source = "arXiv:2406.02069",
    .family = "hybrid: budgets of layers and heads",
    .build =
        [](Options& o, const KvShape& /*shape*/, Policy& p) {
          const double beta =
              o.number("beta", 20,
                       "the last layer gets 1 / beta of the mean, the first as much more", 1, 1000);
          default_vote(p, {.window = 8, .width = 7, .pool = Pool::max});
          p.budget = std::make_unique<FallingLine>(beta);
        },
    .cost = "a prompt: snapkv's vote; a token: nothing",
    .departures =
        {"The rows of all layers add up to layers x budget, by largest remainders. The reference "
         "rounds the step between layers down, which at 32 layers and 128 rows keeps 10.5 % more.",
         "Prompts shorter than twice the budget get an even share, as in the reference.",
         "Rows are kept per key/value head; see `snapkv`."},
}};

}  // namespace
}  // namespace pith

// HeadKV (arXiv:2410.19258): heads that were seen to retrieve, and to reason with what they
// retrieved, get more rows; one part of the budget is shared by importance, the rest evenly.
// methods.md 9.8.
#include <cmath>
#include <numeric>

#include "policy/calibration.h"
#include "policy/defaults.h"
#include "policy/registry.h"
#include "policy/shares.h"

namespace pith {
namespace {

class ByImportance final : public Budget {
 public:
  ByImportance(std::vector<double> share, double beta) : share_(std::move(share)), beta_(beta) {}
  bool needs_amount() const override { return true; }

  void assign(const ScoreBoard& board, BudgetTable& table) const override {
    std::vector<int> even;
    if (!even_shares(board, even)) return;
    const int safe = board.protected_rows();
    const double total =
        std::accumulate(even.begin(), even.end(), 0.0) * static_cast<double>(table.heads);
    std::vector<double> weights;
    std::vector<int> caps;
    for (int l = 0; l < table.layers; ++l)
      for (int h = 0; h < table.heads; ++h) {
        weights.push_back(share_[weights.size()] * total / beta_ +
                          (1 - 1 / beta_) * even[static_cast<size_t>(l)]);
        caps.push_back(std::max(0, board.most_rows(l, h) - safe));
      }
    // What a layer keeps was decided when it came.
    std::vector<int> decided(table.rows.begin(),
                             table.rows.begin() + board.newest_layer() * table.heads);
    for (int& rows : decided) rows -= safe;
    const std::vector<int> rows = share_rest(weights, caps, decided, static_cast<int>(total));
    for (int l = board.newest_layer(); l < table.layers; ++l)
      for (int h = 0; h < table.heads; ++h)
        table.at(l, h) = safe + rows[static_cast<size_t>(l) * static_cast<size_t>(table.heads) + h];
  }

 private:
  std::vector<double> share_;  // [layers, heads], of what is shared by importance; sums to 1
  double beta_;
};

// The mean of each group, to the power of `sharpness`, as shares of all.
std::vector<double> shares_of(std::span<const float> scores, size_t group, double sharpness) {
  std::vector<double> shares;
  double sum = 0;
  for (size_t first = 0; first < scores.size(); first += group) {
    double mean = 0;
    for (const float s : scores.subspan(first, group))
      mean += std::max(0.0f, s) / static_cast<double>(group);
    sum += shares.emplace_back(std::pow(mean, sharpness));
  }
  for (double& share : shares)
    share = sum > 0 ? share / sum : 1 / static_cast<double>(shares.size());
  return shares;
}

const RegisterMethod headkv{{
    .name = "headkv",
    .summary = "give heads that retrieve more rows, as a calibration file says",
    .source = "arXiv:2410.19258",
    .family = "hybrid: budgets of layers and heads",
    .build =
        [](Options& o, const KvShape& shape, Policy& p) {
          const Calibration& file =
              o.calibration("heads", "how much each head retrieves", "pith calibrate heads");
          const double beta =
              o.number("beta", 1.2,
                       "1 / beta of the budget is shared by importance, the rest evenly", 1, 1000);
          const double sharpness =
              o.number("sharpness", 1, "power that importance is taken to", 0, 100);
          default_vote(p, {.window = 32, .width = 7, .pool = Pool::max});
          const std::span<const float> scores =
              file.tensor("heads.retrieval", static_cast<size_t>(shape.layers) *
                                                 static_cast<size_t>(shape.query_heads));
          p.budget = std::make_unique<ByImportance>(
              shares_of(scores, static_cast<size_t>(shape.group()), sharpness), beta);
        },
    .cost = "a prompt: snapkv's vote; a token: nothing",
    .departures =
        {"The rows of all heads add up to layers x heads x budget, by largest remainders; the "
         "reference rounds each head, and divides base by beta with floats rounded down.",
         "The importance of a key/value head is the mean of its query heads; the reference keeps "
         "rows for every query head.",
         "beta=1.2 of the paper's 1.005 to 10."},
}};

}  // namespace
}  // namespace pith

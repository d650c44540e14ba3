// FastKV (arXiv:2502.01068): at one layer, the tokens that the last queries attend to are selected,
// and only those travel through the rest of the model. What a layer keeps in the cache is a
// separate, smaller amount. Scores are SnapKV's with a window of 8 unless another scorer is named.
//
// Two modes, as in the reference code (baselines/fastkv/utils.py):
//   proportional   tsp_rate of the prompt travels, `budget` is a share of the prompt
//   constant       tsp_len tokens travel, `budget` is rows
// Departures, all about counting. Counts are rounded to the nearest, the reference truncates. A
// share is of the prompt in every layer; the reference takes share / tsp_rate of the rows that
// reach a later layer, which is the same up to that rounding. `budget` includes the window, as
// there. Short prompts, whose share is smaller than the window, keep the window; the reference
// stops with an error. A tsp_rate below the budget is refused; the reference then keeps fewer rows
// in later layers than it was asked to. Rows are kept in order of position, not of score.
#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "policy/calibration.h"
#include "policy/defaults.h"
#include "policy/registry.h"
#include "policy/token_steps.h"

namespace pith {
namespace {

class SelectTokensOnce final : public Router {
 public:
  SelectTokensOnce(int layer, Amount travelling) : layer_(layer), travelling_(travelling) {}

  void route(const LayerTap& tap, ConstMat scores, Protect protect,
             StreamPlan& plan) const override {
    const int rows = static_cast<int>(scores.dim[1]);
    if (tap.layer != layer_ || travelling_.of(tap.prompt_tokens) >= rows) return;
    // Saliency of a token is its score summed over the heads: no further pass over the keys.
    std::vector<float> total(static_cast<size_t>(rows));
    for (int h = 0; h < tap.shape.heads; ++h)
      for (int r = 0; r < rows; ++r) total[r] += scores.row(h)[r];
    top_rows(total, travelling_.of(tap.prompt_tokens), protect, plan.rows);
  }

 private:
  int layer_;
  Amount travelling_;
};

// Half of the layers less one, or the layer nearest to it that can select, rather a later one.
int middle_layer(const KvShape& shape) {
  const int middle = std::max(0, shape.layers / 2 - 1);
  for (int d = 0; d < shape.layers; ++d)
    for (const int layer : {middle + d, middle - d})
      if (layer >= 0 && layer < shape.layers && can_select(shape, layer)) return layer;
  return middle;
}

int selecting_layer(Options& o, const KvShape& shape) {
  const int last = shape.layers - 1;
  const std::optional<int> layer =
      o.count_or("auto", "tsp_layer", middle_layer(shape),
                 "layer that selects, counted from 0; auto: the calibrated one", 0, last);
  if (layer && o.given("calibration")) o.fail("'calibration' is only read with tsp_layer=auto");
  if (layer && !can_select(shape, *layer))
    o.refuse("tsp_layer", "a layer without a sliding window, which " + std::to_string(*layer) +
                              " of this model has; " + std::to_string(middle_layer(shape)) +
                              " would do");
  if (layer && !o.describes()) return *layer;
  const float found =
      o.calibration("calibration", "file that names the layer", "pith calibrate tsp")
          .tensor("tsp.layer", 1)[0];
  if (!(found >= 0 && found <= static_cast<float>(last)) || found != std::floor(found) ||
      !can_select(shape, static_cast<int>(found)))
    throw Error(Errc::bad_file, "fastkv: the calibration file names layer " +
                                    std::to_string(found) + ", which this model of " +
                                    std::to_string(shape.layers) +
                                    " layers cannot select at; calibrate again");
  return static_cast<int>(found);
}

Amount travelling_tokens(Options& o, const Policy& p) {
  const Amount& budget = p.amount;
  if (o.given("tsp_rate") && o.given("tsp_len"))
    o.fail("give tsp_rate (a share of the prompt) or tsp_len (tokens), not both");
  const bool constant = o.given("tsp_len") || (!o.given("tsp_rate") && budget.share == 0);
  const double rate = o.ratio("tsp_rate", 0.2, "share of the prompt that travels on");
  const int length =
      o.count("tsp_len", 2048, "tokens that travel on, if `budget` is not a share", 1);
  if (budget.rows > 0 && budget.rows <= p.vote.window)
    o.refuse("budget", "more than the window of " + std::to_string(p.vote.window) + " rows");
  if (constant && budget.rows > length)
    o.refuse("tsp_len", "at least the budget of " + std::to_string(budget.rows) + " rows");
  if (!constant && budget.share > rate)
    o.refuse("tsp_rate", "at least the budget of " + budget.text() +
                             "; later layers cannot keep rows that never reach them");
  return constant ? Amount{.rows = length} : Amount{.share = rate};
}

const RegisterMethod fastkv{{
    .name = "fastkv",
    .summary = "select the tokens that travel on at one layer; keep a smaller share of each layer",
    .source = "arXiv:2502.01068",
    .family = "hybrid: fewer tokens in upper layers",
    .build =
        [](Options& o, const KvShape& shape, Policy& p) {
          const int layer = selecting_layer(o, shape);
          p.vote = vote_options(o, {.window = 8, .width = 7, .pool = Pool::max});
          protect_options(o, p, {.sink = 0, .recent = p.vote.window}, p.vote.window);
          budget_option(o, p, {.share = 0.1});
          p.router = std::make_unique<SelectTokensOnce>(layer, travelling_tokens(o, p));
        },
    .cost = "a prompt: snapkv's vote, less the layers above `tsp_layer`, which run on tsp_rate of "
            "the tokens (0.6 of the linear work and 0.52 of the attention at the defaults); "
            "a token: nothing",
    .departures =
        {"Counts are rounded to the nearest row; the reference truncates.",
         "`budget` is a share of the prompt in every layer. The reference takes budget / tsp_rate "
         "of the rows that reach a later layer, the same up to rounding.",
         "A share smaller than the window keeps the window; the reference stops with an error.",
         "A tsp_rate below the budget, or a tsp_len below its rows, is refused; the reference then "
         "keeps fewer rows in later layers than it was asked to.",
         "Kept rows stay in order of position; the reference stores them in order of score.",
         "tsp_layer=auto reads a layer found by `pith calibrate tsp` from the overlap of the sets "
         "that layers would select; the paper sweeps a benchmark by hand. The default, half of the "
         "layers less one, gives the paper's 15 of 32 and 17 of 36.",
         "Models with sliding-window layers select at a layer without a window: the others do not "
         "see the tokens in question. The paper has no such model."},
}};

}  // namespace
}  // namespace pith

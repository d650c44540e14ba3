// LazyLLM (arXiv:2407.14057): tokens that the prompt's last query attends to little stop
// travelling, more of them in later layers. methods.md 8.6.
#include <algorithm>
#include <cmath>
#include <iterator>

#include "policy/defaults.h"
#include "policy/registry.h"
#include "policy/token_steps.h"

namespace pith {
namespace {

class ByTheLastQuery final : public Router {
 public:
  ByTheLastQuery(std::vector<TokenStep> steps, int window, double revive)
      : steps_(std::move(steps)), window_(window), revive_(revive) {}
  Demand demand() const override { return {.window_queries = window_}; }
  bool needs_scores() const override { return false; }

  void route(const LayerTap& tap, ConstMat /*scores*/, Protect protect,
             StreamPlan& plan) const override {
    if (const TokenStep* step = step_behind(tap.layer))
      travel_on(paid_by_last(tap, window_), step->keeps.of(tap.prompt_tokens), protect, plan);
  }

  bool calls_back(int layer) const override { return revive_ > 0 && step_behind(layer) != nullptr; }

  // Every head counts what the generated token pays a token, wherever its rows lie.
  void call_back(std::span<const StepTap> heads, int tokens, std::span<const int32_t> dropped,
                 std::vector<int32_t>& back) const override {
    std::vector<float> paid(static_cast<size_t>(tokens));
    for (const StepTap& head : heads)
      for (size_t i = 0; i < head.probs.size(); ++i) {
        const size_t row = head.rows.empty() ? i : static_cast<size_t>(head.rows[i]);
        paid[static_cast<size_t>(head.positions[row])] += head.probs[i];
      }
    const double cut = revive_ * step_behind(heads[0].layer)->keeps.of(tokens);
    std::vector<int32_t> best, waiting(dropped.begin(), dropped.end());
    top_rows(paid, static_cast<int>(std::min<double>(std::lround(cut), tokens)), best);
    std::erase_if(best,
                  [&](int32_t position) { return !(paid[static_cast<size_t>(position)] > 0); });
    std::ranges::sort(waiting);
    std::ranges::set_intersection(best, waiting, std::back_inserter(back));
  }

 private:
  const TokenStep* step_behind(int layer) const {
    const auto step = std::ranges::find(steps_, layer, &TokenStep::layer);
    return step == steps_.end() ? nullptr : &*step;
  }

  std::vector<TokenStep> steps_;
  int window_;
  double revive_;
};

// Half of the tokens from the middle on, three tenths from three quarters of the layers on.
std::string schedule(const KvShape& shape) {
  const int half = selecting_layer_near(shape, std::max(0, shape.layers / 2 - 1));
  const int late = selecting_layer_near(shape, std::max(0, shape.layers * 3 / 4 - 1));
  std::string text = std::to_string(half) + ":0.5";
  if (late > half) text += "/" + std::to_string(late) + ":0.3";
  return text;
}

const RegisterMethod lazyllm{{
    .name = "lazyllm",
    .summary = "let tokens drop out layer by layer that the last query attends to little",
    .source = "arXiv:2407.14057",
    .family = "hybrid: fewer tokens in upper layers",
    .build =
        [](Options& o, const KvShape& shape, Policy& p) {
          std::vector<TokenStep> steps =
              steps_option(o, shape, schedule(shape),
                           "LAYER:TOKENS/LAYER:TOKENS; tokens that travel on behind each layer, a "
                           "number or a share of the prompt");
          const int window = o.count("window", 1, "last queries that decide", 1, 4096);
          const double revive = o.number(
              "revive", 0,
              "how many of the tokens that a generated one attends to most behind each step pass "
              "it, if they dropped out, as a multiple of those the step lets through: 1 is the "
              "paper's cut; 0: none, and their hidden states are not kept",
              0, 1000);
          if (revive > 0 && !shape.windows.empty())
            o.refuse("revive", "0 for models with sliding windows, whose rows stay in order");
          p.store.keeps_dropped = revive > 0;
          p.router = std::make_unique<ByTheLastQuery>(std::move(steps), window, revive);
        },
    .cost = "a prompt: one query times all keys at each step, less the layers above it, which run "
            "on fewer tokens; a token: nothing, or, with `revive`, the layers above a step for "
            "each token that comes back, and half a hidden state in f32 is held for each that "
            "waits",
    .departures =
        {"The paper prints no schedule; half of the tokens behind the middle layer and 0.3 behind "
         "three quarters follow FastKV's finding that earlier layers should not choose.",
         "Tokens that drop out come back only with `revive`: their hidden states take as much "
         "memory as the keys and values of a layer or two. A generated token reads all rows that "
         "a layer holds, not only those it selected behind the step before.",
         "Add `tova` to evict while generating: lazyllm+tova:budget=0.3, without `revive`."},
}};

}  // namespace
}  // namespace pith

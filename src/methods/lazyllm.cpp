// LazyLLM (arXiv:2407.14057): tokens that the prompt's last query attends to little stop
// travelling, more of them in later layers. methods.md 8.6.
#include <algorithm>

#include "policy/defaults.h"
#include "policy/registry.h"
#include "policy/token_steps.h"

namespace pith {
namespace {

class ByTheLastQuery final : public Router {
 public:
  ByTheLastQuery(std::vector<TokenStep> steps, int window)
      : steps_(std::move(steps)), window_(window) {}
  Demand demand() const override { return {.window_queries = window_}; }
  bool needs_scores() const override { return false; }

  void route(const LayerTap& tap, ConstMat /*scores*/, Protect protect,
             StreamPlan& plan) const override {
    for (const TokenStep& step : steps_)
      if (step.layer == tap.layer)
        travel_on(paid_by_last(tap, window_), step.keeps.of(tap.prompt_tokens), protect, plan);
  }

 private:
  std::vector<TokenStep> steps_;
  int window_;
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
          p.router = std::make_unique<ByTheLastQuery>(std::move(steps), window);
        },
    .cost = "a prompt: one query times all keys at each step, less the layers above it, which run "
            "on fewer tokens; a token: nothing",
    .departures =
        {"The paper prints no schedule; half of the tokens behind the middle layer and 0.3 behind "
         "three quarters follow FastKV's finding that earlier layers should not choose.",
         "Tokens that drop out do not come back: the paper keeps their hidden states to revive "
         "them when a later token attends to them, which costs as much memory as it saves here.",
         "Add `tova` to evict while generating: lazyllm+tova:budget=0.3."},
}};

}  // namespace
}  // namespace pith

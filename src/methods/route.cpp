// route: any list of steps behind which fewer tokens travel on, by the scores of the spec's scorer.
// FastKV (arXiv:2502.01068) is one step; PyramidInfer and LazyLLM have several. methods.md 8.6.
#include "policy/defaults.h"
#include "policy/registry.h"
#include "policy/token_steps.h"

namespace pith {
namespace {

class SelectInSteps final : public Router {
 public:
  explicit SelectInSteps(std::vector<TokenStep> steps) : steps_(std::move(steps)) {}

  void route(const LayerTap& tap, ConstMat scores, Protect protect,
             StreamPlan& plan) const override {
    for (const TokenStep& step : steps_)
      if (step.layer == tap.layer)
        travel_on(summed(scores), step.keeps.of(tap.prompt_tokens), protect, plan);
  }

 private:
  std::vector<TokenStep> steps_;
};

const RegisterMethod route{{
    .name = "route",
    .summary = "let fewer tokens travel on behind each layer of a list",
    .source = "the form of arXiv:2502.01068 (FastKV), with any number of steps",
    .family = "hybrid: fewer tokens in upper layers",
    .build =
        [](Options& o, const KvShape& shape, Policy& p) {
          const std::string middle =
              std::to_string(selecting_layer_near(shape, shape.layers / 2 - 1)) + ":0.2";
          p.router = std::make_unique<SelectInSteps>(
              steps_option(o, shape, middle,
                           "LAYER:TOKENS/LAYER:TOKENS; tokens that travel on behind each layer, a "
                           "number or a share of the prompt"));
          default_vote(p, {.window = 8, .width = 7, .pool = Pool::max});
        },
    .cost = "a prompt: the scorer's, less the layers above each step, which run on fewer tokens; a "
            "token: nothing",
    .departures = {"Not a published method but the common form of several. Without a budget every "
                   "layer keeps all rows that reach it."},
}};

}  // namespace
}  // namespace pith

// GemFilter (arXiv:2409.17422): one layer's last query names the tokens that matter, by the sum of
// its logits over all heads; the prompt is read again with only those, at positions 0, 1, 2, ...,
// as if nothing else had been said. methods.md 1.9.
#include <algorithm>

#include "kernels/kernels.h"
#include "policy/defaults.h"
#include "policy/registry.h"
#include "policy/token_steps.h"

namespace pith {
namespace {

class ReadAgain final : public Router {
 public:
  ReadAgain(int layer, Amount keep, int width) : layer_(layer), keep_(keep), width_(width) {}
  Demand demand() const override { return {.window_queries = 1}; }
  bool needs_scores() const override { return false; }

  void route(const LayerTap& tap, ConstMat /*scores*/, Protect protect,
             StreamPlan& plan) const override {
    const int64_t rows = static_cast<int64_t>(tap.rows.positions.size());
    // In the second run the tokens are chosen already.
    if (tap.layer != layer_ || rows < tap.prompt_tokens || keep_.of(tap.prompt_tokens) >= rows)
      return;
    const int64_t dim = tap.shape.dim, group = tap.shape.group();
    const auto dot = active_kernels().dot;
    const ConstCube window = tap.window_q;
    const ConstMat q = tap.ops.to_host(window[window.dim[0] - 1]);
    std::vector<float> logits(static_cast<size_t>(rows));
    for (int64_t h = 0; h < tap.shape.heads; ++h) {
      const ConstMat k = tap.ops.to_host(tap.rows.k[h]);
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t g = h * group; g < (h + 1) * group; ++g)
          logits[static_cast<size_t>(r)] += dot(q.row(g).data(), k.row(r).data(), dim);
    }
    pool_scores(logits, width_, Pool::mean);
    travel_on(logits, keep_.of(tap.prompt_tokens), protect, plan);
    plan.restart = plan.renumber = true;
  }

 private:
  int layer_;
  Amount keep_;
  int width_;
};

const RegisterMethod gemfilter{{
    .name = "gemfilter",
    .summary = "let one layer choose tokens, and read the prompt again with only those",
    .source = "arXiv:2409.17422",
    .family = "hybrid: fewer tokens in upper layers",
    .build =
        [](Options& o, const KvShape& shape, Policy& p) {
          const int fallback = selecting_layer_near(shape, shape.layers * 13 / 32);
          const int layer = o.count("layer", fallback, "layer that chooses, counted from 0", 0,
                                    std::max(0, shape.layers - 2));
          if (!can_select(shape, layer)) o.refuse("layer", "one without a sliding window");
          const Amount keep =
              o.amount("tokens", {.rows = 1024}, "tokens that are read again, or their share");
          if (keep.bytes > 0) o.refuse("tokens", "a number or a share of the prompt");
          const int width = o.count("width", 5, "neighbours that are averaged (odd)", 1, 1023);
          if (width % 2 == 0) o.refuse("width", "odd, so that both sides have as many neighbours");
          protect_options(o, p, {.sink = 0, .recent = 1});
          p.router = std::make_unique<ReadAgain>(layer, keep, width);
        },
    .cost =
        "a prompt: the layers up to `layer` on all tokens, then all layers on `tokens` of them; "
        "a token: nothing",
    .departures =
        {"Selected tokens include the last one, from which the answer goes on; the reference may "
         "lose it.",
         "The default layer, 13 of 32, is the paper's for Llama 3.1 8B; other models take the same "
         "share of their layers.",
         "All rows of the second run stay; a budget keeps fewer."},
}};

}  // namespace
}  // namespace pith

// Routers that let fewer tokens travel on from some layers on: a list of (layer, how many) steps,
// written 16:0.5/24:0.3, and the choice of the tokens by a score of each.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "policy/options.h"
#include "policy/policy.h"

namespace pith {

struct TokenStep {
  int layer = 0;  // behind which the tokens are selected
  Amount keeps;   // of the prompt's tokens
};

// Reads the option `steps`. Layers ascend and select without a sliding window (others cannot tell
// which tokens before it matter); later steps keep no more than earlier ones where both are of a
// kind.
std::vector<TokenStep> steps_option(Options& options, const KvShape& shape,
                                    std::string_view fallback, std::string_view doc);

// Whether a layer may select: it has no sliding window, or all have one.
bool can_select(const KvShape& shape, int layer);
// The layer nearest to `wanted` that may select and is not the last, rather a later one.
int selecting_layer_near(const KvShape& shape, int wanted);

// What the last `queries` queries pay to each row of the layer, summed over them and all heads.
std::vector<float> paid_by_last(const LayerTap& tap, int queries);
// Scores summed over the heads.
std::vector<float> summed(ConstMat scores);

// Names the `keep` tokens with the best totals, protected ones among them; none if that is all.
void travel_on(std::span<const float> totals, int keep, Protect protect, StreamPlan& plan);

}  // namespace pith

// Finds the layer at which FastKV should select tokens (methods.md 1.6). The paper sweeps a
// benchmark over all layers by hand; here the layers are asked themselves. In early layers the
// tokens that matter change from layer to layer, later they settle. The layer to choose is the
// first whose selection most of the later layers agree with.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/progress.h"

namespace pith {

class Engine;

// Token scores of one prompt, one vector per layer, all of the same length.
using LayerScores = std::vector<std::vector<float>>;

// For each layer but the last, the mean share of its `rate` best tokens that are also among the
// best of a later layer, over all later layers: [layers - 1], in [0, 1].
std::vector<double> overlap_with_later_layers(const LayerScores& scores, double rate);

// The first layer whose overlap is within `slack` of the largest. An empty list gives 0.
int first_settled_layer(std::span<const double> overlap, double slack = 0.02);

struct TspOptions {
  double rate = 0.2;  // share of the tokens that would travel on
  int window = 8, width = 7;
};

struct TspFinding {
  int layer = 0;
  int prompts = 0;
  // [layers - 1], mean over the prompts; 0 for layers with a sliding window, which cannot select
  // (in models that have others too).
  std::vector<double> overlap;
};

// Runs every prompt through the engine's model with the full cache and looks at the scores that
// FastKV's router would see. Throws bad_request if no prompt is longer than the window.
TspFinding find_tsp_layer(Engine& engine, std::span<const std::vector<int32_t>> prompts,
                          const TspOptions& options = {}, Monitor& monitor = Monitor::silent());

// Adds to the file that `fastkv:tsp_layer=auto,calibration=FILE` reads.
void save_tsp_layer(const std::string& path, std::string_view model_digest,
                    const TspFinding& finding, std::string_view text_digest = {});

}  // namespace pith

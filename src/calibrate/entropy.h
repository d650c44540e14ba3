// How many directions a head's queries spread over (UNComp; methods.md 4.1 to 4.4): the truncated
// matrix entropy of every head, the stages that layers fall into, and the groups of heads.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/progress.h"
#include "calibrate/calibration_file.h"

namespace pith {

struct EntropyOptions {
  int keep = 32;    // eigenvalues; 0: up to the elbow of each spectrum
  double fall = 1;  // of the effective rank from a layer to the next, at which a stage begins
  int groups = 2;   // of heads, by votes
};

struct EntropyFinding {
  std::vector<float> heads;   // [layers, query_heads] truncated entropy in units of log(dim)
  std::vector<float> layers;  // [layers] their mean
  std::vector<float> rank;    // [layers] mean effective rank of the heads, exp(entropy log(dim))
  std::vector<int> stage;     // [layers]
  std::vector<int> group;     // [layers, heads] 0: the highest entropy
};

// Layers up to the next that falls by more than `fall` are a stage.
std::vector<int> layer_stages(std::span<const float> rank, double fall);

// votes: [heads, groups] how often a head's entropy ranked in a group. Groups are as even as they
// can be, earlier ones larger; each takes the heads with most votes for it among those that are
// left, the lowest group after the highest and so on inwards. Ties go to the lower head.
std::vector<int> vote_groups(std::span<const float> votes, int heads, int groups);

// Throws bad_request if no prompt has two tokens.
EntropyFinding find_entropy(Engine& engine, std::span<const std::vector<int32_t>> prompts,
                            const EntropyOptions& options, const std::string& progress_file = {},
                            Monitor& monitor = Monitor::silent());

// entropy.heads [layers, query_heads], entropy.layers, entropy.rank, entropy.stage [layers],
// entropy.group [layers, heads].
std::vector<CalibrationTensor> entropy_tensors(const EntropyFinding& finding, const KvShape& shape);

}  // namespace pith

// Distilling a model: samples, steps, checkpoints, and the adapter. Everything lies in one folder:
//
//   NAME.adapter.gguf  what the engine reads, written with every checkpoint
//   checkpoint.gguf    the run's state
//   loss.csv loss.svg  what it has come to: `answer` is KL(full || compressed), and how often both
//                      find the same token likeliest
//
// A run that is started again goes on from its checkpoint to the same losses as if it had never
// stopped: samples come from (seed, step) alone.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/progress.h"
#include "train/distill_config.h"
#include "train/loss_curve.h"

namespace pith {

struct DistillOptions {
  std::string folder;
  int threads = 1;
  int64_t stop_after = 0;  // steps of this start; 0: to the end
};

// `report` hears of every step, and of every measurement: of held-out samples at 25 %, 10 % and 5 %
// of their contexts. Interrupted by the monitor, the run leaves a checkpoint and throws
// interrupted.
void distill(const DistillConfig& config, const DistillOptions& options, Monitor& monitor,
             const std::function<void(const CurvePoint&)>& report);

}  // namespace pith

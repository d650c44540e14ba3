// Training a model from texts: vocabulary, tokens, curriculum, checkpoints, and the model at the
// end. Everything lies in one folder:
//
//   vocabulary.gguf vocabulary.model  made at the first start
//   checkpoint.gguf  the run's state and a usable model, written anew every few minutes
//   loss.csv loss.svg what it has come to
//   NAME-f16.gguf NAME-q8_0.gguf  at the end
//
// A run that is started again goes on from its checkpoint to the same losses as if it had never
// stopped: samples come from (seed, step) alone.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/progress.h"
#include "train/loss_curve.h"
#include "train/train_config.h"

namespace pith {

struct PretrainOptions {
  std::string folder;
  std::string device = "cpu";
  bool bf16 = false;
  int threads = 1;
  int64_t stop_after = 0;  // steps of this start; 0: to the end
};

// `report` hears of every step, and of every measurement. Interrupted by the monitor, the run
// leaves a checkpoint and throws interrupted.
void pretrain(const TrainConfig& config, const PretrainOptions& options, Monitor& monitor,
              const std::function<void(const CurvePoint&)>& report);

}  // namespace pith

// The card that goes with a trained model: what it is, what it learnt from, what it can do.
#pragma once

#include <string>

#include "train/examination.h"
#include "train/train_config.h"

namespace pith {

// Markdown. `file` is the model's GGUF file.
std::string model_card(const TrainConfig& config, const class GgufFile& file,
                       const Examination& examination);

}  // namespace pith

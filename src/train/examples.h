// What a run's samples look like, for people.
#pragma once

#include <string>
#include <string_view>

#include "base/progress.h"
#include "train/train_config.h"

namespace pith {

// A sample of the task as text, answers between [[ and ]], second copies between << and >>. Uses
// the folder's vocabulary, which it makes if there is none. Throws bad_option for an unknown task.
std::string example_text(const TrainConfig& config, const std::string& folder,
                         std::string_view task, int length, uint64_t number, Monitor& monitor);

}  // namespace pith

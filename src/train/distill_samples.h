// Samples for KV-Distill: a context, and questions and answers about it.
#pragma once

#include "train/distill_config.h"
#include "train/tasks.h"

namespace pith {

// The same for the same number, whoever asks.
DistillSample make_distill_sample(const DistillConfig& config, const TaskSource& source,
                                  uint64_t number);
// Cuts a sample where its first question begins: at the last line break before the first token
// that is asked for, or right before the token that predicts it. Its rows are empty if nothing is
// asked.
DistillSample cut_sample(const Sample& sample, const Tokenizer& tokenizer);

}  // namespace pith

// Samples for training spans: texts that are asked about, or read twice.
#pragma once

#include "train/spans.h"
#include "train/tasks.h"

namespace pith {

// That of a step: between a quarter of `longest` and all of it.
SpanSample make_span_sample(const TaskSource& source, uint64_t seed, int step, int longest);

}  // namespace pith

// How far each head needs to look (`spans`, DuoAttention's deployment): the largest score that
// KVzip gives any row of a head, averaged over prompts (methods.md 9.11).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/progress.h"
#include "calibrate/calibration_file.h"

namespace pith {

// [layers, heads]. Rows of the first `sink` and the last token do not count. `chunk`: tokens that
// the model repeats at a time. Throws bad_request if no prompt is longer than the sinks.
std::vector<float> find_spans(Engine& engine, std::span<const std::vector<int32_t>> prompts,
                              int chunk, int sink, const std::string& progress_file = {},
                              Monitor& monitor = Monitor::silent());

// spans.score [layers, heads].
std::vector<CalibrationTensor> span_tensors(const std::vector<float>& scores, const KvShape& shape);

}  // namespace pith

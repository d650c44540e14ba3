// Where a head's queries point (Q-Filters, arXiv:2503.02812; methods.md 9.10): the first
// right-singular vector of the queries of a group, after rotation, as keys are stored.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/progress.h"
#include "calibrate/calibration_file.h"

namespace pith {

struct QueryFinding {
  std::vector<float> direction;  // [layers, heads, dim] unit length, towards the queries
  std::vector<float> mean;       // [layers, heads, dim] of all queries
  std::vector<float> share;      // [layers, heads] of their squares that the direction explains
};

// Throws bad_request if there are no prompts.
QueryFinding find_queries(Engine& engine, std::span<const std::vector<int32_t>> prompts,
                          const std::string& progress_file = {},
                          Monitor& monitor = Monitor::silent());

// queries.direction, queries.mean [layers, heads, dim], queries.share [layers, heads].
std::vector<CalibrationTensor> query_tensors(const QueryFinding& finding, const KvShape& shape);

}  // namespace pith

// Metadata of a file as a ModelConfig, with the numbers its spans point into.
#pragma once

#include <deque>
#include <vector>

#include "model/model.h"

namespace pith {

// Not copied once parsed: rules and ropes of the config point into slopes and inv_freq, which keep
// their place when the struct is moved.
struct ParsedConfig {
  ModelConfig config;
  std::vector<float> slopes;                // ALiBi, [query_heads]
  std::deque<std::vector<float>> inv_freq;  // one per kind of rotation
  ParsedConfig() = default;
  ParsedConfig(ParsedConfig&&) = default;
  ParsedConfig& operator=(ParsedConfig&&) = default;
};

// Throws bad_file or unsupported.
ParsedConfig parse_config(const GgufFile& file);

}  // namespace pith

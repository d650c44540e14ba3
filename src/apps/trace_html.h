// The page of `pith trace --html`: one file, no network, light and dark, usable by keyboard.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "eval/trace_record.h"

namespace pith {

struct Trace {
  std::string model, spec;
  std::vector<int32_t> tokens;
  std::vector<std::string> pieces;  // [tokens] the text each adds
  size_t cache_bytes = 0, full_cache_bytes = 0;
};

std::string trace_page(const Trace& trace, const TraceRecorder& record);

}  // namespace pith

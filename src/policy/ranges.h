// Blocks of a ReadPlan that are marked, as the ranges it lists.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "backend/backend.h"

namespace pith {

// Blocks have ReadPlan::kBlock rows; ranges end at `end` at the latest, and neighbours become one.
inline std::vector<RowRange> marked_ranges(std::span<const uint8_t> blocks, int64_t end) {
  std::vector<RowRange> ranges;
  for (size_t b = 0; b < blocks.size(); ++b) {
    const int64_t first = static_cast<int64_t>(b) * ReadPlan::kBlock;
    if (!blocks[b] || first >= end) continue;
    const int64_t last = std::min(end, first + ReadPlan::kBlock);
    if (!ranges.empty() && ranges.back().last == first)
      ranges.back().last = last;
    else
      ranges.push_back({first, last});
  }
  return ranges;
}

}  // namespace pith

// One head as it lies in a session file: everything that attention and later decisions read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace pith {

// Spans point into the head, until it changes, or into a mapped file. Between prompts only.
struct HeadImage {
  int sealed_pages = 0;
  std::span<const uint8_t> tiers;      // [sealed pages], if the spec has tiers
  std::span<const int32_t> positions;  // [rows]
  std::span<const float> scores;       // [rows]
  std::span<const float> summaries;    // [sealed pages, floats of the policy's reader]
  std::span<const float> pseudo;       // [pseudo rows, 1 + 2 * dim] weight, key, value
  // Sealed pages, then open ones; the last holds only the bytes of its rows.
  std::vector<std::span<const std::byte>> k, v;
  std::vector<float> owned_pseudo;  // behind `pseudo` of an image taken from a head
};

}  // namespace pith

// Which rows of a head go to which tier of the store (StoreSpec::tiers).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kv/store_spec.h"
#include "policy/roles.h"

namespace pith {

struct TierOrder {
  std::vector<int32_t> order;  // rows, those of each page side by side, ascending in each tier
  std::vector<uint8_t> tiers;  // of the full pages: 0 for none
};

// For rows [first, first + older + scores.size()): `older` rows of earlier turns, which go to no
// tier, and rows of a prompt with their scores. The lowest scores go to the last tier, ties the
// higher row first; a tier takes its share of the prompt's rows in whole pages, and never
// protected ones. What is in no tier lies before the tiers in whole pages, but for the newest rows,
// at most a page of them, which lie behind.
TierOrder tier_order(int first, int older, std::span<const float> scores, Protect protect,
                     const StoreSpec& spec);

}  // namespace pith

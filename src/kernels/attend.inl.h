// Causal attention of a tile of queries: plain loops that the vector form replaces.
#pragma once

#include "kernels/table.h"
#include "kernels/vec_math.inl.h"

namespace pith {
namespace {
namespace PITH_TARGET {

inline size_t tile_scratch(int, int, int) {
  return 1;
}
inline void attend_tile(const TileJob&) {}
inline void tile_mass(const TileJob&, float*, int64_t) {}

}  // namespace PITH_TARGET
}  // namespace
}  // namespace pith

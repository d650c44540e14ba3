// Rotary positions of the keys of a layer, for those who turn rows back and forth one by one.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/table.h"
#include "tensor/kv_shape.h"

namespace pith {

// Turns rows to their positions and back. A position is a number to the base of 256, and its angle
// a sum of as many angles as that has digits, whose cosines and sines lie in tables: no row takes a
// cosine. Rope::magnitude is left out, which rows that were turned before have already. Cosines and
// sines are within 1e-6 of those of the angle.
class KeyTurns {
 public:
  explicit KeyTurns(const Rope& rope);  // turns something; its frequencies are copied

  bool is(const Rope& rope) const;  // turns keys as it does
  // Turns rows [positions.size(), dim] in place, `way` 1: to their positions, -1: back to 0.
  // scratch: scratch_floats().
  void turn(const KernelTable& table, float* rows, int dim, std::span<const int32_t> positions,
            int way, float* scratch) const;
  size_t scratch_floats() const { return 2 * inv_freq_.size(); }
  size_t bytes() const;  // of its tables

 private:
  static constexpr int kBits = 8, kDigits = 3;
  void angles(int32_t position, int way, float* cos, float* sin) const;

  std::vector<float> inv_freq_;
  bool half_split_ = false;
  std::array<std::vector<float>, kDigits> cos_, sin_;  // [256, pairs]
};

}  // namespace pith

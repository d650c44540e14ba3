// Rows of random weights straight in their format, as fast as random bits can be made: block codes
// are random bits, and the scales around them are chosen so that the values have the wanted spread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "tensor/dtype.h"

namespace pith {

class RandomRows {
 public:
  // Values of mean about 0 and root mean square `spread`.
  RandomRows(DType dtype, float spread, uint64_t seed);

  // Fills whole blocks; `block` is the number of the first one in the tensor. The same bytes
  // however a tensor is cut into calls.
  void fill(std::span<std::byte> out, int64_t block) const;

 private:
  void fill_block(std::byte* out, int64_t block, uint16_t d, uint16_t m) const;

  DType dtype_;
  uint64_t seed_;
  uint16_t d_ = 0, m_ = 0;        // block formats: f16
  std::vector<uint32_t> values_;  // plain formats: bits of 256 normal values to draw from
};

}  // namespace pith

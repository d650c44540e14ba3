// Formats of weights. The numbers are GGUF's own, so a file's type field converts by a cast once
// `known` has said yes. Block formats group `block_elements` values of a row.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace pith {

enum class DType : uint8_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q2_k = 10,
  q3_k = 11,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  iq4_nl = 20,
  iq4_xs = 23,
  bf16 = 30,
};

struct DTypeTraits {
  DType dtype;
  std::string_view name;  // as llama.cpp prints it: "F16", "Q4_K"
  int block_elements;     // 1, 32 or 256
  int block_bytes;
};

bool known(uint32_t gguf_type);
const DTypeTraits& traits(DType dtype);
bool parse_dtype(std::string_view name, DType& dtype);  // any case; false: no such format

// Bytes of `elements` values of one row; `elements` is a multiple of block_elements.
size_t row_bytes(DType dtype, int64_t elements);

}  // namespace pith

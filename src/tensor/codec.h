// The definition of every weight format: blocks to floats and back, in plain scalar code. The
// kernels' vector forms are compared with these. Formats are those of GGUF / ggml, as documented
// in docs/formats.md.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tensor/dtype.h"

namespace pith {

// n is a multiple of the format's block_elements.
void decode_row(DType dtype, const std::byte* row, int64_t n, float* out);

bool can_encode(DType dtype);  // F32, F16, BF16, Q8_0, Q4_0, Q4_K, Q6_K at least
// Deterministic; non-finite input is the caller's to refuse.
void encode_row(DType dtype, const float* x, int64_t n, std::byte* row);

}  // namespace pith

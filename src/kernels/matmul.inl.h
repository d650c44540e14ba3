// Weight matrices in GGUF blocks times float activations.
#pragma once

#include "kernels/table.h"
#include "kernels/vec_math.inl.h"

namespace pith {
namespace {
namespace PITH_TARGET {

inline size_t matmul_scratch(int64_t) {
  return 1;
}
inline void matmul(const MatmulJob&) {}
inline void dequantise(DType, const std::byte*, int64_t, float*) {}

}  // namespace PITH_TARGET
}  // namespace
}  // namespace pith

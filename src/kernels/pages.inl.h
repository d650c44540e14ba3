// Page formats: plain loops that the vector form replaces.
#pragma once

#include "kernels/table.h"
#include "kernels/vec_math.inl.h"

namespace pith {
namespace {
namespace PITH_TARGET {

inline size_t page_bytes_f32(int rows, int dim) {
  return static_cast<size_t>(rows) * static_cast<size_t>(dim) * 4;
}
inline size_t page_bytes_f16(int rows, int dim) {
  return static_cast<size_t>(rows) * static_cast<size_t>(dim) * 2;
}

// In the order of Quant.
constexpr PageKernels kPages[kQuantCount] = {
    {page_bytes_f32, nullptr, nullptr, nullptr, nullptr},
    {page_bytes_f16, nullptr, nullptr, nullptr, nullptr},
};

}  // namespace PITH_TARGET
}  // namespace
}  // namespace pith

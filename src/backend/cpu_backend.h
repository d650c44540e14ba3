// The backend that is always there: splits work over threads and calls the active kernel table.
#pragma once

#include <cstdint>
#include <memory>

#include "backend/backend.h"

namespace pith {

// How weights in blocks (every format but F32, F16 and BF16) meet activations. int8: activations
// are coded in 8 bits too and products are sums of integers, several times faster; so do rows of
// prompts meet F16 and BF16 weights, in 14 bits, where the target is faster that way. f32:
// everything is a float, prompt attention too, the reference that docs/numerics.md measures int8
// against.
enum class MatmulForm : uint8_t { int8, f32 };

// 0 threads: one per core.
std::unique_ptr<Backend> make_cpu_backend(int threads, MatmulForm matmul = MatmulForm::int8);

}  // namespace pith

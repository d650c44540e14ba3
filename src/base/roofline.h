// What this machine can do at most, measured in the same run as what is compared with it: shared
// machines drift by half within minutes.
#pragma once

namespace pith {

// Per second, of all threads together. A multiply-add is two operations.
struct Roofline {
  double flops = 0;       // of f32; 0, as the next two, where nobody wrote the measurement
  double word_ops = 0;    // of 16-bit integers, summed in 32
  double byte_ops = 0;    // of bytes, as the integer kernels do them
  double read_bytes = 0;  // from memory far larger than any cache
};

// Measured at the first call for a thread count (half a second), then remembered. Not to be called
// by two threads at once.
const Roofline& roofline(int threads);

}  // namespace pith

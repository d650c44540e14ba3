// What this machine can do at most, measured in the same run as what is compared with it: shared
// machines drift by half within minutes.
#pragma once

namespace pith::bench {

struct Roofline {
  double flops;  // multiplications and additions of f32 per second
  double ops;    // the same of bytes, as the integer kernels do them
  double bytes;  // per second, read from memory far larger than any cache
};

// Measured at the first call for a thread count (about a second), then remembered.
const Roofline& roofline(int threads);

}  // namespace pith::bench

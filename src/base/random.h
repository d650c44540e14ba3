// A counter-based generator (SplitMix64 on seed and counter): the same numbers on every machine,
// in any order, from any thread. Used for weights, tasks and sampling alike.
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>

namespace pith {

class Random {
 public:
  explicit Random(uint64_t seed, uint64_t counter = 0) : seed_(seed), counter_(counter) {}

  uint64_t next() { return mix(seed_ ^ mix(counter_++)); }
  // In [0, 1).
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  float uniform(float low, float high) {
    return low + (high - low) * static_cast<float>(uniform());
  }
  // In [0, n); the bias of 2^-64 * n is accepted.
  uint64_t below(uint64_t n) {
    __extension__ using Wide = unsigned __int128;
    return static_cast<uint64_t>((static_cast<Wide>(next()) * n) >> 64);
  }
  float normal() {
    const double radius = std::sqrt(-2 * std::log(1 - uniform()));
    return static_cast<float>(radius * std::cos(2 * std::numbers::pi * uniform()));
  }
  uint64_t counter() const { return counter_; }  // with the seed, all there is to save

 private:
  static uint64_t mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
  }
  uint64_t seed_, counter_;
};

}  // namespace pith

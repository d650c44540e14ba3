#include "kernels/key_turns.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace pith {

KeyTurns::KeyTurns(const Rope& rope)
    : inv_freq_(rope.inv_freq.begin(), rope.inv_freq.end()), half_split_(rope.half_split) {
  PITH_CHECK(!inv_freq_.empty(), "keys that are turned have frequencies");
  constexpr int kValues = 1 << kBits;
  const size_t pairs = inv_freq_.size();
  for (size_t digit = 0; digit < kDigits; ++digit) {
    cos_[digit].resize(kValues * pairs);
    sin_[digit].resize(kValues * pairs);
    for (int value = 0; value < kValues; ++value)
      for (size_t i = 0; i < pairs; ++i) {
        const double position = std::ldexp(value, kBits * static_cast<int>(digit));
        const size_t at = static_cast<size_t>(value) * pairs + i;
        cos_[digit][at] =
            static_cast<float>(std::cos(position * static_cast<double>(inv_freq_[i])));
        sin_[digit][at] =
            static_cast<float>(std::sin(position * static_cast<double>(inv_freq_[i])));
      }
  }
}

size_t KeyTurns::bytes() const {
  size_t numbers = inv_freq_.capacity();
  for (const auto* tables : {&cos_, &sin_})
    for (const std::vector<float>& table : *tables) numbers += table.capacity();
  return numbers * sizeof(float);
}

bool KeyTurns::is(const Rope& rope) const {
  return half_split_ == rope.half_split && std::ranges::equal(inv_freq_, rope.inv_freq);
}

void KeyTurns::angles(int32_t position, int way, float* cos, float* sin) const {
  const size_t pairs = inv_freq_.size();
  const float sign = way < 0 ? -1.0f : 1.0f;
  const auto digits = static_cast<uint32_t>(position);
  if (digits >> (kBits * kDigits) != 0) {
    for (size_t i = 0; i < pairs; ++i) {
      const double angle = static_cast<double>(position) * static_cast<double>(inv_freq_[i]);
      cos[i] = static_cast<float>(std::cos(angle));
      sin[i] = sign * static_cast<float>(std::sin(angle));
    }
    return;
  }
  constexpr uint32_t kMask = (1u << kBits) - 1;
  const size_t low = (digits & kMask) * pairs, middle = ((digits >> kBits) & kMask) * pairs,
               high = (digits >> (2 * kBits)) * pairs;
  const float *c0 = cos_[0].data() + low, *s0 = sin_[0].data() + low, *c1 = cos_[1].data() + middle,
              *s1 = sin_[1].data() + middle;
  for (size_t i = 0; i < pairs; ++i) {
    cos[i] = c0[i] * c1[i] - s0[i] * s1[i];
    sin[i] = sign * (s0[i] * c1[i] + c0[i] * s1[i]);
  }
  if (high == 0) return;
  const float *c2 = cos_[2].data() + high, *s2 = sin_[2].data() + high;
  for (size_t i = 0; i < pairs; ++i) {
    const float c = cos[i], s = sin[i];
    cos[i] = c * c2[i] - sign * (s * s2[i]);
    sin[i] = s * c2[i] + sign * (c * s2[i]);
  }
}

void KeyTurns::turn(const KernelTable& table, float* rows, int dim,
                    std::span<const int32_t> positions, int way, float* scratch) const {
  const size_t pairs = inv_freq_.size();
  PITH_CHECK(static_cast<int>(2 * pairs) <= dim, "a rotation fits into a head");
  float *const cos = scratch, *const sin = scratch + pairs;
  for (const int32_t position : positions) {
    angles(position, way, cos, sin);
    table.rotate(rows, cos, sin, static_cast<int>(pairs), half_split_);
    rows += dim;
  }
}

}  // namespace pith

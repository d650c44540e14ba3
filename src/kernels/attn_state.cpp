#include "kernels/attn_state.h"

#include <algorithm>
#include <cmath>

namespace pith {

namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();

// acc = acc * a + value * b, without the product by one that most rows would pay for.
void blend(std::span<float> acc, float a, std::span<const float> value, float b) {
  if (a != 1)
    for (float& x : acc) x *= a;
  for (size_t d = 0; d < acc.size(); ++d) acc[d] += b * value[d];
}

}  // namespace

void absorb(AttnState& into, float logit, std::span<const float> value) {
  if (logit == kNothing) return;  // exp(-inf - -inf) would be NaN in an empty state
  const float max = std::max(into.max, logit);
  const float old = std::exp(into.max - max), fresh = std::exp(logit - max);
  into.sum = into.sum * old + fresh;
  blend(into.acc, old, value, fresh);
  into.max = max;
}

void merge(AttnState& into, const AttnState& other) {
  if (other.max == kNothing) return;
  const float max = std::max(into.max, other.max);
  const float a = std::exp(into.max - max), b = std::exp(other.max - max);
  into.sum = into.sum * a + other.sum * b;
  blend(into.acc, a, other.acc, b);
  into.max = max;
}

void finish(const AttnState& state, std::span<float> out) {
  const float scale = state.sum > 0 ? 1 / state.sum : 0;
  for (size_t d = 0; d < out.size(); ++d) out[d] = state.acc[d] * scale;
}

}  // namespace pith

// Norms, rotation, activations: everything that meets a row of activations number by number.
#pragma once

#include "kernels/table.h"
#include "kernels/vec_math.inl.h"

namespace pith {
namespace {
namespace PITH_TARGET {

// The last n % lanes numbers take the same path as the others, in a part of a vector: a number's
// result does not depend on where in the row it stands.
template <class Function>
void map(const float* x, int64_t n, float* out, Function function) {
  int64_t i = 0;
  for (; i + Vec::lanes <= n; i += Vec::lanes) store(out + i, function(Vec::load(x + i)));
  if (const int rest = static_cast<int>(n - i); rest > 0)
    store_part(out + i, rest, function(Vec::load_part(x + i, rest)));
}

template <class Function>
void map(const float* x, const float* y, int64_t n, float* out, Function function) {
  int64_t i = 0;
  for (; i + Vec::lanes <= n; i += Vec::lanes)
    store(out + i, function(Vec::load(x + i), Vec::load(y + i)));
  if (const int rest = static_cast<int>(n - i); rest > 0)
    store_part(out + i, rest, function(Vec::load_part(x + i, rest), Vec::load_part(y + i, rest)));
}

// Sum over i of function(x[i], y[i]) in four chains, so that it does not wait for one addition
// after the other.
template <class Function>
float gather_sum(const float* x, const float* y, int64_t n, Function function) {
  constexpr int kStep = 4 * Vec::lanes;
  Vec a = Vec::zero(), b = a, c = a, d = a;
  int64_t i = 0;
  for (; i + kStep <= n; i += kStep) {
    const float *p = x + i, *q = y + i;
    a = function(Vec::load(p), Vec::load(q), a);
    b = function(Vec::load(p + Vec::lanes), Vec::load(q + Vec::lanes), b);
    c = function(Vec::load(p + 2 * Vec::lanes), Vec::load(q + 2 * Vec::lanes), c);
    d = function(Vec::load(p + 3 * Vec::lanes), Vec::load(q + 3 * Vec::lanes), d);
  }
  for (; i + Vec::lanes <= n; i += Vec::lanes) a = function(Vec::load(x + i), Vec::load(y + i), a);
  if (const int rest = static_cast<int>(n - i); rest > 0)
    b = function(Vec::load_part(x + i, rest), Vec::load_part(y + i, rest), b);
  return sum((a + b) + (c + d));
}

inline float dot(const float* a, const float* b, int64_t n) {
  return gather_sum(a, b, n, [](Vec x, Vec y, Vec total) { return mul_add(x, y, total); });
}

inline void rms_norm(const float* x, const float* gain, float eps, int64_t n, float* out) {
  const float mean = dot(x, x, n) / static_cast<float>(n);
  const Vec scale = Vec::all(1.0f / square_root(mean + eps));
  map(x, gain, n, out, [scale](Vec a, Vec g) { return a * scale * g; });
}

inline void layer_norm(const float* x, const float* gain, const float* bias, float eps, int64_t n,
                       float* out) {
  const float count = static_cast<float>(n);
  const float mean = gather_sum(x, x, n, [](Vec a, Vec, Vec total) { return total + a; }) / count;
  // The part of a vector behind the row holds zeros, not means: deviations go through `out`.
  const Vec shift = Vec::all(mean);
  map(x, n, out, [shift](Vec a) { return a - shift; });
  const float variance = dot(out, out, n) / count;
  const Vec scale = Vec::all(1.0f / square_root(variance + eps));
  map(out, gain, n, out, [scale](Vec a, Vec g) { return a * scale * g; });
  if (bias) map(out, bias, n, out, [](Vec a, Vec b) { return a + b; });
}

inline void rotate(float* head, const float* cos, const float* sin, int pairs, bool half_split) {
  if (!half_split) {  // neighbours: compilers shuffle this well, and no new model uses it
    for (int i = 0; i < pairs; ++i) {
      const float a = head[2 * i], b = head[2 * i + 1];
      head[2 * i] = a * cos[i] - b * sin[i];
      head[2 * i + 1] = a * sin[i] + b * cos[i];
    }
    return;
  }
  float *low = head, *high = head + pairs;
  int i = 0;
  for (; i + Vec::lanes <= pairs; i += Vec::lanes) {
    const Vec a = Vec::load(low + i), b = Vec::load(high + i);
    const Vec c = Vec::load(cos + i), s = Vec::load(sin + i);
    store(low + i, a * c - b * s);
    store(high + i, a * s + b * c);
  }
  for (; i < pairs; ++i) {
    const float a = low[i], b = high[i];
    low[i] = a * cos[i] - b * sin[i];
    high[i] = a * sin[i] + b * cos[i];
  }
}

inline void silu_mul(const float* gate, const float* up, int64_t n, float* out) {
  map(gate, up, n, out, [](Vec g, Vec u) { return g * logistic(g) * u; });
}

inline void gelu_mul(const float* gate, const float* up, int64_t n, float* out) {
  // (1 + tanh(y)) / 2 = logistic(2 y), which does not cancel for negative y.
  constexpr float kSlope = 2 * 0.79788456080286536f, kCube = kSlope * 0.044715f;
  map(gate, up, n, out, [](Vec g, Vec u) {
    const Vec y = g * mul_add(g * g, Vec::all(kCube), Vec::all(kSlope));
    return g * logistic(y) * u;
  });
}

inline void gelu(const float* x, int64_t n, float* out) {
  map(x, n, out, [](Vec a) { return a * normal_below(a); });
}

inline void add(const float* x, int64_t n, float* into) {
  map(x, into, n, into, [](Vec a, Vec b) { return a + b; });
}

inline float exp_minus_max(float* x, int64_t n, float max) {
  if (max == -__builtin_inff()) {  // every logit is masked: no row counts, not NaN
    for (int64_t i = 0; i < n; ++i) x[i] = 0;
    return 0;
  }
  const Vec top = Vec::all(max);
  Vec total = Vec::zero();
  int64_t i = 0;
  for (; i + Vec::lanes <= n; i += Vec::lanes) {
    const Vec e = exp(Vec::load(x + i) - top);
    store(x + i, e);
    total = total + e;
  }
  if (const int rest = static_cast<int>(n - i); rest > 0) {
    const Vec e = exp(Vec::load_part(x + i, rest) - top);
    store_part(x + i, rest, e);
    total = total + select(first_lanes(rest), e, Vec::zero());
  }
  return sum(total);
}

inline float max_of(const float* x, int64_t n) {
  Vec top = Vec::all(-__builtin_inff());
  int64_t i = 0;
  for (; i + Vec::lanes <= n; i += Vec::lanes) top = max(Vec::load(x + i), top);
  if (const int rest = static_cast<int>(n - i); rest > 0)
    top = select(first_lanes(rest), max(Vec::load_part(x + i, rest), top), top);
  return largest(top);
}

inline void softcap(float* x, int64_t n, float cap) {
  const Vec limit = Vec::all(cap), inverse = Vec::all(1.0f / cap);
  map(x, n, x, [limit, inverse](Vec a) { return limit * tanh(a * inverse); });
}

}  // namespace PITH_TARGET
}  // namespace
}  // namespace pith

// exp, tanh and the normal distribution on Vec: one text for every target, no library. Errors are
// of one float against double precision and are checked by tests/kernels/kernels_contract_test.cpp;
// polynomials are minimax fits (Remez exchange in exact arithmetic, rounded to float).
#pragma once

#include PITH_VEC

namespace pith {
namespace {
namespace PITH_TARGET {

// Within 1.1 ulp. -inf gives 0, results below 2^-126 are gradual, above the largest float
// infinity; NaN stays NaN.
inline Vec exp(Vec x) {
  constexpr float kLog2e = 1.44269504088896341f;
  constexpr float kLn2High = 0.693145751953125f;  // few enough bits that n * kLn2High is exact
  constexpr float kLn2Low = 1.42860682030941723e-6f;
  constexpr float kRound = 0x1.8p23f;  // adding it rounds to an integer, in the low bits
  // The limit comes first: min and max answer their second operand for NaN.
  x = min(Vec::all(89.0f), max(Vec::all(-104.0f), x));
  const Vec shifted = mul_add(x, Vec::all(kLog2e), Vec::all(kRound));
  const Vec n = shifted - Vec::all(kRound);
  Vec r = mul_add(n, Vec::all(-kLn2High), x);
  r = mul_add(n, Vec::all(-kLn2Low), r);
  Vec p = Vec::all(1.3951719968681936e-3f);
  p = mul_add(p, r, Vec::all(8.369598199619447e-3f));
  p = mul_add(p, r, Vec::all(4.1666187244434424e-2f));
  p = mul_add(p, r, Vec::all(0.16666512890726962f));
  p = mul_add(p, r, Vec::all(0.5f));
  p = mul_add(p, r * r, r) + Vec::all(1.0f);
  // 2^n in two factors, since n reaches from -150 to 128.
  const IVec whole = bits(shifted) - IVec::all(static_cast<int32_t>(0x4b400000));
  const IVec half = shift_right_signed<1>(whole);
  const IVec bias = IVec::all(127);
  const Vec a = from_bits(shift_left<23>(half + bias));
  const Vec b = from_bits(shift_left<23>(whole - half + bias));
  return p * a * b;
}

// Within 2 ulp.
inline Vec tanh(Vec x) {
  const Vec size = abs(x);
  const Vec z = x * x;
  Vec p = Vec::all(-5.693518669595013e-3f);
  p = mul_add(p, z, Vec::all(2.0630410819850963e-2f));
  p = mul_add(p, z, Vec::all(-5.3737613060574854e-2f));
  p = mul_add(p, z, Vec::all(0.13331424797617852f));
  p = mul_add(p, z, Vec::all(-0.33333281643441565f));
  const Vec small = mul_add(p * z, x, x);
  const Vec e = exp(size + size);
  const Vec large = Vec::all(1.0f) - Vec::all(2.0f) / (e + Vec::all(1.0f));
  return select(less(size, Vec::all(0.625f)), small, copy_sign(large, x));
}

// 1 / (1 + exp(-x))
inline Vec logistic(Vec x) {
  return Vec::all(1.0f) / (Vec::all(1.0f) + exp(Vec::zero() - x));
}

// The share of a normal distribution below x: (1 + erf(x / sqrt 2)) / 2, without the cancellation
// of that form for negative x. With t = |x| / sqrt 2, erfc(t) = exp(-t^2) g(s) / (1 + 2 t) where
// s = (t - 3) / (t + 3) and g is nearly flat.
inline Vec normal_below(Vec x) {
  const Vec t = min(Vec::all(10.5f), abs(x) * Vec::all(0.70710678118654752f));
  const Vec s = (t - Vec::all(3.0f)) / (t + Vec::all(3.0f));
  Vec g = Vec::all(-2.6435679869761904e-4f);
  g = mul_add(g, s, Vec::all(-7.678670866037677e-4f));
  g = mul_add(g, s, Vec::all(2.0076982329770266e-3f));
  g = mul_add(g, s, Vec::all(2.5639469276859785e-3f));
  g = mul_add(g, s, Vec::all(-2.3801516946711187e-2f));
  g = mul_add(g, s, Vec::all(6.829577376368477e-2f));
  g = mul_add(g, s, Vec::all(-0.11927024559690706f));
  g = mul_add(g, s, Vec::all(0.12964648326675238f));
  g = mul_add(g, s, Vec::all(-4.7562441838998326e-2f));
  g = mul_add(g, s, Vec::all(-0.13562114245367107f));
  g = mul_add(g, s, Vec::all(1.2530080595167168f));
  const Vec e = exp(Vec::all(-0.5f) * x * x);
  const Vec tail = Vec::all(0.5f) * e * g / mul_add(t, Vec::all(2.0f), Vec::all(1.0f));
  return select(less(x, Vec::zero()), tail, Vec::all(1.0f) - tail);
}

}  // namespace PITH_TARGET
}  // namespace
}  // namespace pith

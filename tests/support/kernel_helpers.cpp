#include "support/kernel_helpers.h"

#include <cstring>

#include "tensor/blocks.h"
#include "tensor/half.h"

namespace pith::test {
namespace {

// Where the halves of a block are, and how large a scale makes weights of about +-1.
struct Halves {
  DType dtype;
  int d, m;  // offsets; -1: none
  float scale;
};
constexpr Halves kHalves[] = {
    {DType::q8_0, offsetof(BlockQ80, d), -1, 1.0f / 127},
    {DType::q4_0, offsetof(BlockQ40, d), -1, 1.0f / 8},
    {DType::q4_1, offsetof(BlockQ41, d), offsetof(BlockQ41, m), 1.0f / 8},
    {DType::q5_0, offsetof(BlockQ50, d), -1, 1.0f / 16},
    {DType::q5_1, offsetof(BlockQ51, d), offsetof(BlockQ51, m), 1.0f / 16},
    {DType::q2_k, offsetof(BlockQ2K, d), offsetof(BlockQ2K, m), 1.0f / 32},
    {DType::q3_k, offsetof(BlockQ3K, d), -1, 1.0f / 128},
    {DType::q4_k, offsetof(BlockQ4K, d), offsetof(BlockQ4K, m), 1.0f / 512},
    {DType::q5_k, offsetof(BlockQ5K, d), offsetof(BlockQ5K, m), 1.0f / 1024},
    {DType::q6_k, offsetof(BlockQ6K, d), -1, 1.0f / 4096},
    {DType::iq4_nl, offsetof(BlockIq4Nl, d), -1, 1.0f / 127},
    {DType::iq4_xs, offsetof(BlockIq4Xs, d), -1, 1.0f / 4096},
};

void put_half(std::byte* at, float x) {
  const uint16_t half = float_to_half(x);
  std::memcpy(at, &half, sizeof half);
}

// `number` gives scales and minima in units of what makes weights of about +-1.
template <class Number>
void put_scales(DType dtype, std::vector<std::byte>& bytes, Number number) {
  for (const Halves& h : kHalves) {
    if (h.dtype != dtype) continue;
    const size_t size = static_cast<size_t>(traits(dtype).block_bytes);
    for (size_t at = 0; at < bytes.size(); at += size) {
      put_half(&bytes[at + static_cast<size_t>(h.d)], h.scale * number());
      if (h.m >= 0) put_half(&bytes[at + static_cast<size_t>(h.m)], h.scale * number());
    }
  }
}

}  // namespace

std::vector<std::byte> random_weights(DType dtype, int64_t rows, int64_t cols, Random& random) {
  std::vector<std::byte> bytes(row_bytes(dtype, cols) * static_cast<size_t>(rows));
  const size_t n = static_cast<size_t>(rows * cols);
  switch (dtype) {
    case DType::f32:
      for (size_t i = 0; i < n; ++i) {
        const float x = random.uniform(-1, 1);
        std::memcpy(&bytes[4 * i], &x, sizeof x);
      }
      return bytes;
    case DType::f16:
      for (size_t i = 0; i < n; ++i) put_half(&bytes[2 * i], random.uniform(-1, 1));
      return bytes;
    case DType::bf16:
      for (size_t i = 0; i < n; ++i) {
        const uint16_t x = float_to_bf16(random.uniform(-1, 1));
        std::memcpy(&bytes[2 * i], &x, sizeof x);
      }
      return bytes;
    default:
      break;
  }
  for (std::byte& b : bytes) b = static_cast<std::byte>(random.next());
  put_scales(dtype, bytes, [&] { return random.uniform(-1, 1); });
  return bytes;
}

std::vector<std::byte> uniform_weights(DType dtype, int64_t rows, int64_t cols, std::byte code) {
  std::vector<std::byte> bytes(row_bytes(dtype, cols) * static_cast<size_t>(rows), code);
  put_scales(dtype, bytes, [] { return 1.0f; });
  return bytes;
}

std::vector<float> uniform_floats(size_t n, float low, float high, Random& random) {
  std::vector<float> x(n);
  for (float& value : x) value = random.uniform(low, high);
  return x;
}

}  // namespace pith::test

// What tests of kernels share: buffers whose surroundings are watched, and weights of any format.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/random.h"
#include "tensor/dtype.h"

namespace pith::test {

// `n` values between two rows of guards. `shift` moves them off any alignment but their own.
template <class T>
class Guarded {
 public:
  explicit Guarded(size_t n, T fill = T{}, size_t shift = 1)
      : values_(kGuards + shift + n + kGuards, guard()), first_(kGuards + shift), n_(n) {
    for (T& x : span()) x = fill;
  }
  T* data() { return values_.data() + first_; }
  std::span<T> span() { return {data(), n_}; }
  bool guards_stand() const {
    for (size_t i = 0; i < values_.size(); ++i)
      if ((i < first_ || i >= first_ + n_) && values_[i] != guard()) return false;
    return true;
  }

 private:
  static constexpr size_t kGuards = 32;
  static T guard() { return static_cast<T>(85); }
  std::vector<T> values_;
  size_t first_, n_;
};

inline constexpr DType kDTypes[] = {DType::f32,  DType::f16,    DType::bf16,  DType::q8_0,
                                    DType::q4_0, DType::q4_1,   DType::q5_0,  DType::q5_1,
                                    DType::q2_k, DType::q3_k,   DType::q4_k,  DType::q5_k,
                                    DType::q6_k, DType::iq4_nl, DType::iq4_xs};

// Rows of weights of ordinary size: any codes, scales that make weights of about +-1.
std::vector<std::byte> random_weights(DType dtype, int64_t rows, int64_t cols, Random& random);

// The same in a block format, with `code` in every byte but those of the halves.
std::vector<std::byte> uniform_weights(DType dtype, int64_t rows, int64_t cols, std::byte code);

std::vector<float> uniform_floats(size_t n, float low, float high, Random& random);

}  // namespace pith::test

// Equality of floats bit by bit: NaN equals itself, and zero is not minus zero.
#pragma once

#include <bit>
#include <cstdint>
#include <gtest/gtest.h>
#include <vector>

namespace pith::test {

inline ::testing::AssertionResult same_bits(const std::vector<float>& a,
                                            const std::vector<float>& b) {
  if (a.size() != b.size())
    return ::testing::AssertionFailure() << a.size() << " numbers and " << b.size();
  for (size_t i = 0; i < a.size(); ++i)
    if (std::bit_cast<uint32_t>(a[i]) != std::bit_cast<uint32_t>(b[i]))
      return ::testing::AssertionFailure()
             << "number " << i << " of " << a.size() << " is " << a[i] << " and " << b[i];
  return ::testing::AssertionSuccess();
}

}  // namespace pith::test

// A number of any type at any address.
#pragma once

#include <cstddef>

namespace pith {
namespace {
namespace PITH_TARGET {

template <class T>
inline T word(const std::byte* p) {
  T x;
  __builtin_memcpy(&x, p, sizeof x);
  return x;
}

}  // namespace PITH_TARGET
}  // namespace
}  // namespace pith

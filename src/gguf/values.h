// Values of GGUF metadata as they lie in a file: little endian, aligned to nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "gguf/gguf.h"

namespace pith {

template <class T>
T load_value(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

uint64_t scalar_bytes(GgufType type);  // of one value; 0 for strings and arrays
bool is_integer(GgufType type);
bool is_number(GgufType type);  // an integer or a float
// False if the value is beyond int64_t, or the type is no integer.
bool load_integer(GgufType type, const std::byte* from, int64_t& value);
double load_number(GgufType type, const std::byte* from);  // of a type that is_number

}  // namespace pith

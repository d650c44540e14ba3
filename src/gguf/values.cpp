#include "gguf/values.h"

#include <bit>
#include <limits>

namespace pith {

static_assert(std::endian::native == std::endian::little, "GGUF is read as it lies");

uint64_t scalar_bytes(GgufType type) {
  switch (type) {
    case GgufType::u8:
    case GgufType::i8:
    case GgufType::boolean:
      return 1;
    case GgufType::u16:
    case GgufType::i16:
      return 2;
    case GgufType::u32:
    case GgufType::i32:
    case GgufType::f32:
      return 4;
    case GgufType::u64:
    case GgufType::i64:
    case GgufType::f64:
      return 8;
    case GgufType::string:
    case GgufType::array:
      return 0;
  }
  return 0;
}

bool is_integer(GgufType type) {
  switch (type) {
    case GgufType::u8:
    case GgufType::i8:
    case GgufType::u16:
    case GgufType::i16:
    case GgufType::u32:
    case GgufType::i32:
    case GgufType::u64:
    case GgufType::i64:
      return true;
    default:
      return false;
  }
}

bool is_number(GgufType type) {
  return is_integer(type) || type == GgufType::f32 || type == GgufType::f64;
}

bool load_integer(GgufType type, const std::byte* from, int64_t& value) {
  switch (type) {
    case GgufType::u8:
      value = load_value<uint8_t>(from);
      return true;
    case GgufType::i8:
      value = load_value<int8_t>(from);
      return true;
    case GgufType::u16:
      value = load_value<uint16_t>(from);
      return true;
    case GgufType::i16:
      value = load_value<int16_t>(from);
      return true;
    case GgufType::u32:
      value = load_value<uint32_t>(from);
      return true;
    case GgufType::i32:
      value = load_value<int32_t>(from);
      return true;
    case GgufType::i64:
      value = load_value<int64_t>(from);
      return true;
    case GgufType::u64: {
      const uint64_t wide = load_value<uint64_t>(from);
      value = static_cast<int64_t>(wide);
      return wide <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
    }
    default:
      return false;
  }
}

double load_number(GgufType type, const std::byte* from) {
  if (type == GgufType::f32) return load_value<float>(from);
  if (type == GgufType::f64) return load_value<double>(from);
  if (type == GgufType::u64) return static_cast<double>(load_value<uint64_t>(from));
  int64_t value = 0;
  load_integer(type, from, value);
  return static_cast<double>(value);
}

}  // namespace pith

#include "text/byte_letters.h"

#include <algorithm>
#include <array>

#include "text/utf8.h"

namespace pith {
namespace {

struct Alphabet {
  std::array<char32_t, 256> letter{};
  std::array<int, 0x100 + 68> byte{};  // by letter; -1: none

  Alphabet() {
    std::ranges::fill(byte, -1);
    char32_t next = 0x100;
    for (int b = 0; b < 256; ++b) {
      const bool prints = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b != 0xad);
      letter[b] = prints ? static_cast<char32_t>(b) : next++;
      byte[letter[b]] = b;
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet instance;
  return instance;
}

}  // namespace

char32_t letter_of_byte(uint8_t byte) {
  return alphabet().letter[byte];
}

std::string bytes_of_letters(std::string_view name) {
  std::string bytes;
  while (!name.empty()) {
    const int length = std::max(utf8_length(name), 1);
    const char32_t letter = utf8_length(name) == 0 ? char32_t{0xfffd} : utf8_decode(name, length);
    const int byte = letter < alphabet().byte.size() ? alphabet().byte[letter] : -1;
    if (byte < 0)
      bytes += name.substr(0, length);
    else
      bytes += static_cast<char>(byte);
    name.remove_prefix(length);
  }
  return bytes;
}

std::string letters_of_bytes(std::string_view bytes) {
  std::string name;
  for (const char byte : bytes) utf8_append(name, letter_of_byte(static_cast<uint8_t>(byte)));
  return name;
}

}  // namespace pith

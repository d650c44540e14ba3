// The alphabet of byte-level BPE: every byte has a printable letter, so that names of tokens are
// text. Printable Latin-1 letters stand for themselves, the other 68 bytes for U+0100 onwards.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace pith {

char32_t letter_of_byte(uint8_t byte);
// The bytes a name spells. What is no letter of the alphabet stands for itself.
std::string bytes_of_letters(std::string_view name);
std::string letters_of_bytes(std::string_view bytes);

}  // namespace pith

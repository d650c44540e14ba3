// The little of UTF-8 that tokenizers need: where characters begin and end, and which bytes are
// none. Well-formed means Unicode's table 3-7: no overlong forms, no surrogates, at most U+10FFFF.
#pragma once

#include <string>
#include <string_view>

namespace pith {

// Bytes of the well-formed character at the front of `text`; 0 if there is none.
int utf8_length(std::string_view text);
// Bytes at the end of `text` that begin a character and lack its rest; 0 to 3.
int utf8_unfinished(std::string_view text);
// Bytes from the front of `text` that are well formed.
size_t utf8_valid_prefix(std::string_view text);
// The character whose utf8_length is `length`.
char32_t utf8_decode(std::string_view text, int length);
void utf8_append(std::string& out, char32_t character);

}  // namespace pith

// The text that needles lie in: the user's, or plain English that we write ourselves.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/random.h"

namespace pith {

// At least `words` words of plain prose: short connected scenes of invented people in invented
// towns, one paragraph each, from a grammar and word lists of our own. No digits, no repetition:
// every sentence is drawn anew. The same seed begins with the same text however many words follow.
std::string write_prose(uint64_t seed, int words);

// The words of a text, whatever space is between them.
std::vector<std::string> split_words(std::string_view text);
// `count` words joined by blanks; the list begins again where it ends.
std::string first_words(const std::vector<std::string>& words, int count);
// Cut behind . ! or ?, where a blank and a capital letter (or a quotation mark) follow.
std::vector<std::string> split_sentences(std::string_view text);

}  // namespace pith

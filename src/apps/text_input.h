// Text that a command reads: from a flag, a file or standard input.
#pragma once

#include <string>
#include <string_view>

#include "apps/arguments.h"

namespace pith {

struct TextArguments {
  std::string prompt, file;
  bool given_prompt = false, escapes = false;
};
void declare_text(Arguments& arguments, TextArguments& text, std::string_view what);
// Throws bad_option if nothing is given and standard input is a terminal.
std::string read_text(const TextArguments& text, std::string_view what);

std::string read_file(const std::string& path);  // "-" is standard input
std::string unescape(std::string_view text);     // \n \t \r \\ \" \xNN; others stay

}  // namespace pith

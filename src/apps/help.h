// Texts about commands, all made from their declarations.
#pragma once

#include <string>

#include "apps/command.h"

namespace pith {

inline constexpr std::string_view kDescription =
    "pith runs large language models on long prompts with a compressed key/value cache.";
inline constexpr std::string_view kIsaDescription =
    "chooses the instruction set of the kernels: scalar, avx2, avx512 or neon; by default the best "
    "that the machine has";

struct ExitStatus {
  int code;
  std::string_view meaning;
};
inline constexpr ExitStatus kExitStatus[] = {
    {0, "done"},
    {1, "a file or the machine refused"},
    {2, "the command line or a method spec does not parse"},
    {130, "interrupted"},
};

std::string program_help();                        // `pith --help`
std::string command_help(const Command& command);  // `pith <command> --help`
std::string group_help(std::string_view group);    // `pith calibrate --help`
bool is_group(std::string_view word);              // the first word of two-word commands
std::string version_text();                        // `pith --version`, one line

// "pith run -m FILE [options] [PROMPT]"
std::string usage_line(const Command& command, const Arguments& arguments);

// The doc with what else help says: required, default, repeatable.
std::string argument_doc(const Argument& argument);

// Breaks paragraphs at `width` columns; continuation lines start with `indent` spaces, and so does
// the first unless `hanging`.
std::string wrap(std::string_view text, size_t width, size_t indent, bool hanging = false);

}  // namespace pith

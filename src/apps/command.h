// What a command is to the command line: a name, texts for --help, the man page and completion, and
// a function that declares arguments and says what to do with them. One file per command; the list
// of all is in main.cpp.
#pragma once

#include <functional>
#include <span>
#include <string_view>

#include "apps/arguments.h"

namespace pith {

struct Command {
  std::string_view name;         // "inspect"; two words for a part of a group: "calibrate tsp"
  std::string_view summary;      // one line, lower case, no full stop
  std::string_view description;  // paragraphs separated by an empty line; wrapped when shown
  std::string_view examples;     // lines of a shell session, shown by --help and the man page
  // Declares the arguments and returns what to do once they are read; its result is the exit
  // code. Errors are thrown (base/error.h). The variables that arguments fill live in what the
  // returned function holds.
  std::function<int()> (*setup)(Arguments& arguments);
};

// One per file of this folder.
extern const Command kRunCommand, kChatCommand, kBenchCommand, kPerplexityCommand, kEvalCommand,
    kMethodsCommand, kInspectCommand, kTokenizeCommand, kConvertCommand, kQuantizeCommand,
    kCalibrateTspCommand, kCalibrateHeadsCommand, kCalibrateEntropyCommand, kCalibrateSpansCommand,
    kCalibrateQueriesCommand, kCalibrateBasisCommand, kCalibrateProfileCommand, kDemoCommand,
    kTraceCommand, kTrainCommand, kDistillCommand, kCompletionCommand, kManCommand;

// All of them, in the order of `pith --help`.
std::span<const Command* const> commands();
// The command of that name, or null.
const Command* find_command(std::string_view name);

}  // namespace pith

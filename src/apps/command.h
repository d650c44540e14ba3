// What a command is to the command line: a name, texts for --help, the man page and completion, and
// a function that declares options and says what to do with them.
#pragma once

#include <functional>
#include <string_view>

namespace CLI {
class App;
}

namespace pith {

struct Command {
  std::string_view name;      // "inspect"
  std::string_view summary;   // one line
  std::string_view examples;  // lines of a shell session, shown by --help and the man page
  // Declares the options on `app` and returns what to do once they are parsed; its result is the
  // exit code. Errors are thrown (base/error.h).
  std::function<int()> (*setup)(CLI::App& app);
};

// One per file of this folder.
extern const Command kRunCommand, kChatCommand, kBenchCommand, kPerplexityCommand, kMethodsCommand,
    kInspectCommand, kTokenizeCommand, kConvertCommand, kQuantizeCommand, kCalibrateCommand,
    kDemoCommand;

}  // namespace pith

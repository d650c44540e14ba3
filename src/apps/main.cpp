#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <iterator>
#include <new>
#include <string>
#include <system_error>
#include <unistd.h>
#include <vector>

#include "apps/apps.h"
#include "apps/command.h"
#include "apps/help.h"
#include "apps/standard_output.h"
#include "apps/stop.h"
#include "base/error.h"

namespace pith {
namespace {

constexpr const Command* kCommands[] = {
    &kRunCommand,
    &kChatCommand,
    &kDemoCommand,
    &kTraceCommand,
    &kBenchCommand,
    &kPerplexityCommand,
    &kEvalCommand,
    &kMethodsCommand,
    &kInspectCommand,
    &kTokenizeCommand,
    &kConvertCommand,
    &kQuantizeCommand,
    &kCalibrateTspCommand,
    &kCalibrateHeadsCommand,
    &kCalibrateEntropyCommand,
    &kCalibrateSpansCommand,
    &kCalibrateQueriesCommand,
    &kCalibrateBasisCommand,
    &kCalibrateProfileCommand,
    &kTrainCommand,
    &kDistillCommand,
    &kCompletionCommand,
    &kManCommand,
};

int exit_code(Errc code) {
  if (code == Errc::bad_option) return 2;
  return code == Errc::interrupted ? 130 : 1;
}

void print_error(std::string sentence) {
  std::ranges::replace(sentence, '\n', ' ');
  std::fflush(stdout);
  std::fprintf(stderr, "pith: %s\n", sentence.c_str());
}

void print(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
}

[[noreturn]] void refuse_command(const std::string& word) {
  if (word.starts_with("-"))
    throw Error(Errc::bad_option, "no option '" + word +
                                      "' before a command; 'pith --help' says "
                                      "what there is");
  std::vector<std::string> names;
  for (const Command* command : commands()) {
    names.emplace_back(command->name.substr(0, command->name.find(' ')));
  }
  const std::string near = closest(word, names);
  throw Error(Errc::bad_option,
              "no command '" + word + "'" +
                  (near.empty() ? "; 'pith --help' lists them" : "; did you mean '" + near + "'?"));
}

int dispatch(std::vector<std::string> words) {
  if (words.empty()) {
    std::fputs(program_help().c_str(), stderr);
    return 2;
  }
  if (words[0] == "--version" || words[0] == "version") {
    print(version_text() + "\n");
    return 0;
  }
  // "pith help run" is "pith run --help".
  if (words[0] == "help" || words[0] == "--help" || words[0] == "-h") {
    words.erase(words.begin());
    if (words.empty()) {
      print(program_help());
      return 0;
    }
    words.push_back("--help");
  }
  const bool grouped = is_group(words[0]);
  std::string name = words[0];
  if (grouped && words.size() > 1) name += " " + words[1];
  const Command* command = find_command(name);
  const auto rest = words.begin() + (grouped && command != nullptr ? 2 : 1);
  // Nothing after "--" asks for help: it is text.
  const bool help = std::any_of(rest, std::find(rest, words.end(), "--"),
                                [](const std::string& w) { return w == "--help" || w == "-h"; });
  if (command == nullptr && grouped) {
    if (help) {
      print(group_help(words[0]));
      return 0;
    }
    throw Error(Errc::bad_option, words.size() > 1 ? "no command '" + name + "'; 'pith " +
                                                         words[0] + " --help' lists them"
                                                   : "'" + words[0] + "' needs a command; 'pith " +
                                                         words[0] + " --help' lists them");
  }
  if (command == nullptr) refuse_command(words[0]);
  if (help) {
    print(command_help(*command));
    return 0;
  }
  Arguments arguments;
  const std::function<int()> work = command->setup(arguments);
  try {
    parse_arguments(arguments, {rest, words.end()});
  } catch (const Error& error) {
    throw Error(error.code(), name + ": " + error.what());
  }
  return work();
}

}  // namespace

std::span<const Command* const> commands() {
  return kCommands;
}

const Command* find_command(std::string_view name) {
  const auto found = std::ranges::find(kCommands, name, [](const Command* c) { return c->name; });
  return found == std::end(kCommands) ? nullptr : *found;
}

int run_command_line(int argc, char** argv) {
  try {
    forget_interrupt();
    catch_interrupts();
    const int code = dispatch({argv + std::min(argc, 1), argv + argc});
    flush_output();
    return code;
  } catch (const Error& error) {
    print_error(error.what());
    return exit_code(error.code());
  } catch (const std::bad_alloc&) {
    print_error("the system has no memory left for this");
    return 1;
  } catch (const std::system_error& error) {
    // fmt throws where stdio only remembers.
    errno = error.code().value();
    print_error(std::ferror(stdout) != 0 ? output_refusal() : error.what());
    return 1;
  } catch (const std::exception& error) {
    print_error(std::string("an internal error, which is a bug worth reporting: ") + error.what());
    return 1;
  }
}

}  // namespace pith

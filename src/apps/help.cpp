#include "apps/help.h"

#include <algorithm>
#include <array>
#include <vector>

#include "kernels/kernels.h"

namespace pith {
namespace {

constexpr size_t kWidth = 96;
constexpr size_t kDocColumn = 30;

std::string argument_lines(const Argument& argument) {
  std::string line = "  " + argument.usage();
  if (argument.short_name.empty() && !argument.operand()) line.insert(2, 4, ' ');
  const std::string doc = argument_doc(argument);
  if (line.size() + 2 > kDocColumn)
    line += "\n" + std::string(kDocColumn, ' ');
  else
    line.resize(kDocColumn, ' ');
  return line + wrap(doc, kWidth, kDocColumn, true);
}

std::string example_lines(std::string_view examples) {
  std::string text;
  while (!examples.empty()) {
    const std::string_view line = examples.substr(0, examples.find('\n'));
    examples.remove_prefix(std::min(examples.size(), line.size() + 1));
    text += line.empty() ? "\n" : "  " + std::string(line) + "\n";
  }
  return text;
}

std::string summaries(std::string_view group) {
  std::string text;
  for (const Command* command : commands()) {
    if (!group.empty() && !command->name.starts_with(std::string(group) + " ")) continue;
    std::string line = "  " + std::string(command->name);
    line.resize(std::max<size_t>(line.size() + 2, 18), ' ');
    text += line + std::string(command->summary) + "\n";
  }
  return text;
}

}  // namespace

std::string argument_doc(const Argument& argument) {
  std::string doc = argument.doc;
  if (argument.is_required) doc += " (required)";
  if (!argument.fallback.empty()) doc += " (default " + argument.fallback + ")";
  if (argument.is_repeated) doc += "; may be repeated";
  return doc;
}

std::string wrap(std::string_view text, size_t width, size_t indent, bool hanging) {
  std::string out;
  size_t column = 0;
  bool fresh = true;
  const std::string margin(indent, ' ');
  const auto start_line = [&] {
    out += margin;
    column = indent;
    fresh = true;
  };
  if (hanging)
    column = indent;
  else
    start_line();
  while (!text.empty()) {
    if (text.starts_with("\n\n")) {
      text.remove_prefix(2);
      out += "\n\n";
      start_line();
      continue;
    }
    if (text.front() == ' ' || text.front() == '\n') {
      text.remove_prefix(1);
      continue;
    }
    const std::string_view word = text.substr(0, text.find_first_of(" \n"));
    if (!fresh && column + 1 + word.size() > width) {
      out += '\n';
      start_line();
    }
    if (!fresh) {
      out += ' ';
      ++column;
    }
    out += word;
    column += word.size();
    fresh = false;
    text.remove_prefix(word.size());
  }
  return out + '\n';
}

std::string usage_line(const Command& command, const Arguments& arguments) {
  std::string line = "pith " + std::string(command.name);
  bool optional = false;
  for (const Argument& argument : arguments.all()) {
    if (argument.operand()) continue;
    if (argument.is_required)
      line += " " + (argument.short_name.empty() ? argument.long_name : argument.short_name) + " " +
              argument.value;
    else
      optional = true;
  }
  if (optional) line += " [options]";
  for (const Argument& argument : arguments.all()) {
    if (!argument.operand()) continue;
    const std::string word = argument.value + (argument.is_repeated ? "..." : "");
    line += argument.is_required ? " " + word : " [" + word + "]";
  }
  return line;
}

std::string command_help(const Command& command) {
  Arguments arguments;
  command.setup(arguments);
  std::string text =
      "pith " + std::string(command.name) + ": " + std::string(command.summary) + "\n\n";
  text += "Usage: " + usage_line(command, arguments) + "\n";
  if (!command.description.empty()) text += "\n" + wrap(command.description, kWidth, 0);
  std::vector<std::string> sections;
  for (const Argument& argument : arguments.all()) {
    const std::string title = argument.operand() ? "Operands" : argument.section;
    if (std::ranges::find(sections, title) == sections.end()) sections.push_back(title);
  }
  // Operands come first, then options without a heading of their own, then the rest as declared.
  std::ranges::stable_sort(sections, {}, [](const std::string& title) {
    return title == "Operands" ? 0 : title.empty() ? 1 : 2;
  });
  for (const std::string& title : sections) {
    text += "\n" + (title.empty() ? "Options" : title) + "\n";
    for (const Argument& argument : arguments.all())
      if ((argument.operand() ? "Operands" : argument.section) == title)
        text += argument_lines(argument);
  }
  if (!command.examples.empty()) text += "\nExamples\n" + example_lines(command.examples);
  return text;
}

bool is_group(std::string_view word) {
  return std::ranges::any_of(commands(), [&](const Command* command) {
    return command->name.starts_with(std::string(word) + " ");
  });
}

std::string group_help(std::string_view group) {
  return "Usage: pith " + std::string(group) + " <command> [options]\n\nCommands\n" +
         summaries(group) + "\n'pith " + std::string(group) +
         " <command> --help' tells more about one of them.\n";
}

std::string program_help() {
  std::string text = std::string(kDescription) + "\n\nUsage: pith <command> [options]\n";
  text += "       pith <command> --help | pith --version\n\nCommands\n" + summaries({});
  text += "\nExamples\n";
  text += example_lines(
      "$ pith demo\n"
      "$ pith run -m model.gguf -f report.txt --kv snapkv:budget=0.1\n"
      "$ pith methods fastkv");
  std::string codes = "Exit codes:";
  for (const ExitStatus& status : kExitStatus)
    codes += (&status == kExitStatus ? " " : ", ") + std::to_string(status.code) + " " +
             std::string(status.meaning);
  text += "\n" + wrap(codes + ". $PITH_ISA " + std::string(kIsaDescription) + ".", kWidth, 0);
  return text;
}

std::string version_text() {
  return std::string("pith " PITH_VERSION " (") + active_kernels().name + " kernels)";
}

}  // namespace pith

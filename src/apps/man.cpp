// pith man: the manual page and docs/cli.md, written from the same declarations as --help.
#include <cctype>
#include <cstdio>
#include <memory>

#include "apps/help.h"

namespace pith {
namespace {

// Text as troff takes it literally. Hyphens of options must stay hyphens that can be copied.
std::string troff(std::string_view text) {
  std::string out;
  bool line_start = true;
  for (const char c : text) {
    if (line_start && (c == '.' || c == '\'')) out += "\\&";
    if (c == '\\')
      out += "\\e";
    else if (c == '-')
      out += "\\-";
    else
      out += c;
    line_start = c == '\n';
  }
  return out;
}

std::string upper_first(std::string_view text) {
  std::string out(text);
  out.front() = static_cast<char>(std::toupper(static_cast<unsigned char>(out.front())));
  return out;
}

std::string paragraphs(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const size_t end = std::min(text.find("\n\n"), text.size());
    out += ".PP\n" + troff(text.substr(0, end)) + "\n";
    text.remove_prefix(std::min(text.size(), end + 2));
  }
  return out;
}

std::string argument_entry(const Argument& argument) {
  std::string out = ".TP\n";
  const auto bold = [](const std::string& name) { return "\\fB" + troff(name) + "\\fR"; };
  if (argument.operand()) {
    out += "\\fI" + troff(argument.value) + "\\fR\n";
  } else {
    std::string names;
    if (!argument.short_name.empty()) names += bold(argument.short_name);
    if (!names.empty() && !argument.long_name.empty()) names += ", ";
    if (!argument.long_name.empty()) names += bold(argument.long_name);
    out += names + (argument.flag() ? "" : " \\fI" + troff(argument.value) + "\\fR") + "\n";
  }
  return out + troff(argument_doc(argument)) + "\n";
}

std::string command_section(const Command& command) {
  Arguments arguments;
  command.setup(arguments);
  std::string out = ".SS \"pith " + troff(command.name) + "\"\n";
  out += troff(upper_first(command.summary)) + ".\n.PP\n.B " +
         troff(usage_line(command, arguments)) + "\n";
  out += paragraphs(command.description);
  for (const Argument& argument : arguments.all()) out += argument_entry(argument);
  if (!command.examples.empty())
    out += ".PP\nExamples:\n.PP\n.nf\n.RS 4\n" + troff(command.examples) + "\n.RE\n.fi\n";
  return out;
}

std::string man_page() {
  std::string out = ".TH PITH 1 \"\" \"pith " PITH_VERSION "\" \"User Commands\"\n";
  out += ".SH NAME\npith \\- language models on long prompts with a compressed cache\n";
  out += ".SH SYNOPSIS\n.B pith\n.I command\n.RI [ options ]\n.br\n";
  out += ".B pith\n.I command\n.B \\-\\-help\n.br\n.B pith \\-\\-version\n";
  out += ".SH DESCRIPTION\n" + troff(kDescription) + "\n.SH COMMANDS\n";
  for (const Command* command : commands()) out += command_section(*command);
  out += ".SH EXIT STATUS\n";
  for (const ExitStatus& status : kExitStatus)
    out += ".TP\n\\fB" + std::to_string(status.code) + "\\fR\n" + troff(status.meaning) + "\n";
  out += ".SH ENVIRONMENT\n.TP\n\\fBPITH_ISA\\fR\n" + troff(kIsaDescription) + "\n";
  return out;
}

// ---- Markdown ----

std::string cell(std::string_view text) {
  std::string out;
  for (const char c : text) out += c == '|' ? std::string("\\|") : std::string(1, c);
  return out;
}

std::string markdown_section(const Command& command) {
  Arguments arguments;
  command.setup(arguments);
  std::string out = "## pith " + std::string(command.name) + "\n\n" + upper_first(command.summary);
  out += ".\n\n```text\n" + usage_line(command, arguments) + "\n```\n";
  if (!command.description.empty()) out += "\n" + std::string(command.description) + "\n";
  if (!arguments.all().empty()) out += "\n| Argument | Meaning |\n|---|---|\n";
  for (const Argument& argument : arguments.all())
    out += "| `" + cell(argument.usage()) + "` | " + cell(argument_doc(argument)) + " |\n";
  if (!command.examples.empty())
    out += "\n```console\n" + std::string(command.examples) + "\n```\n";
  return out + "\n";
}

std::string markdown_page() {
  std::string out = "# Command line\n\nMade by `pith man --markdown`; do not edit.\n\n";
  out += std::string(kDescription) + "\n\n| Exit code | Meaning |\n|---|---|\n";
  for (const ExitStatus& status : kExitStatus)
    out += "| " + std::to_string(status.code) + " | " + std::string(status.meaning) + " |\n";
  out +=
      "\nErrors are one sentence on standard error: `pith: ...`. Progress bars go to standard "
      "error, only on a terminal. The environment variable `PITH_ISA` " +
      std::string(kIsaDescription) + ".\n\n";
  for (const Command* command : commands()) out += markdown_section(*command);
  out.pop_back();
  return out;
}

std::function<int()> setup(Arguments& arguments) {
  const auto markdown = std::make_shared<bool>(false);
  arguments.flag("--markdown", *markdown, "the same as Markdown, which is docs/cli.md");
  return [markdown] {
    std::fputs((*markdown ? markdown_page() : man_page()).c_str(), stdout);
    return 0;
  };
}

}  // namespace

const Command kManCommand = {
    "man",
    "print the manual page",
    "Writes pith(1) in troff to standard output; 'cmake --install' installs it.",
    "$ pith man | man -l -\n"
    "$ pith man > ~/.local/share/man/man1/pith.1",
    setup,
};

}  // namespace pith

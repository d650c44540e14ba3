// pith completion: what a shell needs to complete commands, options and values, written from the
// same declarations as --help.
#include <cstdio>
#include <memory>
#include <vector>

#include "apps/help.h"
#include "policy/registry.h"

namespace pith {
namespace {

std::string joined(const std::vector<std::string>& words, std::string_view between = " ") {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : std::string(between)) + word;
  return out;
}

std::vector<std::string> method_names() {
  std::vector<std::string> names = {"auto"};
  for (const Method& method : methods()) names.emplace_back(method.name);
  return names;
}

// First words of all commands, groups once.
std::vector<const Command*> first_words() {
  std::vector<const Command*> out;
  for (const Command* command : commands()) {
    const auto head = [](const Command* c) { return c->name.substr(0, c->name.find(' ')); };
    if (out.empty() || head(out.back()) != head(command)) out.push_back(command);
  }
  return out;
}

std::string head_of(const Command& command) {
  return std::string(command.name.substr(0, command.name.find(' ')));
}

std::string tail_of(const Command& command) {
  const size_t space = command.name.find(' ');
  return space == command.name.npos ? "" : std::string(command.name.substr(space + 1));
}

// Words a value can have, if they can be listed.
std::vector<std::string> values_of(const Argument& argument) {
  return argument.complete == Complete::method ? method_names() : argument.choices;
}

std::string quoted(std::string_view text, std::string_view also_escape = "") {
  std::string out = "'";
  for (const char c : text) {
    if (c == '\'')
      out += "'\\''";
    else if (also_escape.find(c) != also_escape.npos)
      out += std::string("\\") + c;
    else
      out += c;
  }
  return out + "'";
}

// ---- bash ----

std::string bash_reply(const Argument& argument) {
  if (argument.complete == Complete::file)
    return "compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- \"$word\")";
  if (argument.complete == Complete::folder)
    return "compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -d -- \"$word\")";
  const std::vector<std::string> values = values_of(argument);
  if (values.empty()) return ":";
  return "COMPREPLY=($(compgen -W " + quoted(joined(values)) + " -- \"$word\"))";
}

std::string bash_script() {
  std::string names, groups, values, options;
  for (const Command* command : first_words()) {
    names += head_of(*command) + " ";
    if (!is_group(head_of(*command))) continue;
    std::vector<std::string> tails;
    for (const Command* other : commands())
      if (head_of(*other) == head_of(*command)) tails.push_back(tail_of(*other));
    groups += "    " + head_of(*command) + ")\n      if ((COMP_CWORD == 2)); then\n" +
              "        COMPREPLY=($(compgen -W " + quoted(joined(tails)) +
              " -- \"$word\"))\n        return\n      fi\n" +
              "      command+=\" ${COMP_WORDS[2]}\"\n      ;;\n";
  }
  for (const Command* command : commands()) {
    Arguments arguments;
    command->setup(arguments);
    std::vector<std::string> flags = {"--help"};
    std::string operand = ":";
    for (const Argument& argument : arguments.all()) {
      if (argument.operand()) {
        if (operand == ":") operand = bash_reply(argument);
        continue;
      }
      std::vector<std::string> patterns;
      for (const std::string& name : {argument.short_name, argument.long_name}) {
        if (name.empty()) continue;
        flags.push_back(name);
        patterns.push_back("'" + std::string(command->name) + " " + name + "'");
      }
      if (!argument.flag())
        values += "    " + joined(patterns, " | ") + ") " + bash_reply(argument) + "; return ;;\n";
    }
    const std::string quoted_name = quoted(command->name);
    options.append("    ").append(quoted_name).append(")\n      if [[ $word == -* ]]; then\n");
    options.append("        COMPREPLY=($(compgen -W ").append(quoted(joined(flags)));
    options.append(" -- \"$word\"))\n      else\n        ").append(operand);
    options.append("\n      fi\n      ;;\n");
  }
  return "# bash completion of pith; made by 'pith completion bash'\n"
         "_pith() {\n"
         "  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}\n"
         "  local command=${COMP_WORDS[1]}\n"
         "  COMPREPLY=()\n"
         "  if ((COMP_CWORD == 1)); then\n"
         "    COMPREPLY=($(compgen -W " +
         quoted(names + "help --help --version") +
         " -- \"$word\"))\n"
         "    return\n"
         "  fi\n"
         "  case $command in\n" +
         groups + "    *) ;;\n  esac\n  case \"$command $before\" in\n" + values +
         "    *) ;;\n  esac\n  case $command in\n" + options +
         "    *) ;;\n  esac\n}\ncomplete -F _pith pith\n";
}

// ---- zsh ----

std::string zsh_action(const Argument& argument) {
  if (argument.complete == Complete::file) return "_files";
  if (argument.complete == Complete::folder) return "_files -/";
  const std::vector<std::string> values = values_of(argument);
  return values.empty() ? " " : "(" + joined(values) + ")";
}

std::string zsh_spec(const Argument& argument) {
  constexpr std::string_view kSpecial = "[]:\\";
  if (argument.operand())
    return std::string("        ") + quoted(argument.is_repeated ? "*:" : ":") +
           quoted(argument.value, kSpecial) + quoted(":" + zsh_action(argument));
  std::string names, exclusive;
  if (!argument.short_name.empty() && !argument.long_name.empty()) {
    names = "{" + argument.short_name + "," + argument.long_name + "}";
    exclusive = "(" + argument.short_name + " " + argument.long_name + ")";
  } else {
    names = argument.name();
    exclusive = "(" + argument.name() + ")";
  }
  std::string spec = "        " + quoted(argument.is_repeated ? "*" : exclusive) + names;
  spec += quoted("[") + quoted(argument.doc, kSpecial) + quoted("]");
  if (!argument.flag())
    spec += quoted(":") + quoted(argument.value, kSpecial) + quoted(":" + zsh_action(argument));
  return spec;
}

std::string zsh_script() {
  std::string names, cases;
  for (const Command* command : first_words()) {
    const std::string head = head_of(*command);
    names += "    " + quoted(head + ":" + std::string(command->summary)) + "\n";
    if (!is_group(head)) continue;
    std::vector<std::string> tails;
    for (const Command* other : commands())
      if (head_of(*other) == head) tails.push_back(tail_of(*other));
    cases += "    " + head + ") if ((CURRENT == 2)); then compadd " + joined(tails) +
             "; return; fi\n      command+=\" $words[2]\"; shift words; ((CURRENT--)) ;;\n";
  }
  std::string specs;
  for (const Command* command : commands()) {
    Arguments arguments;
    command->setup(arguments);
    specs += "    " + quoted(command->name) + ")\n      _arguments -s \\\n" +
             "        '--help[say what this command does]'";
    for (const Argument& argument : arguments.all()) specs += " \\\n" + zsh_spec(argument);
    specs += "\n      ;;\n";
  }
  return "#compdef pith\n"
         "# zsh completion of pith; made by 'pith completion zsh'\n"
         "_pith() {\n"
         "  local -a names\n  names=(\n" +
         names +
         "  )\n"
         "  if ((CURRENT == 2)); then\n"
         "    _describe command names\n    return\n  fi\n"
         "  shift words; ((CURRENT--))\n"
         "  local command=$words[1]\n"
         "  case $command in\n" +
         cases + "  esac\n  case $command in\n" + specs +
         "  esac\n}\n"
         "if [[ $funcstack[1] == _pith ]]; then _pith \"$@\"; else compdef _pith pith; fi\n";
}

// ---- fish ----

std::string fish_script() {
  std::string out = "# fish completion of pith; made by 'pith completion fish'\n";
  out += "complete -c pith -f\n";
  out += "complete -c pith -n __fish_use_subcommand -l version -d 'print the version'\n";
  out += "complete -c pith -l help -d 'say what a command does'\n";
  for (const Command* command : first_words())
    out += "complete -c pith -n __fish_use_subcommand -a " + head_of(*command) + " -d " +
           quoted(command->summary) + "\n";
  for (const Command* command : commands()) {
    std::string when = "__fish_seen_subcommand_from " + head_of(*command);
    if (!tail_of(*command).empty()) {
      out += "complete -c pith -n '" + when + "; and not __fish_seen_subcommand_from " +
             tail_of(*command) + "' -a " + tail_of(*command) + " -d " + quoted(command->summary) +
             "\n";
      when += "; and __fish_seen_subcommand_from " + tail_of(*command);
    }
    Arguments arguments;
    command->setup(arguments);
    for (const Argument& argument : arguments.all()) {
      std::string line = "complete -c pith -n '" + when + "'";
      if (!argument.short_name.empty()) line += " -s " + argument.short_name.substr(1);
      if (!argument.long_name.empty()) line += " -l " + argument.long_name.substr(2);
      const std::vector<std::string> values = values_of(argument);
      const bool files =
          argument.complete == Complete::file || argument.complete == Complete::folder;
      if (argument.operand()) {
        if (!files && values.empty()) continue;
      } else if (!argument.flag()) {
        line += " -r";
      }
      if (files) line += " -F";
      if (!values.empty()) line += " -a " + quoted(joined(values));
      if (!argument.operand()) line += " -d " + quoted(argument.doc);
      out += line + "\n";
    }
  }
  return out;
}

std::function<int()> setup(Arguments& arguments) {
  const auto shell = std::make_shared<std::string>();
  arguments.operand("SHELL", *shell, "bash, zsh or fish").required().choices = {"bash", "zsh",
                                                                                "fish"};
  return [shell] {
    const std::string script = *shell == "bash"  ? bash_script()
                               : *shell == "zsh" ? zsh_script()
                                                 : fish_script();
    std::fputs(script.c_str(), stdout);
    return 0;
  };
}

}  // namespace

const Command kCompletionCommand = {
    "completion",
    "print the completion script of a shell",
    "The script completes commands, options, file names and method names. 'cmake --install' "
    "installs all three.",
    "$ source <(pith completion bash)\n"
    "$ pith completion zsh > ~/.zfunc/_pith\n"
    "$ pith completion fish > ~/.config/fish/completions/pith.fish",
    setup,
};

}  // namespace pith

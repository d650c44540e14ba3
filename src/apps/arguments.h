// The options and operands of a command, declared once. The parser (parse.cpp), --help (help.cpp),
// the man page and the shell completions all read these declarations, so they cannot disagree.
//
//   arguments.option("-n,--predict", options->tokens, "N", "tokens to generate").at_least(-1);
//
// A declaration keeps a reference to the variable it fills, so variables outlive the Arguments.
// Errors of values are Errc::bad_option sentences: "--top-k needs a whole number, not 'ten'".
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace pith {

enum class Complete { nothing, file, folder, method };  // what a shell offers for a value

class Argument {
 public:
  bool operand() const { return short_name.empty() && long_name.empty(); }
  bool flag() const { return value.empty(); }
  // "-m, --model FILE"
  std::string usage() const;
  // How messages name it: "--model", "-m" or "FILE".
  std::string name() const;
  // Checks the choices, in which case does not matter, and fills the variable.
  void take(const std::string& text) const;

  Argument& required();
  Argument& repeated();
  Argument& completes(Complete what);
  Argument& at_least(double low);
  Argument& between(double low, double high);
  // The text behind "default" in help; by default the variable's value when declared.
  Argument& shows(std::string_view text);

  std::string short_name, long_name;  // "-m", "--model"; both empty: an operand
  std::string value;                  // "FILE"; empty: a flag
  std::string doc;                    // a phrase; no full stop
  std::string section;                // heading in help; empty: "Options"
  std::string fallback;               // shown in help; empty: nothing to show
  std::vector<std::string> choices;   // empty: any value
  Complete complete = Complete::nothing;
  bool is_required = false, is_repeated = false;
  std::optional<double> low, high;
  std::function<void(const std::string& text)> store;
};

class Arguments {
 public:
  Arguments() = default;
  Arguments(const Arguments&) = delete;  // declarations refer to each other by address
  Arguments& operator=(const Arguments&) = delete;

  // `names` is "-m,--model", "-m" or "--model"; `value` names the value in help.
  Argument& option(std::string_view names, std::string& into, std::string_view value,
                   std::string_view doc);
  Argument& option(std::string_view names, int& into, std::string_view value, std::string_view doc);
  Argument& option(std::string_view names, uint64_t& into, std::string_view value,
                   std::string_view doc);
  Argument& option(std::string_view names, float& into, std::string_view value,
                   std::string_view doc);
  Argument& option(std::string_view names, double& into, std::string_view value,
                   std::string_view doc);
  // May be given more than once.
  Argument& option(std::string_view names, std::vector<std::string>& into, std::string_view value,
                   std::string_view doc);
  // "2GiB", "512MiB", "1000000"
  Argument& bytes(std::string_view names, uint64_t& into, std::string_view doc);
  // One of `choices`, separated by '|'.
  Argument& choice(std::string_view names, std::string& into, std::string_view choices,
                   std::string_view doc);
  Argument& flag(std::string_view names, bool& into, std::string_view doc);
  // Sets `into` to `constant`.
  Argument& flag(std::string_view names, std::string& into, std::string_view constant,
                 std::string_view doc);
  Argument& operand(std::string_view value, std::string& into, std::string_view doc);
  Argument& operands(std::string_view value, std::vector<std::string>& into, std::string_view doc);
  // "-o,--output md|json|csv" and "--json", which is short for the second.
  void format(std::string& into);
  // Adds the long names of the options that are given to `names`. Behind all declarations.
  void note_given(std::set<std::string>& names);
  // Arguments declared from here on stand under this heading.
  void section(std::string_view title) { section_ = title; }

  const std::deque<Argument>& all() const { return all_; }

 private:
  Argument& add(std::string_view names, std::string_view value, std::string_view doc);
  std::deque<Argument> all_;  // addresses stay
  std::string section_;
};

// Reads `words`, what follows the command's name, into the declared variables. Throws
// Errc::bad_option; an unknown option is answered with the nearest known one.
void parse_arguments(Arguments& arguments, const std::vector<std::string>& words);

// The known word nearest to `word`, if it is near enough to be a slip; empty otherwise.
std::string closest(std::string_view word, const std::vector<std::string>& known);

}  // namespace pith

// The only file that knows CLI11, which takes ten seconds to compile.
#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <algorithm>

#include "apps/arguments.h"
#include "base/error.h"

namespace pith {
namespace {

std::vector<std::string> option_names(const Arguments& arguments) {
  std::vector<std::string> names = {"-h", "--help"};
  for (const Argument& argument : arguments.all())
    for (const std::string& name : {argument.short_name, argument.long_name})
      if (!name.empty()) names.push_back(name);
  return names;
}

[[noreturn]] void refuse(const std::string& sentence) {
  throw Error(Errc::bad_option, sentence);
}

[[noreturn]] void refuse_unknown(const std::string& word, const std::vector<std::string>& names) {
  if (!word.starts_with("-")) refuse("unexpected '" + word + "'");
  const std::string name = word.substr(0, word.find('='));
  const std::string near = closest(name, names);
  refuse("no option '" + name + "'" + (near.empty() ? "" : "; did you mean '" + near + "'?"));
}

}  // namespace

void parse_arguments(Arguments& arguments, const std::vector<std::string>& words) {
  const std::vector<std::string> names = option_names(arguments);
  CLI::App parser;
  parser.set_help_flag();  // --help is answered before
  parser.allow_extras();
  std::vector<bool> given(arguments.all().size(), false);
  size_t index = 0;
  for (const Argument& argument : arguments.all()) {
    const size_t mine = index++;
    const auto take = [&argument, &names, &given, mine](const CLI::results_t& values) {
      given[mine] = true;
      for (const std::string& value : values) {
        // "-p --temp 0" forgot the prompt.
        if (!argument.flag() && !argument.operand() &&
            std::ranges::find(names, value) != names.end())
          refuse(argument.name() + " needs a value (" + argument.value + "), but '" + value +
                 "' follows it");
        argument.take(value);
      }
      return true;
    };
    if (argument.flag()) {
      const std::string both = argument.short_name.empty() || argument.long_name.empty()
                                   ? argument.name()
                                   : argument.short_name + "," + argument.long_name;
      parser.add_flag_callback(both, [take] { take({"true"}); });
      continue;
    }
    std::string both = argument.short_name + "," + argument.long_name;
    if (argument.operand())
      both = "operand" + std::to_string(mine);
    else if (both.front() == ',' || both.back() == ',')
      both = argument.name();
    CLI::Option* option = parser.add_option(both, CLI::callback_t(take));
    option->type_size(1)->expected(1);
    if (argument.is_repeated && argument.operand())
      option->expected(1, CLI::detail::expected_max_vector_size)->allow_extra_args();
    option->multi_option_policy(argument.is_repeated ? CLI::MultiOptionPolicy::TakeAll
                                                     : CLI::MultiOptionPolicy::TakeLast);
  }
  std::vector<std::string> reversed(words.rbegin(), words.rend());  // as CLI11 wants them
  try {
    parser.parse(reversed);
  } catch (const CLI::ArgumentMismatch&) {
    // Only an option at the very end can lack its value.
    refuse((words.empty() ? std::string("the last option") : words.back()) + " needs a value");
  } catch (const CLI::ParseError& error) {
    refuse(error.what());
  }
  std::vector<std::string> extras = parser.remaining();
  std::erase(extras, "--");  // only says that operands follow
  if (!extras.empty()) refuse_unknown(extras.front(), names);
  index = 0;
  for (const Argument& argument : arguments.all()) {
    if (!given[index++] && argument.is_required)
      refuse((argument.operand() ? argument.value : argument.name() + " " + argument.value) +
             " is missing (" + argument.doc + ")");
  }
}

}  // namespace pith

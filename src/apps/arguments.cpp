#include "apps/arguments.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <numeric>

#include "apps/units.h"
#include "base/error.h"

namespace pith {
namespace {

[[noreturn]] void refuse(const Argument& argument, const std::string& need,
                         const std::string& value) {
  throw Error(Errc::bad_option, argument.name() + " needs " + need + ", not '" + value + "'");
}

std::string number_text(double value) {
  char text[32];
  const auto end = std::to_chars(text, text + sizeof text, value);
  return {text, end.ptr};
}

std::string range_text(const Argument& argument) {
  if (argument.low && argument.high)
    return " between " + number_text(*argument.low) + " and " + number_text(*argument.high);
  return " of at least " + number_text(*argument.low);
}

void check_range(const Argument& argument, double number, const char* kind,
                 const std::string& value) {
  if ((argument.low && number < *argument.low) || (argument.high && number > *argument.high))
    refuse(argument, kind + range_text(argument), value);
}

template <class T>
std::function<void(const std::string&)> store_number(const Argument& argument, T& into,
                                                     const char* kind) {
  return [&argument, &into, kind](const std::string& value) {
    T number{};
    const char* end = value.data() + value.size();
    const auto [stop, error] = std::from_chars(value.data(), end, number);
    if (error == std::errc::result_out_of_range)
      refuse(argument, std::string(kind) + " that fits", value);
    if (error != std::errc() || stop != end) refuse(argument, kind, value);
    if constexpr (std::is_floating_point_v<T>)
      if (!std::isfinite(number)) refuse(argument, kind, value);
    check_range(argument, static_cast<double>(number), kind, value);
    into = number;
  };
}

}  // namespace

std::string Argument::name() const {
  if (operand()) return value;
  return long_name.empty() ? short_name : long_name;
}

std::string Argument::usage() const {
  std::string text = short_name;
  if (!short_name.empty() && !long_name.empty()) text += ", ";
  text += long_name;
  if (!value.empty()) text += (operand() ? "" : " ") + value;
  return text;
}

void Argument::take(const std::string& text) const {
  if (choices.empty()) return store(text);
  const auto lower = [](std::string word) {
    for (char& c : word) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    return word;
  };
  for (const std::string& choice : choices)
    if (lower(choice) == lower(text)) return store(choice);
  std::string need = "one of";
  for (const std::string& choice : choices) need += (&choice == &choices[0] ? " " : ", ") + choice;
  const std::string near = closest(text, choices);
  if (!near.empty()) need += " (did you mean '" + near + "'?)";
  refuse(*this, need, text);
}

Argument& Argument::required() {
  is_required = true;
  fallback.clear();
  return *this;
}

Argument& Argument::repeated() {
  is_repeated = true;
  return *this;
}

Argument& Argument::completes(Complete what) {
  complete = what;
  return *this;
}

Argument& Argument::at_least(double limit) {
  low = limit;
  return *this;
}

Argument& Argument::between(double from, double to) {
  low = from;
  high = to;
  return *this;
}

Argument& Argument::shows(std::string_view text) {
  fallback = text;
  return *this;
}

Argument& Arguments::add(std::string_view names, std::string_view value, std::string_view doc) {
  Argument& argument = all_.emplace_back();
  argument.value = value;
  argument.doc = doc;
  argument.section = section_;
  while (!names.empty()) {
    const std::string_view name = names.substr(0, names.find(','));
    (name.starts_with("--") ? argument.long_name : argument.short_name) = name;
    names.remove_prefix(std::min(names.size(), name.size() + 1));
  }
  return argument;
}

Argument& Arguments::option(std::string_view names, std::string& into, std::string_view value,
                            std::string_view doc) {
  Argument& argument = add(names, value, doc);
  argument.fallback = into;
  argument.store = [&into](const std::string& text) { into = text; };
  return argument;
}

Argument& Arguments::option(std::string_view names, int& into, std::string_view value,
                            std::string_view doc) {
  Argument& argument = add(names, value, doc);
  argument.fallback = std::to_string(into);
  argument.store = store_number(argument, into, "a whole number");
  return argument;
}

Argument& Arguments::option(std::string_view names, uint64_t& into, std::string_view value,
                            std::string_view doc) {
  Argument& argument = add(names, value, doc);
  argument.fallback = std::to_string(into);
  argument.store = store_number(argument, into, "a whole number that is not negative");
  return argument;
}

Argument& Arguments::option(std::string_view names, float& into, std::string_view value,
                            std::string_view doc) {
  Argument& argument = add(names, value, doc);
  char text[32];
  argument.fallback.assign(text, std::to_chars(text, text + sizeof text, into).ptr);
  argument.store = store_number(argument, into, "a number");
  return argument;
}

Argument& Arguments::option(std::string_view names, double& into, std::string_view value,
                            std::string_view doc) {
  Argument& argument = add(names, value, doc);
  argument.fallback = number_text(into);
  argument.store = store_number(argument, into, "a number");
  return argument;
}

Argument& Arguments::option(std::string_view names, std::vector<std::string>& into,
                            std::string_view value, std::string_view doc) {
  Argument& argument = add(names, value, doc).repeated();
  argument.store = [&into](const std::string& text) { into.push_back(text); };
  return argument;
}

Argument& Arguments::bytes(std::string_view names, uint64_t& into, std::string_view doc) {
  Argument& argument = add(names, "BYTES", doc);
  if (into > 0) argument.fallback = bytes_text(into);
  argument.store = [&argument, &into](const std::string& text) {
    const std::optional<uint64_t> bytes = parse_bytes(text);
    if (!bytes) refuse(argument, "bytes such as 2GiB or 512MiB", text);
    into = *bytes;
  };
  return argument;
}

Argument& Arguments::choice(std::string_view names, std::string& into, std::string_view choices,
                            std::string_view doc) {
  Argument& argument = add(names, choices, doc);
  while (!choices.empty()) {
    argument.choices.emplace_back(choices.substr(0, choices.find('|')));
    choices.remove_prefix(std::min(choices.size(), argument.choices.back().size() + 1));
  }
  argument.fallback = into;
  argument.store = [&into](const std::string& text) { into = text; };
  return argument;
}

Argument& Arguments::flag(std::string_view names, bool& into, std::string_view doc) {
  Argument& argument = add(names, "", doc);
  argument.store = [&into](const std::string&) { into = true; };
  return argument;
}

Argument& Arguments::flag(std::string_view names, std::string& into, std::string_view constant,
                          std::string_view doc) {
  Argument& argument = add(names, "", doc);
  argument.store = [&into, constant](const std::string&) { into = constant; };
  return argument;
}

Argument& Arguments::operand(std::string_view value, std::string& into, std::string_view doc) {
  Argument& argument = add("", value, doc);
  argument.store = [&into](const std::string& text) { into = text; };
  return argument;
}

Argument& Arguments::operands(std::string_view value, std::vector<std::string>& into,
                              std::string_view doc) {
  Argument& argument = add("", value, doc).repeated();
  argument.store = [&into](const std::string& text) { into.push_back(text); };
  return argument;
}

void Arguments::format(std::string& into) {
  choice("-o,--output", into, "md|json|csv", "how results are written");
  flag("--json", into, "json", "the same as -o json");
}

void Arguments::note_given(std::set<std::string>& names) {
  for (Argument& argument : all_)
    argument.store = [store = argument.store, name = argument.long_name,
                      &names](const std::string& text) {
      names.insert(name);
      store(text);
    };
}

std::string closest(std::string_view word, const std::vector<std::string>& known) {
  std::string best;
  // A slip is at most a third of the word, and never the whole of it.
  size_t best_distance = word.size() / 3 + 1;
  std::vector<size_t> row;
  for (const std::string& candidate : known) {
    row.resize(candidate.size() + 1);
    std::iota(row.begin(), row.end(), size_t{0});
    for (size_t i = 0; i < word.size(); ++i) {
      size_t diagonal = row[0];
      row[0] = i + 1;
      for (size_t j = 0; j < candidate.size(); ++j) {
        const size_t replaced = diagonal + (word[i] != candidate[j] ? 1 : 0);
        diagonal = row[j + 1];
        row[j + 1] = std::min({replaced, row[j] + 1, row[j + 1] + 1});
      }
    }
    const bool extends = !word.empty() && candidate.starts_with(word);  // "perp": "perplexity"
    const size_t distance = extends ? std::min<size_t>(row.back(), 1) : row.back();
    if (distance < best_distance || (distance == best_distance && best.empty())) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

}  // namespace pith

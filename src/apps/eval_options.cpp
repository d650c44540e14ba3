#include "apps/eval_options.h"

#include <algorithm>
#include <charconv>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>

#include "apps/task_arguments.h"
#include "apps/units.h"
#include "base/error.h"
#include "policy/describe.h"
#include "policy/options.h"
#include "policy/registry.h"

namespace pith {
namespace {

template <class Number>
std::vector<Number> whole_numbers(const std::string& text, const char* option, Number low) {
  std::vector<Number> out;
  for (const std::string& part : split_list(text)) {
    Number& number = out.emplace_back();
    const char* end = part.data() + part.size();
    const auto [at, error] = std::from_chars(part.data(), end, number);
    if (error != std::errc() || at != end || number < low)
      throw Error(Errc::bad_option, std::string(option) + " needs whole numbers of at least " +
                                        std::to_string(low) + ", separated by commas, not '" +
                                        text + "'");
  }
  if (out.empty()) throw Error(Errc::bad_option, std::string(option) + " is empty");
  return out;
}

// One plan, field by field. Every field has the name of a flag that wins over it.
class PlanReader {
 public:
  PlanReader(std::string_view text, const std::string& name, EvalOptions& options)
      : name_(name), options_(options) {
    std::set<std::string> seen;
    try {
      plan_ = nlohmann::json::parse(
          text, [&](int depth, nlohmann::json::parse_event_t event, nlohmann::json& value) {
            if (depth == 1 && event == nlohmann::json::parse_event_t::key &&
                !seen.insert(value.get<std::string>()).second)
              refuse(value.get<std::string>(), "stands there twice; leave one of them out");
            return true;
          });
    } catch (const nlohmann::json::parse_error& error) {
      const auto before = text.substr(0, std::min(error.byte, text.size()));
      throw Error(Errc::bad_file, name + ":" +
                                      std::to_string(1 + std::ranges::count(before, '\n')) +
                                      ": not JSON from here on; a plan is one JSON object such as "
                                      "{\"models\": [\"model.gguf\"], \"specs\": [\"full\"]}");
    }
    if (!plan_.is_object())
      throw Error(Errc::bad_file,
                  name + ": a plan is one JSON object, and this is " + plan_.type_name());
  }

  void read() {
    texts("models", "--model", options_.models);
    texts("specs", "--kv", options_.specs);
    texts("tasks", "--task", options_.tasks);
    texts("data", "--data", options_.data);
    amounts("budgets", "--budget", options_.budgets);
    numbers("lengths", "--lengths", 16, options_.lengths);
    numbers("seeds", "--seeds", 0, options_.seeds);
    number("samples", "--samples", 0, options_.samples);
    number("batch", "--batch", 1, options_.batch);
    number("jobs", "--jobs", 1, options_.jobs, kMostJobs);
    number("context", "--ctx-size", 0, options_.engine.context);
    word("protocol", "--protocol", {"agnostic", "aware", "both"}, options_.protocol);
    word("matmul", "--matmul", {"int8", "f32"}, options_.engine.matmul);
    text("chat", "--chat", options_.chat);
    text("haystack", "--haystack", options_.haystack);
    text("questions", "--questions", options_.questions);
    text("results", "--results", options_.results);
    bytes("batch_memory", "--batch-memory", options_.batch_bytes);
    flag("fidelity", "--fidelity", options_.fidelity);
    flag("share_prompts", "--share-prompts", options_.share);
    for (const auto& [field, value] : plan_.items()) {
      if (std::ranges::count(known_, field) > 0) continue;
      const std::string near = closest(field, known_);
      std::string all;
      for (const std::string& one : known_) all += (all.empty() ? "" : ", ") + one;
      refuse(field, "is no field of a plan; " +
                        (near.empty() ? "there are " + all : "did you mean \"" + near + "\"?"));
    }
  }

 private:
  using Json = nlohmann::json;

  [[noreturn]] void refuse(const std::string& field, const std::string& what) const {
    throw Error(Errc::bad_file, name_ + ": \"" + field + "\" " + what);
  }
  [[noreturn]] void mistyped(const std::string& field, const std::string& needed,
                             const Json& value) const {
    std::string shown = value.dump(-1, ' ', true, Json::error_handler_t::replace);
    if (shown.size() > 40) shown = shown.substr(0, 37) + "...";
    refuse(field, "needs " + needed + ", not " + shown);
  }

  // The field, if there is one and no flag; that it is known is noted.
  const Json* find(const char* field, const char* flag) {
    known_.emplace_back(field);
    const auto at = plan_.find(field);
    return at == plan_.end() || options_.given.contains(flag) ? nullptr : &*at;
  }
  // One value, or a list of some.
  static std::vector<Json> list(const Json& value) {
    return value.is_array() ? value.get<std::vector<Json>>() : std::vector<Json>{value};
  }

  void texts(const char* field, const char* flag, std::vector<std::string>& into) {
    const Json* const value = find(field, flag);
    if (!value) return;
    into.clear();
    for (const Json& one : list(*value)) {
      if (!one.is_string() || one.get_ref<const std::string&>().empty())
        mistyped(field, "a list of texts", *value);
      into.push_back(one);
    }
    if (into.empty()) refuse(field, "is empty; leave it out or name some");
  }
  void text(const char* field, const char* flag, std::string& into) {
    const Json* const value = find(field, flag);
    if (!value) return;
    if (!value->is_string()) mistyped(field, "a text", *value);
    into = *value;
  }
  void word(const char* field, const char* flag, const std::vector<std::string>& words,
            std::string& into) {
    const Json* const value = find(field, flag);
    if (!value) return;
    std::string needed;
    for (const std::string& one : words) needed += (needed.empty() ? "\"" : " or \"") + one + "\"";
    if (!value->is_string() || std::ranges::count(words, value->get<std::string>()) == 0)
      mistyped(field, needed, *value);
    into = *value;
  }
  // Nothing if it is not a whole number in the range.
  static std::optional<uint64_t> whole(const Json& value, uint64_t low, uint64_t high) {
    if (!value.is_number_unsigned()) return std::nullopt;
    const auto number = value.get<uint64_t>();
    return number < low || number > high ? std::nullopt : std::optional(number);
  }
  void number(const char* field, const char* flag, uint64_t low, int& into,
              int high = std::numeric_limits<int>::max()) {
    const Json* const value = find(field, flag);
    if (!value) return;
    const auto number = whole(*value, low, static_cast<uint64_t>(high));
    if (!number)
      mistyped(field,
               high < std::numeric_limits<int>::max()
                   ? "a whole number from " + std::to_string(low) + " to " + std::to_string(high)
               : low > 0 ? "a whole number above 0"
                         : "a whole number that is not negative",
               *value);
    into = static_cast<int>(*number);
  }
  void numbers(const char* field, const char* flag, uint64_t low, std::string& into) {
    const Json* const value = find(field, flag);
    if (!value) return;
    const uint64_t high = low > 0 ? std::numeric_limits<int>::max() : UINT64_MAX;
    into.clear();
    for (const Json& one : list(*value)) {
      const auto number = whole(one, low, high);
      if (!number)
        mistyped(field, "a list of whole numbers of at least " + std::to_string(low), *value);
      into += (into.empty() ? "" : ",") + std::to_string(*number);
    }
    if (into.empty()) refuse(field, "is empty; leave it out or name some");
  }
  void amounts(const char* field, const char* flag, std::string& into) {
    const Json* const value = find(field, flag);
    if (!value) return;
    into.clear();
    for (const Json& one : list(*value)) {
      const std::string written = one.is_string()   ? one.get<std::string>()
                                  : one.is_number() ? one.dump()
                                                    : "";
      Amount amount;
      if (!parse_amount(written, amount))
        mistyped(field, "a list of shares (0.1), rows (2048) or bytes (\"64MiB\")", *value);
      into += (into.empty() ? "" : ",") + written;
    }
    if (into.empty()) refuse(field, "is empty; leave it out or name some");
  }
  void bytes(const char* field, const char* flag, uint64_t& into) {
    const Json* const value = find(field, flag);
    if (!value) return;
    const std::optional<uint64_t> bytes =
        value->is_string() ? parse_bytes(value->get<std::string>()) : whole(*value, 0, UINT64_MAX);
    if (!bytes) mistyped(field, "bytes such as \"64MiB\"", *value);
    into = *bytes;
  }
  void flag(const char* field, const char* flag, bool& into) {
    const Json* const value = find(field, flag);
    if (!value) return;
    if (!value->is_boolean()) mistyped(field, "true or false", *value);
    into = *value;
  }

  const std::string& name_;
  EvalOptions& options_;
  Json plan_;
  std::vector<std::string> known_;
};

// The text of a spec, as far as budgets need it.
struct SpecText {
  std::vector<std::string> methods;
  bool names_budget = false;
  bool last_has_options = false;

  explicit SpecText(std::string_view spec) {
    bool inside = false;
    std::string word;  // since the last separator
    const auto end_word = [&](bool key) {
      std::erase(word, ' ');
      names_budget |= key && word == "budget";
      word.clear();
    };
    std::string method;
    for (const char c : spec) {
      if (c == '"') inside = !inside;
      if (inside || (c != '+' && c != ':' && c != ',' && c != '=')) {
        word += c;
        if (!last_has_options && c != ' ') method += c;
        continue;
      }
      end_word(c == '=' && last_has_options);
      if (c == ':') last_has_options = true;
      if (c == '+') {
        methods.push_back(method);
        method.clear();
        last_has_options = false;
      }
    }
    methods.push_back(method);
  }
};

// Whether a budget would mean something to the spec, and it names none. `with` says the spec with
// a budget.
bool takes_budget(const std::string& spec,
                  const std::function<std::string(const std::string&)>& with,
                  const std::vector<std::string>& budgets, const KvShape& shape,
                  std::string_view digest) {
  const SpecText text(spec);
  if (text.names_budget) return false;
  const auto made = [&](const std::string& wanted) -> std::shared_ptr<const Policy> {
    try {
      return make_policy(wanted, shape, digest);
    } catch (const Error&) {
      return nullptr;
    }
  };
  // If some are refused and others are not, it is the amount that is wrong.
  if (!made(with("0.5")) && std::ranges::none_of(budgets, [&](const std::string& budget) {
        return made(with(budget)) != nullptr;
      }))
    return false;
  const std::shared_ptr<const Policy> policy = made(spec);
  if (!policy || !policy->budget->keeps_all()) return true;
  return std::ranges::any_of(text.methods, [](const std::string& name) {
    const Method* const method = find_method(name);
    return method && std::ranges::count(describe(*method).options, "budget", &OptionDoc::key) > 0;
  });
}

}  // namespace

std::vector<int> lengths_of(const EvalOptions& options) {
  return whole_numbers<int>(options.lengths, "--lengths", 16);
}

std::vector<uint64_t> seeds_of(const EvalOptions& options) {
  return whole_numbers<uint64_t>(options.seeds, "--seeds", 0);
}

void read_plan(std::string_view text, const std::string& name, EvalOptions& options) {
  const size_t dot = name.rfind('.');
  const std::string ending = dot == std::string::npos ? "" : name.substr(dot);
  if (ending == ".yaml" || ending == ".yml")
    throw Error(Errc::bad_file, name + ": plans are JSON; write it as one JSON object");
  PlanReader(text, name, options).read();
}

std::vector<EvalSpec> specs_of(const EvalOptions& options, const KvShape& shape,
                               std::string_view digest) {
  const std::vector<std::string> budgets = split_list(options.budgets);
  for (const std::string& budget : budgets) {
    Amount amount;
    if (!parse_amount(budget, amount))
      throw Error(Errc::bad_option,
                  "--budget needs shares (0.1), rows (2048) or bytes (64MiB), "
                  "separated by commas, not '" +
                      options.budgets + "'");
  }
  if (budgets.empty() && !options.budgets.empty())
    throw Error(Errc::bad_option, "--budget is empty");
  std::vector<EvalSpec> specs;
  const auto add = [&](const std::string& spec) {
    const std::shared_ptr<const Policy> policy = make_policy(spec, shape, digest);
    if (std::ranges::count(specs, policy->spec, &EvalSpec::text) == 0)
      specs.push_back({policy->spec, policy->files_digest});
  };
  for (const std::string& spec :
       options.specs.empty() ? std::vector<std::string>{"full"} : options.specs) {
    const auto with = [&, text = SpecText(spec)](const std::string& budget) {
      return spec + (text.last_has_options ? ",budget=" : ":budget=") + budget;
    };
    if (budgets.empty() || !takes_budget(spec, with, budgets, shape, digest)) {
      add(spec);
      continue;
    }
    for (const std::string& budget : budgets) add(with(budget));
  }
  return specs;
}

std::string shell_word(const std::string& word) {
  constexpr std::string_view kPlain = "%+,-./:=@_";
  const bool plain = !word.empty() && std::ranges::all_of(word, [&](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           kPlain.find(c) != std::string_view::npos;
  });
  if (plain) return word;
  std::string quoted = "'";
  for (const char c : word) quoted += c == '\'' ? "'\\''" : std::string(1, c);
  return quoted + "'";
}

}  // namespace pith

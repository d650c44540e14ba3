#include "apps/prompts_file.h"

#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace pith {
namespace {

[[noreturn]] void refuse(const std::string& where, const std::string& what) {
  throw Error(Errc::bad_request, where + ": " + what);
}

// A whole number of the object; none if it has no such key.
template <class T>
std::optional<T> number(const nlohmann::json& object, const char* key, int64_t low,
                        const std::string& where) {
  const auto at = object.find(key);
  if (at == object.end()) return std::nullopt;
  const bool large = at->is_number_unsigned() &&
                     at->get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<T>::max());
  if (!at->is_number_integer() || large || (!at->is_number_unsigned() && at->get<int64_t>() < low))
    refuse(where, "\"" + std::string(key) + "\" must be a whole number of at least " +
                      std::to_string(low));
  return at->get<T>();
}

FilePrompt parse_object(std::string_view line, const std::string& where) {
  const auto object = nlohmann::json::parse(line, nullptr, false);
  if (!object.is_object())
    refuse(where,
           "not a JSON object; every line of the file must be one, such as "
           "{\"prompt\": \"Once upon a time\"}");
  for (const auto& [key, value] : object.items())
    if (key != "prompt" && key != "kv" && key != "predict" && key != "seed")
      refuse(where, "no key \"" + key + "\"; there are prompt, kv, predict and seed");
  const auto text = [&](const char* key) -> std::optional<std::string> {
    const auto at = object.find(key);
    if (at == object.end()) return std::nullopt;
    if (!at->is_string()) refuse(where, "\"" + std::string(key) + "\" must be a text");
    return at->get<std::string>();
  };
  FilePrompt prompt;
  const auto given = text("prompt");
  if (!given) refuse(where, "\"prompt\" is missing");
  prompt.text = *given;
  prompt.where = where;
  prompt.spec = text("kv");
  prompt.predict = number<int>(object, "predict", -1, where);
  prompt.seed = number<uint64_t>(object, "seed", 0, where);
  return prompt;
}

}  // namespace

std::vector<FilePrompt> parse_prompts(std::string_view text, const std::string& name) {
  std::vector<FilePrompt> prompts;
  bool json = false;
  for (int number = 1; !text.empty(); ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    const size_t first = line.find_first_not_of(" \t");
    if (first == std::string_view::npos) continue;
    if (prompts.empty()) json = line[first] == '{';
    const std::string where = name + ":" + std::to_string(number);
    if (json) {
      prompts.push_back(parse_object(line, where));
    } else {
      FilePrompt& prompt = prompts.emplace_back();
      prompt.text = line;
      prompt.where = where;
    }
  }
  if (prompts.empty()) refuse(name, "there is no prompt in it; write one per line");
  return prompts;
}

}  // namespace pith

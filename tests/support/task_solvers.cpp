#include "support/task_solvers.h"

#include <algorithm>
#include <cctype>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <sstream>

namespace pith::test {
namespace {

using Texts = std::vector<std::string>;

// What is between `before` and `after`, from the `at`-th byte on; `at` moves behind it.
std::optional<std::string> next_between(const std::string& text, const std::string& before,
                                        const std::string& after, size_t& at) {
  const size_t found = text.find(before, at);
  if (found == std::string::npos) return std::nullopt;
  const size_t begin = found + before.size(), end = text.find(after, begin);
  if (end == std::string::npos) return std::nullopt;
  at = end;
  return text.substr(begin, end - begin);
}

std::string first_between(const std::string& text, const std::string& before,
                          const std::string& after) {
  size_t at = 0;
  return next_between(text, before, after, at).value_or("");
}

Texts all_between(const std::string& text, const std::string& before, const std::string& after) {
  Texts found;
  for (size_t at = 0; auto next = next_between(text, before, after, at);) found.push_back(*next);
  return found;
}

std::string behind_last(const std::string& text, const std::string& mark) {
  const size_t at = text.rfind(mark);
  return at == std::string::npos ? text : text.substr(at + mark.size());
}

Texts words_of(const std::string& text) {
  std::istringstream in(text);
  Texts words;
  for (std::string word; in >> word;) words.push_back(word);
  return words;
}

std::string with_blanks(const Texts& texts) {
  std::string out;
  for (const std::string& text : texts) out += " " + text;
  return out;
}

Texts most_common(const Texts& words, size_t count) {
  std::map<std::string, int> counts;
  for (const std::string& word : words) ++counts[word];
  std::vector<std::pair<int, std::string>> ranked;
  for (const auto& [word, times] : counts) ranked.emplace_back(-times, word);
  std::sort(ranked.begin(), ranked.end());
  Texts out;
  for (size_t i = 0; i < std::min(count, ranked.size()); ++i) out.push_back(ranked[i].second);
  return out;
}

std::string magic(const Sample& sample, const Question& question) {
  std::string keys = first_between(question.text, " for ", " mentioned");
  for (size_t at = keys.find(", and "); at != std::string::npos; at = keys.find(", and "))
    keys.replace(at, 6, ", ");
  Texts found;
  std::istringstream in(keys);
  for (std::string key; std::getline(in, key, ',');) {
    key = key.substr(key.find_first_not_of(' '));
    for (const std::string& value : all_between(sample.context, " for " + key + " is: ", "."))
      found.push_back(value);
  }
  return with_blanks(found);
}

// Every assignment in order, as a program would run them.
std::string variables(const Sample& sample, const Question& question) {
  const std::string value = first_between(question.text, "assigned the value ", " in the text");
  std::map<std::string, std::string> known;
  Texts found;
  std::istringstream in(behind_last(sample.context, "Memorize and track"));
  for (std::string line; std::getline(in, line);) {
    const Texts words = words_of(line);
    if (words.size() < 4 || words[0] != "VAR") continue;
    known[words[1]] = words[3] == "VAR" ? known[words[4]] : words[3];
    if (known[words[1]] == value) found.push_back(words[1]);
  }
  return with_blanks(found);
}

std::string common_words(const Sample& sample) {
  const Texts items = words_of(behind_last(sample.context, "most often.\n"));
  Texts words;
  for (size_t i = 1; i < items.size(); i += 2) words.push_back(items[i]);
  return with_blanks(most_common(words, 10));
}

std::string coded_words(const Sample& sample) {
  Texts words = words_of(behind_last(sample.context, "coded words. "));
  std::erase(words, "...");
  return with_blanks(most_common(words, 3));
}

std::string from_documents(const Sample& sample, const Question& question) {
  if (question.text.find("Who founded") != std::string::npos) {
    const std::string what = first_between(question.text, "Who founded ", "?");
    const std::string document =
        first_between(sample.context, "T" + what.substr(1) + " stands", "visitors");
    return first_between(document, "founded by ", " in ");
  }
  const std::string what = first_between(question.text, "designer of the ", " born?");
  const std::string document =
      first_between(sample.context, "The " + what + " was opened", "known");
  const std::string who = first_between(document, "designed by ", ",");
  return first_between(sample.context, who + " (born in ", " in ");
}

std::string extreme(const Sample& sample, const Question& question) {
  std::vector<int> numbers;
  std::istringstream in(first_between(sample.context, "[", "]"));
  for (std::string number; std::getline(in, number, ',');) numbers.push_back(std::stoi(number));
  std::sort(numbers.begin(), numbers.end());
  const std::string what = first_between(question.text, "words. The ", " of the list");
  const size_t rank = what.find("third") != std::string::npos    ? 2
                      : what.find("second") != std::string::npos ? 1
                                                                 : 0;
  if (what == "median") return std::to_string(numbers[numbers.size() / 2]);
  const bool small = what.find("smallest") != std::string::npos;
  return std::to_string(small ? numbers[rank] : numbers[numbers.size() - 1 - rank]);
}

std::string by_ends(const Sample& sample, const Question& question) {
  const std::string begin = first_between(question.text, "Prefix: \"", "\""),
                    end = first_between(question.text, "Suffix: \"", "\"");
  Texts found;
  for (const std::string& word : words_of(behind_last(sample.context, "suffix.\n\n")))
    if (word.starts_with(begin) && word.ends_with(end)) found.push_back(word);
  return found.size() == 1 ? found[0] : "ambiguous";
}

// Any three steps: all orders of the numbers, both ways to group them.
std::string countdown(const Question& question) {
  const std::string text = behind_last(question.text, "Numbers: [");
  std::vector<int> numbers;
  std::istringstream in(text.substr(0, text.find(']')));
  for (std::string number; std::getline(in, number, ',');) numbers.push_back(std::stoi(number));
  const int target = std::stoi(behind_last(question.text, "Target: "));
  const std::function<std::string(std::vector<int>)> reach =
      [&](std::vector<int> left) -> std::string {
    if (left.size() == 1) return left[0] == target ? "\n" : "";
    for (size_t i = 0; i < left.size(); ++i)
      for (size_t j = 0; j < left.size(); ++j) {
        if (i == j) continue;
        const int a = left[i], b = left[j];
        for (const char sign : std::string("/*-+")) {
          if (sign == '/' && (b == 0 || a % b != 0)) continue;
          if (sign == '-' && a < b) continue;
          const int c = sign == '+' ? a + b : sign == '-' ? a - b : sign == '*' ? a * b : a / b;
          if (c >= 2000) continue;
          std::vector<int> rest = {c};
          for (size_t k = 0; k < left.size(); ++k)
            if (k != i && k != j) rest.push_back(left[k]);
          const std::string behind = reach(rest);
          if (!behind.empty())
            return "\n" + std::to_string(a) + " " + sign + " " + std::to_string(b) + " = " +
                   std::to_string(c) + behind;
        }
      }
    return "";
  };
  return "<Solution>" + reach(numbers) + "</Solution>";
}

std::string route(const Sample& sample, const Question& question) {
  const std::string problem = behind_last(sample.context, "[PROBLEM]");
  std::map<std::string, std::pair<std::string, std::string>> leads;
  for (const std::string& travel : all_between(problem, "You can travel from ", ".")) {
    const size_t to = travel.find(" to "), by = travel.rfind(" by ");
    leads[travel.substr(0, to)] = {travel.substr(to + 4, by - to - 4), travel.substr(by + 4)};
  }
  std::string at = first_between(question.text, "the route from ", " to ");
  const std::string to = first_between(question.text, "from " + at + " to ", " based on");
  std::string out = "<Route>\n";
  for (size_t step = 0; at != to && step <= leads.size(); ++step) {
    const auto& [next, by] = leads[at];
    out += "From " + at + ", take a " + by + " to " + next + ".\n";
    at = next;
  }
  return out + "</Route>";
}

}  // namespace

std::string solve(const std::string& task, const Sample& sample, size_t asked) {
  const Question& question = sample.questions[asked];
  const std::string& context = sample.context;
  if (task.starts_with("niah")) return magic(sample, question);
  if (task == "needle") return first_between(context, "San Francisco is ", "\n");
  if (task.find("vt") != std::string::npos) return variables(sample, question);
  if (task == "cwe") return common_words(sample);
  if (task == "fwe") return coded_words(sample);
  if (task.starts_with("qa")) return from_documents(sample, question);
  if (task == "passkey") return first_between(context, "The pass key is ", ".");
  if (task == "number_string") return first_between(context, "The sequence of digits is ", ".");
  if (task.find("kv") != std::string::npos)
    return first_between(context, "\"" + first_between(question.text, "Key: \"", "\"") + "\": \"",
                         "\"");
  if (task.find("prefix_suffix") != std::string::npos) return by_ends(sample, question);
  if (task == "math_find" || task.starts_with("scbench_mf")) return extreme(sample, question);
  if (task == "longeval_lines")
    return first_between(
        context,
        "line " + first_between(question.text, "in line ", "?") + ": REGISTER_CONTENT is <", ">");
  if (task == "countdown") return countdown(question);
  if (task == "path_traversal") return route(sample, question);
  if (task == "recall_numbers") return first_between(context, question.prefix + " ", ".");
  if (task.starts_with("recall")) {
    const std::string name = question.text.substr(question.text.rfind(' ') + 1);
    return first_between(context, name + " ", ".");
  }
  return "no solver for " + task;
}

std::vector<int32_t> ToyText::encode(std::string_view text) const {
  std::vector<int32_t> out;
  for (size_t at = 0; at < text.size();) {
    size_t end = at;
    if (text[end] == ' ' && end + 1 < text.size()) ++end;
    if (std::isalpha(static_cast<unsigned char>(text[end])))
      while (end < text.size() && std::isalpha(static_cast<unsigned char>(text[end]))) ++end;
    else
      ++end;
    const std::string_view piece = text.substr(at, end - at);
    auto found = ids_.find(piece);
    if (found == ids_.end()) {
      pieces_.emplace_back(piece);
      found = ids_.emplace(pieces_.back(), static_cast<int32_t>(pieces_.size()) - 1).first;
    }
    out.push_back(found->second);
    at = end;
  }
  return out;
}

std::string ToyText::decode(std::span<const int32_t> tokens) const {
  std::string out;
  for (const int32_t token : tokens) out += pieces_[static_cast<size_t>(token)];
  return out;
}

}  // namespace pith::test

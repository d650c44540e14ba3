#include "eval/metrics.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <map>
#include <optional>

#include "base/error.h"

namespace pith {
namespace {

struct NamedMetric {
  std::string_view name;
  Metric metric;
};
constexpr std::array<NamedMetric, 17> kMetrics{{
    {"all_match", Metric::all_match},
    {"part_match", Metric::part_match},
    {"exact", Metric::exact},
    {"f1", Metric::f1},
    {"rouge_l", Metric::rouge_l},
    {"edit_similarity", Metric::edit_similarity},
    {"classification", Metric::classification},
    {"retrieval", Metric::retrieval},
    {"count", Metric::count},
    {"first_integer", Metric::first_integer},
    {"word", Metric::word},
    {"choice", Metric::choice},
    {"sequence", Metric::sequence},
    {"last_integer", Metric::last_integer},
    {"masks", Metric::masks},
    {"route", Metric::route},
    {"countdown", Metric::countdown},
}};

constexpr std::string_view kSpace = " \t\n\v\f\r";

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

char lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

std::string lower(std::string_view text) {
  std::string out(text);
  std::ranges::transform(out, out.begin(), [](char c) { return lower(c); });
  return out;
}

std::string_view stripped(std::string_view text) {
  const size_t first = text.find_first_not_of(kSpace);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

std::vector<std::string> split(std::string_view text, std::string_view separators) {
  std::vector<std::string> parts;
  for (size_t at = text.find_first_not_of(separators); at != std::string_view::npos;) {
    const size_t end = std::min(text.find_first_of(separators, at), text.size());
    parts.emplace_back(text.substr(at, end - at));
    at = text.find_first_not_of(separators, end);
  }
  return parts;
}

std::vector<std::string_view> lines(std::string_view text) {
  std::vector<std::string_view> out;
  for (size_t at = 0;;) {
    const size_t end = text.find('\n', at);
    out.push_back(text.substr(at, end == std::string_view::npos ? end : end - at));
    if (end == std::string_view::npos) return out;
    at = end + 1;
  }
}

bool is_punctuation(char c) {
  return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
         (c >= '{' && c <= '~');
}

// Length of the longest common subsequence.
template <class Sequence>
size_t common(const Sequence& a, const Sequence& b) {
  std::vector<size_t> row(b.size() + 1, 0);
  for (const auto& item : a) {
    size_t diagonal = 0;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t above = row[j + 1];
      row[j + 1] = item == b[j] ? diagonal + 1 : std::max(above, row[j]);
      diagonal = above;
    }
  }
  return row[b.size()];
}

// The first line, after leading line breaks, that is neither a fence nor a comment.
std::string_view line_of_code(std::string_view output) {
  output.remove_prefix(std::min(output.find_first_not_of('\n'), output.size()));
  for (const std::string_view line : lines(output))
    if (line.find_first_of("`#") == std::string_view::npos &&
        line.find("//") == std::string_view::npos)
      return line;
  return {};
}

double share_of(const std::vector<std::string>& numbers, const std::string& right) {
  if (numbers.empty()) return 0;
  return static_cast<double>(std::ranges::count(numbers, right)) /
         static_cast<double>(numbers.size());
}

double word_score(std::string_view answer, std::string_view output) {
  return std::ranges::count(split(output, " \t\r\n:\"'.,?!{}"), answer) > 0 ? 1 : 0;
}

double choice_score(std::string_view answer, std::string_view output) {
  const auto letter = [](char c) { return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'); };
  for (size_t at = 0; at < output.size(); ++at) {
    if (output[at] < 'A' || output[at] > 'D') continue;
    const bool alone = (at == 0 || !letter(output[at - 1])) &&
                       (at + 1 == output.size() || !letter(output[at + 1]));
    // "A man": the article, unless it is all there is.
    const bool article = output[at] == 'A' && at + 2 < output.size() && output[at + 1] == ' ' &&
                         letter(output[at + 2]);
    if (alone && !article) return output.substr(at, 1) == answer ? 1 : 0;
  }
  return 0;
}

double sequence_score(std::span<const std::string> answers, std::string_view output) {
  if (answers.empty()) return 0;
  const std::vector<std::string> said = integers(output);
  const size_t most = std::min(said.size(), answers.size());
  size_t same = 0;
  while (same < most && said[same] == answers[same]) ++same;
  return static_cast<double>(same) / static_cast<double>(answers.size());
}

double last_word_score(std::string_view answer, std::string_view output) {
  std::vector<std::string> words = split(output, kSpace);
  if (words.empty()) return 0;
  std::string& last = words.back();
  while (!last.empty() && std::string_view(".,`*").find(last.back()) != std::string_view::npos)
    last.pop_back();
  return last == stripped(answer) ? 1 : 0;
}

// answers[n] belongs to "<mask-n>"; the output is a dictionary in Python's or JSON's form.
double mask_score(std::span<const std::string> answers, std::string_view output) {
  if (answers.empty()) return 0;
  int right = 0;
  for (size_t n = 0; n < answers.size(); ++n) {
    const std::string mask = "<mask-" + std::to_string(n) + ">";
    size_t at = output.find(mask);
    if (at == std::string_view::npos) continue;
    at = output.find_first_not_of("'\" :\t", at + mask.size());
    if (at == std::string_view::npos) continue;
    const char quote = output[at - 1];
    if (quote != '\'' && quote != '"') continue;
    const std::string_view rest = output.substr(at);
    const std::string& name = answers[n];
    if (rest.starts_with(name) && rest.size() > name.size() && rest[name.size()] == quote) ++right;
  }
  return static_cast<double>(right) / static_cast<double>(answers.size());
}

std::optional<int64_t> number(std::string_view text) {
  text = stripped(text);
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// "23 + 7 = 30": takes both numbers from the set and adds the result. False if it is wrong.
bool take_step(std::string_view line, std::vector<int64_t>& numbers) {
  const size_t equals = line.find('=');
  if (equals == std::string_view::npos) return false;
  const std::string_view left = stripped(line.substr(0, equals));
  // Not the first character, which may be a sign.
  const size_t at = left.find_first_of("+-*/", 1);
  if (at == std::string_view::npos) return false;
  const auto a = number(left.substr(0, at)), b = number(left.substr(at + 1));
  const auto result = number(line.substr(equals + 1));
  constexpr int64_t kMost = 1'000'000;
  if (!a || !b || !result || std::abs(*a) > kMost || std::abs(*b) > kMost) return false;
  int64_t value = 0;
  switch (left[at]) {
    case '+':
      value = *a + *b;
      break;
    case '-':
      value = *a - *b;
      break;
    case '*':
      value = *a * *b;
      break;
    default:
      if (*b == 0 || *a % *b != 0) return false;
      value = *a / *b;
  }
  if (value != *result) return false;
  for (const int64_t used : {*a, *b}) {
    const auto found = std::ranges::find(numbers, used);
    if (found == numbers.end()) return false;
    numbers.erase(found);
  }
  numbers.push_back(value);
  return true;
}

}  // namespace

std::string_view metric_name(Metric metric) {
  return std::ranges::find(kMetrics, metric, &NamedMetric::metric)->name;
}

Metric metric_named(std::string_view name) {
  const auto found = std::ranges::find(kMetrics, name, &NamedMetric::name);
  if (found != kMetrics.end()) return found->metric;
  std::string all;
  for (const NamedMetric& metric : kMetrics)
    all += (all.empty() ? "" : ", ") + std::string(metric.name);
  throw Error(Errc::bad_option, "no metric \"" + std::string(name) + "\"; there are " + all);
}

std::string cleaned(std::string_view output) {
  std::string out(stripped(output));
  for (char& c : out)
    if (static_cast<unsigned char>(c) < 0x20) c = '\n';
  return std::string(stripped(out));
}

double string_match_all(std::span<const std::string> answers, std::string_view output) {
  if (answers.empty()) return 0;
  const std::string text = lower(output);
  const auto found = std::ranges::count_if(answers, [&](const std::string& answer) {
    return text.find(lower(answer)) != std::string::npos;
  });
  return static_cast<double>(found) / static_cast<double>(answers.size());
}

double string_match_part(std::span<const std::string> answers, std::string_view output) {
  return string_match_all(answers, output) > 0 ? 1 : 0;
}

std::vector<std::string> normalised_words(std::string_view text) {
  std::string plain = lower(text);
  std::erase_if(plain, is_punctuation);
  std::vector<std::string> words = split(plain, kSpace);
  std::erase_if(
      words, [](const std::string& word) { return word == "a" || word == "an" || word == "the"; });
  return words;
}

double f1_score(std::string_view answer, std::string_view output) {
  const std::vector<std::string> right = normalised_words(answer), said = normalised_words(output);
  std::map<std::string, int> left;
  for (const std::string& word : right) ++left[word];
  int same = 0;
  for (const std::string& word : said)
    if (const auto at = left.find(word); at != left.end() && at->second-- > 0) ++same;
  if (same == 0) return 0;
  return 2.0 * same / static_cast<double>(right.size() + said.size());
}

double rouge_l(std::string_view answer, std::string_view output) {
  constexpr std::string_view kSeparators = " \t\n\v\f\r.";
  const auto right = split(answer, kSeparators), said = split(output, kSeparators);
  const size_t same = common(right, said);
  if (same == 0) return 0;
  return 2.0 * static_cast<double>(same) / static_cast<double>(right.size() + said.size());
}

double edit_similarity(std::string_view answer, std::string_view output) {
  const double both = static_cast<double>(answer.size() + output.size());
  if (both == 0) return 0;
  return std::round(100 * 2 * static_cast<double>(common(answer, output)) / both) / 100;
}

double classification_score(std::string_view answer, std::span<const std::string> classes,
                            std::string_view output) {
  int named = 0;
  bool right = false;
  for (const std::string& name : classes) {
    if (name.empty() || output.find(name) == std::string_view::npos) continue;
    if (name == answer) {
      right = true;
    } else if (answer.find(name) != std::string_view::npos) {
      continue;  // "ocean" where the answer is "oceanography"
    }
    ++named;
  }
  return right ? 1.0 / named : 0;
}

std::vector<std::string> integers(std::string_view text) {
  std::vector<std::string> out;
  for (size_t at = 0; at < text.size();) {
    if (!is_digit(text[at])) {
      ++at;
      continue;
    }
    size_t end = at;
    while (end < text.size() && is_digit(text[end])) ++end;
    while (end - at > 1 && text[at] == '0') ++at;
    out.emplace_back(text.substr(at, end - at));
    at = end;
  }
  return out;
}

double retrieval_score(std::string_view answer, std::string_view output) {
  constexpr std::string_view kBefore = "Paragraph ";
  const size_t at = answer.find(kBefore);
  if (at == std::string_view::npos) return 0;
  const std::vector<std::string> numbers = integers(answer.substr(at + kBefore.size()));
  return numbers.empty() ? 0 : share_of(integers(output), numbers[0]);
}

double count_score(std::string_view answer, std::string_view output) {
  const std::vector<std::string> right = integers(answer);
  return right.empty() ? 0 : share_of(integers(output), right[0]);
}

std::string_view between_tags(std::string_view text, std::string_view tag) {
  const std::string open = "<" + std::string(tag) + ">", close = "</" + std::string(tag) + ">";
  const size_t first = text.find(open);
  if (first == std::string_view::npos) return {};
  const size_t begin = first + open.size(), end = text.find(close, begin);
  return end == std::string_view::npos ? std::string_view()
                                       : stripped(text.substr(begin, end - begin));
}

double route_score(std::string_view answer, std::string_view output) {
  const std::string_view route = between_tags(output, "Route");
  if (route.empty()) return 0;
  const auto right = lines(stripped(answer)), said = lines(route);
  size_t same = 0;
  while (same < right.size() && same < said.size() && right[same] == said[same]) ++same;
  // A route that goes on behind its end is not the route.
  if (same == right.size() && said.size() > right.size()) --same;
  return static_cast<double>(same) / static_cast<double>(right.size());
}

double countdown_score(std::string_view answer, std::string_view output) {
  const size_t arrow = answer.find("->");
  if (arrow == std::string_view::npos) return 0;
  std::vector<int64_t> numbers;
  for (const std::string& part : split(answer.substr(0, arrow), kSpace))
    numbers.push_back(number(part).value_or(0));
  const std::optional<int64_t> target = number(answer.substr(arrow + 2));
  const auto steps = lines(between_tags(output, "Solution"));
  if (steps.size() + 1 != numbers.size()) return 0;
  for (const std::string_view step : steps)
    if (!take_step(step, numbers)) return 0;
  return numbers.size() == 1 && numbers[0] == target ? 1 : 0;
}

double grade(Metric metric, std::span<const std::string> answers,
             std::span<const std::string> classes, std::string_view output) {
  const auto best = [&](auto&& score) {
    double most = 0;
    for (const std::string& answer : answers) most = std::max<double>(most, score(answer));
    return most;
  };
  switch (metric) {
    case Metric::all_match:
      return string_match_all(answers, cleaned(output));
    case Metric::part_match:
      return string_match_part(answers, cleaned(output));
    case Metric::exact:
      return best([&](const std::string& answer) { return stripped(answer) == stripped(output); });
    case Metric::f1:
      return best([&](const std::string& answer) { return f1_score(answer, output); });
    case Metric::rouge_l:
      return best([&](const std::string& answer) { return rouge_l(answer, output); });
    case Metric::edit_similarity:
      return best(
          [&](const std::string& answer) { return edit_similarity(answer, line_of_code(output)); });
    case Metric::classification:
      return best(
          [&](const std::string& answer) { return classification_score(answer, classes, output); });
    case Metric::retrieval:
      return best([&](const std::string& answer) { return retrieval_score(answer, output); });
    case Metric::count:
      return best([&](const std::string& answer) { return count_score(answer, output); });
    case Metric::first_integer: {
      const std::vector<std::string> said = integers(output);
      return best([&](const std::string& answer) {
        const std::vector<std::string> right = integers(answer);
        return !said.empty() && !right.empty() && said[0] == right[0];
      });
    }
    case Metric::word:
      return best([&](const std::string& answer) { return word_score(answer, output); });
    case Metric::choice:
      return best([&](const std::string& answer) { return choice_score(answer, output); });
    case Metric::sequence:
      return sequence_score(answers, output);
    case Metric::last_integer:
      return best([&](const std::string& answer) { return last_word_score(answer, output); });
    case Metric::masks:
      return mask_score(answers, output);
    case Metric::route:
      return best([&](const std::string& answer) { return route_score(answer, output); });
    case Metric::countdown:
      return best([&](const std::string& answer) { return countdown_score(answer, output); });
  }
  return 0;
}

Mean mean_of(std::span<const double> values) {
  // 97.5 % quantiles of Student's t, by degrees of freedom; 1.96 + 2.4 / f is within 1 % beyond.
  constexpr std::array kQuantiles = {12.706, 4.303, 3.182, 2.776, 2.571, 2.447,
                                     2.365,  2.306, 2.262, 2.228, 2.201, 2.179};
  Mean out;
  out.count = static_cast<int>(values.size());
  if (values.empty()) return out;
  for (const double value : values) out.mean += value / out.count;
  if (out.count < 2) return out;
  double squares = 0;
  for (const double value : values) squares += (value - out.mean) * (value - out.mean);
  const auto freedom = static_cast<size_t>(out.count - 1);
  const double quantile = freedom <= kQuantiles.size() ? kQuantiles[freedom - 1]
                                                       : 1.96 + 2.5 / static_cast<double>(freedom);
  out.half_width = quantile * std::sqrt(squares / static_cast<double>(freedom) / out.count);
  return out;
}

}  // namespace pith

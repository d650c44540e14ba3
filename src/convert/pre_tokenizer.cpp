#include "convert/pre_tokenizer.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

namespace pith {
namespace {

// One step as a word: "digits:1", "bytes:regex", "split:" and its pattern. Line breaks in
// patterns are spelled out, since files have them either way.
std::string step_word(const JsonView& step) {
  std::string type = step.text("type");
  if (type == "Digits") return step.boolean("individual_digits", false) ? "digits:1" : "digits:n";
  if (type == "ByteLevel") return step.boolean("use_regex", true) ? "bytes:regex" : "bytes";
  if (type != "Split") return type;
  const JsonView pattern = step.object("pattern");
  std::string word = "split:";
  for (const char c : pattern.text("Regex", pattern.text("String", ""))) {
    if (c == '\r')
      word += "\\r";
    else if (c == '\n')
      word += "\\n";
    else
      word += c;
  }
  return word;
}

std::vector<std::string> step_words(const JsonView& tokenizer) {
  if (!tokenizer.has("pre_tokenizer")) return {};
  const JsonView first = tokenizer.object("pre_tokenizer");
  if (first.text("type") != "Sequence") return {step_word(first)};
  const nlohmann::json& steps = first.at("pretokenizers");
  if (!steps.is_array()) first.fail("pretokenizers", "is not a list");
  std::vector<std::string> words;
  for (const nlohmann::json& step : steps)
    words.push_back(step_word(first.element(step, "pretokenizers")));
  return words;
}

// A known sequence of steps. A pattern that ends in '*' fits every word that begins so: the
// character classes behind it are long, and nobody else's begin alike.
struct Known {
  const char* name;
  std::vector<std::string_view> steps;
};

const std::vector<Known>& known() {
  static const std::vector<Known> all = {
      {"llama-bpe",
       {"split:(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
        "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
        "bytes"}},
      {"qwen2",
       {"split:(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
        "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
        "bytes"}},
      {"qwen35",
       {"split:(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| "
        "?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
        "bytes"}},
      {"gpt-2", {"bytes:regex"}},
      {"starcoder", {"digits:1", "bytes:regex"}},
      {"falcon", {"Punctuation", "bytes:regex", "digits:n", "split:[0-9][0-9][0-9]"}},
      {"deepseek-coder",
       {"split:[\\r\\n]", "split:\\s?\\p{L}+", "split:\\s?\\p{P}+", "split:[*", "digits:1",
        "bytes"}},
      {"deepseek-llm",
       {"split:[\\r\\n]", "split:\\s?[A-Za-z*", "split:\\s?[!-/:-~*", "split:\\s+$", "split:[*",
        "digits:1", "bytes"}},
      {"deepseek-v3",
       {"split:\\p{N}{1,3}", "split:[*",
        "split:[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|*", "bytes"}},
      {"tekken",
       {"split:[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}"
        "\\p{M}"
        "]+|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}"
        "]*|"
        "\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
        "bytes"}},
      {"gpt-4o",
       {"split:[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}"
        "\\p{M}"
        "]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
        "+["
        "\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}| "
        "?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
        "bytes"}},
  };
  return all;
}

bool fits(std::string_view word, std::string_view pattern) {
  return pattern.ends_with('*') && pattern.starts_with("split:")
             ? word.starts_with(pattern.substr(0, pattern.size() - 1)) || word == pattern
             : word == pattern;
}

}  // namespace

std::string name_pre_tokenizer(const JsonView& tokenizer) {
  const std::vector<std::string> words = step_words(tokenizer);
  std::string name;
  for (const Known& k : known())
    if (std::ranges::equal(words, k.steps, fits)) name = k.name;
  // Llama 3 takes a word that is a token as that token, whatever its merges say; models that
  // borrowed only its pattern do not.
  if (name == "llama-bpe" && !tokenizer.object("model").boolean("ignore_merges", false))
    return "smaug-bpe";
  return name;
}

}  // namespace pith

#include "train/task_writer.h"

#include <algorithm>
#include <set>

#include "base/error.h"

namespace pith {

Sample TaskWriter::encode(std::string_view marked, TokenRole role) const {
  std::string text;
  std::vector<std::pair<size_t, size_t>> answers;  // bytes of text
  for (const char c : marked) {
    if (c == kAnswerBegin)
      answers.emplace_back(text.size(), text.size());
    else if (c == kAnswerEnd)
      answers.back().second = text.size();
    else
      text += c;
  }
  Sample out;
  out.tokens = source_.tokenizer.encode_more(text, false);
  size_t at = 0;
  for (const int32_t token : out.tokens) {
    const bool asked = std::ranges::any_of(
        answers, [&](const auto& range) { return at >= range.first && at < range.second; });
    out.roles.push_back(asked ? TokenRole::answer : role);
    at += source_.tokenizer.piece(token).size();
  }
  return out;
}

void TaskWriter::add(std::string_view marked, TokenRole role) {
  add(encode(marked, role));
}

void TaskWriter::add(std::span<const uint16_t> tokens, TokenRole role) {
  sample_.tokens.insert(sample_.tokens.end(), tokens.begin(), tokens.end());
  sample_.roles.insert(sample_.roles.end(), tokens.size(), role);
}

void TaskWriter::add(const Sample& part) {
  sample_.tokens.insert(sample_.tokens.end(), part.tokens.begin(), part.tokens.end());
  sample_.roles.insert(sample_.roles.end(), part.roles.begin(), part.roles.end());
}

void TaskWriter::add_text(int count) {
  while (count > 0) {
    const auto passage = source_.corpus.passage(random_, count);
    add(passage, TokenRole::text);
    count -= static_cast<int>(passage.size());
  }
}

void TaskWriter::add_text_around(int count, const std::vector<Sample>& parts) {
  count = std::max(count, 1);
  // Places for the parts: ends of sentences near where they shall be.
  std::vector<int> wanted;
  for (size_t i = 0; i < parts.size(); ++i) wanted.push_back(between(random_, 0, count));
  std::ranges::sort(wanted);
  size_t next = 0;
  int done = 0;
  while (done < count) {
    const auto passage = source_.corpus.passage(random_, count - done);
    const auto first = static_cast<size_t>(passage.data() - source_.corpus.tokens().data());
    size_t from = 0;
    for (size_t i = 0; i < passage.size(); ++i) {
      if (next == parts.size() || done + static_cast<int>(i) < wanted[next] ||
          !source_.corpus.begins_sentence(first + i))
        continue;
      add(passage.subspan(from, i - from), TokenRole::text);
      from = i;
      while (next < parts.size() && wanted[next] <= done + static_cast<int>(i)) add(parts[next++]);
    }
    add(passage.subspan(from), TokenRole::text);
    done += static_cast<int>(passage.size());
  }
  while (next < parts.size()) add(parts[next++]);
}

int between(Random& random, int low, int high) {
  return low + static_cast<int>(random.below(static_cast<uint64_t>(std::max(0, high - low)) + 1));
}

std::string digits(Random& random, int count) {
  std::string out;
  for (int i = 0; i < count; ++i)
    out += static_cast<char>('0' + (i == 0 ? 1 + random.below(9) : random.below(10)));
  return out;
}

std::string hex(Random& random, int count) {
  std::string out;
  for (int i = 0; i < count; ++i) out += "0123456789abcdef"[random.below(16)];
  return out;
}

std::string uuid(Random& random) {
  return hex(random, 8) + "-" + hex(random, 4) + "-4" + hex(random, 3) + "-" +
         "89ab"[random.below(4)] + hex(random, 3) + "-" + hex(random, 12);
}

std::string name(Random& random) {
  static constexpr std::string_view kVowels = "aeiou", kConsonants = "bdfgklmnprstvz";
  std::string out;
  const int syllables = between(random, 2, 3);
  for (int i = 0; i < syllables; ++i) {
    out += kConsonants[random.below(kConsonants.size())];
    out += kVowels[random.below(kVowels.size())];
  }
  out[0] = static_cast<char>(out[0] - 'a' + 'A');
  return out;
}

std::vector<std::string> distinct_names(Random& random, int count) {
  std::set<std::string> known;
  std::vector<std::string> out;
  while (static_cast<int>(out.size()) < count)
    if (std::string made = name(random); known.insert(made).second) out.push_back(std::move(made));
  return out;
}

std::string letters(Random& random, int count) {
  std::string out;
  for (int i = 0; i < count; ++i) out += static_cast<char>('A' + random.below(26));
  return out;
}

std::string value(ValueKind kind, const TaskSource& source, Random& random) {
  const auto word = [&] { return source.corpus.word(random, source.tokenizer); };
  switch (kind) {
    case ValueKind::number:
      return digits(random, between(random, 3, 7));
    case ValueKind::word:
      return random.below(3) == 0 ? name(random) : word();
    case ValueKind::words:
      return word() + "-" + word();
    case ValueKind::hex:
      return hex(random, 8);
    case ValueKind::uuid:
      return uuid(random);
  }
  return "";
}

std::vector<std::string> values(ValueKind kind, int count, const TaskSource& source,
                                Random& random) {
  std::set<std::string> known;
  std::vector<std::string> out;
  for (int tries = 0; static_cast<int>(out.size()) < count && tries < 20 * count + 100; ++tries)
    if (std::string made = value(kind, source, random); known.insert(made).second)
      out.push_back(std::move(made));
  // Where words run out, numbers do not.
  while (static_cast<int>(out.size()) < count) out.push_back(digits(random, 9));
  return out;
}

std::string replaced(std::string_view text,
                     std::initializer_list<std::pair<char, std::string_view>> with) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '{' && i + 2 < text.size() && text[i + 2] == '}') {
      const auto found =
          std::ranges::find(with, text[i + 1], [](const auto& w) { return w.first; });
      if (found != with.end()) {
        out += found->second;
        i += 2;
        continue;
      }
    }
    out += text[i];
  }
  return out;
}

}  // namespace pith

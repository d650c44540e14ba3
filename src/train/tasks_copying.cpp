// Tasks that copy: text, random strings, passages, lists.
#include <algorithm>

#include "train/task_kinds.h"
#include "train/task_writer.h"

namespace pith {
namespace {

// A stretch of about `count` tokens that no language model could guess.
std::string random_words(const TaskSource& source, Random& random, int count) {
  const int kind = between(random, 0, 3);
  std::string out;
  for (int i = 0; i < count; i += kind == 0 ? 2 : 7) {
    switch (kind) {
      case 0:
        out += " " + source.corpus.word(random, source.tokenizer);
        break;
      case 1:
        out += " " + digits(random, 6);
        break;
      case 2:
        out += " " + hex(random, 8);
        break;
      default:
        out += " " + letters(random, 3) + digits(random, 3);
    }
  }
  return out;
}

// One question about a list, in the words of a format.
struct Format {
  std::string_view intro, pair, between, outro, question;
};
constexpr Format kFormats[] = {
    {"Extract the value corresponding to the specified key in the JSON object below.\n\nJSON "
     "data:\n{",
     "\"{k}\": \"{v}\"", ",\n ", "}\n", "\nKey: \"{k}\"\nCorresponding value: \"{a}\"\n"},
    {"", "{k}: {v}", "\n", "\n", "\n{k}: {a}\n"},
    {"", "{k} = {v};", "\n", "\n", "\nWhat is {k}? {k} = {a};\n"},
    {"A list of keys and values.\n", "- {k} is {v}", "\n", "\n",
     "\nQuestion: what is {k}?\nAnswer: {a}\n"},
};

// The marks of an answer around "{a}" that may stand behind a blank, which then belongs to it.
std::string with_answer(std::string_view question, std::string_view key, std::string_view value) {
  std::string out = replaced(question, {{'k', key}});
  const size_t at = out.find("{a}");
  const bool blank = at > 0 && out[at - 1] == ' ';
  return out.substr(0, at - blank) + answer((blank ? " " : "") + std::string(value)) +
         out.substr(at + 3);
}

}  // namespace

Sample make_text(const TaskSource& source, Random& random, int length) {
  TaskWriter writer(source, random);
  writer.add_text(length);
  return writer.take();
}

Sample make_copy(const TaskSource& source, Random& random, int length) {
  TaskWriter writer(source, random);
  Sample once;
  const int count = between(random, 6, std::max(8, length / 2));
  if (random.below(3) == 0) {
    // Any tokens at all.
    const auto first = static_cast<uint64_t>(source.tokenizer.size() / 8);
    for (int i = 0; i < count; ++i)
      once.tokens.push_back(static_cast<int32_t>(
          first + random.below(static_cast<uint64_t>(source.tokenizer.size()) - first)));
    once.roles.assign(once.tokens.size(), TokenRole::context);
  } else {
    once = writer.encode(random_words(source, random, count));
  }
  writer.add(once);
  std::ranges::fill(once.roles, TokenRole::copy);
  while (writer.size() < length) {
    // Sometimes from the middle on, so that the beginning is no clue.
    const size_t from = random.below(2) == 0 ? 0 : random.below(once.tokens.size());
    Sample part = once;
    part.tokens.erase(part.tokens.begin(), part.tokens.begin() + static_cast<ptrdiff_t>(from));
    part.roles.erase(part.roles.begin(), part.roles.begin() + static_cast<ptrdiff_t>(from));
    // Nothing said yet where in it this copy begins.
    for (size_t i = 0; i < std::min<size_t>(2, part.roles.size()); ++i)
      part.roles[i] = TokenRole::context;
    writer.add(part);
  }
  Sample made = writer.take();
  made.tokens.resize(static_cast<size_t>(length));
  made.roles.resize(static_cast<size_t>(length));
  return made;
}

Sample make_repeat(const TaskSource& source, Random& random, int length) {
  TaskWriter writer(source, random);
  const int most = (length - 8) / 2;
  const int count = between(random, std::min(24, most), most);
  const auto passage = source.corpus.passage(random, count);
  writer.add_text(between(random, 0, length - 2 * count - 2));
  const auto line = writer.encode("\n");
  writer.add(line);
  writer.add(passage, TokenRole::text);
  const int gap = length - writer.size() - static_cast<int>(passage.size()) - 1;
  if (gap > 0) writer.add_text(between(random, 0, gap));
  writer.add(line);
  constexpr size_t kLead = 3;  // tokens until it is clear which passage this is
  writer.add(passage.first(std::min(kLead, passage.size())), TokenRole::text);
  if (passage.size() > kLead) writer.add(passage.subspan(kLead), TokenRole::copy);
  return writer.take();
}

Sample make_pairs(const TaskSource& source, Random& random, int length) {
  TaskWriter writer(source, random);
  const Format& format = pick(random, kFormats);
  const bool roomy = length >= 700;
  const ValueKind kinds[] = {ValueKind::word, ValueKind::words, ValueKind::number, ValueKind::hex,
                             roomy ? ValueKind::uuid : ValueKind::hex};
  const ValueKind key_kind = pick(random, kinds), value_kind = pick(random, kinds);
  const std::string example = value(key_kind, source, random) + value(value_kind, source, random);
  const int pair_tokens = writer.encode(" " + example).tokens.size() + 6;
  const int asked = std::clamp(length / (4 * pair_tokens), 1, 6);
  const int intro = static_cast<int>(writer.encode(format.intro).tokens.size());
  const int question = pair_tokens * 2 + 12;
  const int count = std::max(2, (length - intro - asked * question) / pair_tokens);
  std::vector<std::string> keys = values(key_kind, count, source, random);
  std::vector<std::string> found = values(value_kind, count, source, random);
  std::string text(format.intro);
  for (int i = 0; i < count; ++i) {
    if (i > 0) text += format.between;
    const auto at = static_cast<size_t>(i);
    text += replaced(format.pair, {{'k', keys[at]}, {'v', found[at]}});
  }
  writer.add(text + std::string(format.outro));
  std::vector<size_t> order(keys.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  shuffle(random, order);
  for (int i = 0; i < std::min(asked, count); ++i) {
    const size_t at = order[static_cast<size_t>(i)];
    const Sample part = writer.encode(with_answer(format.question, keys[at], found[at]));
    if (writer.size() + static_cast<int>(part.tokens.size()) > length) break;
    writer.add(part);
  }
  return writer.take();
}

Sample make_lines(const TaskSource& source, Random& random, int length) {
  TaskWriter writer(source, random);
  const std::string tail = "Now the record is over.\n";
  writer.add(
      "Below is a record of lines I want you to remember. Each line begins with 'line <line "
      "index>' and contains a '<REGISTER_CONTENT>' at the end of the line.\n");
  constexpr int kQuestion = 76;
  const int asked = std::clamp(length / 300, 1, 4);
  const auto keys = values(ValueKind::words, std::max(2, length / 20), source, random);
  std::vector<std::string> numbers;
  for (const std::string& key : keys) {
    const std::string number = digits(random, between(random, 1, 5));
    const Sample line = writer.encode("line " + key + ": REGISTER_CONTENT is <" + number + ">\n");
    const int used = writer.size() + static_cast<int>(line.tokens.size()) + asked * kQuestion;
    if (used > length && !numbers.empty()) break;
    writer.add(line);
    numbers.push_back(number);
  }
  writer.add(tail);
  for (int i = 0; i < asked; ++i) {
    const size_t at = random.below(numbers.size());
    const Sample part = writer.encode("Tell me what is the <REGISTER_CONTENT> in line " + keys[at] +
                                      "? The <REGISTER_CONTENT> in line " + keys[at] + " is" +
                                      answer(" <" + numbers[at] + ">") + "\n");
    if (writer.size() + static_cast<int>(part.tokens.size()) > length) break;
    writer.add(part);
  }
  return writer.take();
}

}  // namespace pith

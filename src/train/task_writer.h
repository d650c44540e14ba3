// How tasks put samples together, and where they get keys and values from.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "train/tasks.h"

namespace pith {

// Around an answer in text given to TaskWriter.
inline constexpr char kAnswerBegin = '\x01', kAnswerEnd = '\x02';
inline std::string answer(std::string_view text) {
  return kAnswerBegin + std::string(text) + kAnswerEnd;
}

// Pieces are tokens of their own wherever they begin with a blank or a line break, since no token
// of a trained vocabulary has one anywhere else: put together they are the tokens of the text.
class TaskWriter {
 public:
  TaskWriter(const TaskSource& source, Random& random) : source_(source), random_(random) {}

  // Tokens between kAnswerBegin and kAnswerEnd are answers, all others have `role`.
  void add(std::string_view marked, TokenRole role = TokenRole::context);
  void add(std::span<const uint16_t> tokens, TokenRole role);
  void add(const Sample& part);
  int size() const { return static_cast<int>(sample_.tokens.size()); }
  Sample take() { return std::move(sample_); }

  // Text of the corpus, `count` tokens of it, one passage after the other.
  void add_text(int count);
  // The same with `parts` at random ends of sentences, in their order.
  void add_text_around(int count, const std::vector<Sample>& parts);

  Sample encode(std::string_view marked, TokenRole role = TokenRole::context) const;
  const TaskSource& source() const { return source_; }
  Random& random() const { return random_; }

 private:
  const TaskSource& source_;
  Random& random_;
  Sample sample_;
};

// Keys and values.
int between(Random& random, int low, int high);  // both included
std::string digits(Random& random, int count);   // the first is not 0
std::string uuid(Random& random);                // version 4
std::string hex(Random& random, int count);
std::string name(Random& random);  // pronounceable, with a capital: "Torule"
std::vector<std::string> distinct_names(Random& random, int count);
std::string letters(Random& random, int count);  // upper case
enum class ValueKind { number, word, words, hex, uuid };
std::string value(ValueKind kind, const TaskSource& source, Random& random);
// `count` different ones.
std::vector<std::string> values(ValueKind kind, int count, const TaskSource& source,
                                Random& random);

template <typename T>
const T& pick(Random& random, const std::vector<T>& from) {
  return from[random.below(from.size())];
}
template <typename T, size_t N>
const T& pick(Random& random, const T (&from)[N]) {
  return from[random.below(N)];
}
template <typename T>
void shuffle(Random& random, std::vector<T>& values) {
  for (size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[random.below(i)]);
}
// Every "{x}" of `text` becomes what `with` says of x.
std::string replaced(std::string_view text,
                     std::initializer_list<std::pair<char, std::string_view>> with);

}  // namespace pith

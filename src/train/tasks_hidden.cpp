// Tasks that hide sentences in text and ask about them.
#include <algorithm>

#include "train/task_kinds.h"
#include "train/task_writer.h"

namespace pith {
namespace {

// k: key, v: value, t: what values are.
struct Wording {
  std::string_view needle, question;
};
constexpr Wording kWordings[] = {
    {" One of the special magic {t}s for {k} is: {v}.",
     "\nWhat is the special magic {t} for {k} mentioned in the provided text? The special magic "
     "{t} for {k} mentioned in the provided text is{a}."},
    {" The secret {t} of {k} is {v}.", "\nThe secret {t} of {k} is{a}."},
    {" Remember that {k} means {v}.", "\nWhat does {k} mean? {k} means{a}."},
    {" The {t} of {k} is {v}.", "\nQuestion: What is the {t} of {k}?\nAnswer:{a}"},
    {" In the register, {k} has the {t} {v}.", "\nWhich {t} has {k} in the register? It is{a}."},
    {" {k}: {v}.", "\n{k}:{a}."},
};
std::string ask(std::string_view question, std::string_view key, std::string_view kind,
                std::string_view value) {
  return replaced(question, {{'k', key}, {'t', kind}, {'a', answer(" " + std::string(value))}});
}

struct Hidden {
  std::vector<Sample> needles, questions;
  bool paired = false;  // question i is about needle i, and needles come in any order
};

int tokens_of(const std::vector<Sample>& parts) {
  size_t tokens = 0;
  for (const Sample& part : parts) tokens += part.tokens.size();
  return static_cast<int>(tokens);
}

// Intro, text with the needles in it, as many questions as there is room for.
Sample hide(TaskWriter& writer, std::string_view intro, Hidden hidden, int length) {
  writer.add(intro);
  const int room = length - writer.size();
  // Needles are only worth their room where text is left around them.
  while (hidden.questions.size() > 1 && tokens_of(hidden.questions) > room / 2)
    hidden.questions.pop_back();
  while (hidden.paired && hidden.needles.size() > 1 &&
         tokens_of(hidden.needles) + tokens_of(hidden.questions) > room * 7 / 10) {
    hidden.needles.pop_back();
    hidden.questions.resize(std::min(hidden.questions.size(), hidden.needles.size()));
  }
  const int text = room - tokens_of(hidden.needles) - tokens_of(hidden.questions);
  if (hidden.paired) shuffle(writer.random(), hidden.needles);
  writer.add_text_around(text, hidden.needles);
  for (const Sample& question : hidden.questions) writer.add(question);
  return writer.take();
}

struct Kind {
  ValueKind kind;
  std::string_view name;
};
Kind pick_kind(Random& random, int length) {
  switch (random.below(length >= 512 ? 7 : 6)) {
    case 0:
      return {ValueKind::word, "word"};
    case 1:
      return {ValueKind::hex, "code"};
    case 6:
      return {ValueKind::uuid, "uuid"};
    default:
      return {ValueKind::number, "number"};
  }
}

}  // namespace

Sample make_needles(const TaskSource& source, Random& random, int length) {
  TaskWriter writer(source, random);
  const Wording& wording = pick(random, kWordings);
  const Kind kind = pick_kind(random, length);
  const int most = std::clamp(length / 48, 1, 24);
  const int count = random.below(4) == 0 ? 1 : between(random, 1, most);
  const auto keys =
      values(random.below(3) == 0 ? ValueKind::word : ValueKind::words, count, source, random);
  const auto found = values(kind.kind, count, source, random);
  // Several values of one key, asked for together.
  const bool together = count > 1 && count <= 4 && random.below(6) == 0;
  Hidden hidden;
  std::vector<size_t> order;
  for (size_t i = 0; i < keys.size(); ++i) {
    order.push_back(i);
    hidden.needles.push_back(writer.encode(replaced(
        wording.needle, {{'k', keys[together ? 0 : i]}, {'v', found[i]}, {'t', kind.name}})));
  }
  if (together) {
    std::string all;
    for (size_t i = 0; i < found.size(); ++i)
      all += (i == 0 ? "" : i + 1 == found.size() ? " and " : ", ") + found[i];
    hidden.questions.push_back(writer.encode(
        "\nWhat are all the special magic " + std::string(kind.name) + "s for " + keys[0] +
        " mentioned in the provided text? The special magic " + std::string(kind.name) + "s for " +
        keys[0] + " mentioned in the provided text are" + answer(" " + all) + "."));
  } else {
    shuffle(random, order);
    const size_t asked = random.below(3) == 0 ? 1 : order.size();
    for (size_t i = 0; i < asked; ++i)
      hidden.questions.push_back(
          writer.encode(ask(wording.question, keys[order[i]], kind.name, found[order[i]])));
    hidden.paired = true;
    std::vector<Sample> sorted;
    sorted.reserve(order.size());
    for (const size_t i : order) sorted.push_back(hidden.needles[i]);
    hidden.needles = std::move(sorted);
  }
  const std::string intro =
      random.below(2) == 0 || length < 200
          ? std::string("\n")
          : "Some special magic " + std::string(kind.name) +
                "s are hidden within the following text. Make sure to memorize it. I will quiz you "
                "about the " +
                std::string(kind.name) + "s afterwards.\n";
  return hide(writer, intro, std::move(hidden), length);
}

Sample make_passkey(const TaskSource& source, Random& random, int length) {
  TaskWriter writer(source, random);
  const std::string key = digits(random, between(random, 4, 6));
  Hidden hidden;
  hidden.needles.push_back(
      writer.encode(" The pass key is " + key + ". Remember it. " + key + " is the pass key."));
  hidden.questions.push_back(
      writer.encode("\nWhat is the pass key? The pass key is" + answer(" " + key) + "."));
  const std::string_view intro =
      random.below(2) == 0 || length < 200
          ? "\n"
          : "There is an important info hidden inside a lot of irrelevant text. Find it and "
            "memorize "
            "it. I will quiz you about the important information there.\n";
  return hide(writer, intro, std::move(hidden), length);
}

Sample make_variables(const TaskSource& source, Random& random, int length) {
  TaskWriter writer(source, random);
  const int chains = length >= 400 ? between(random, 1, 3) : 1, hops = between(random, 1, 4);
  const int size = between(random, 3, 5);
  Hidden hidden;
  std::vector<std::string> lines, numbers, names;
  for (int chain = 0; chain < chains; ++chain) {
    numbers.push_back(digits(random, 5));
    std::string last, all;
    for (int hop = 0; hop <= hops; ++hop) {
      const std::string variable = letters(random, size);
      lines.push_back(" VAR " + variable + " = " + (hop == 0 ? numbers.back() : "VAR " + last) +
                      ".");
      all += " " + variable;
      last = variable;
    }
    names.push_back(all);
  }
  // The lines of the chains one after the other, each chain in its order.
  const size_t size_of_chain = static_cast<size_t>(hops) + 1;
  for (size_t hop = 0; hop < size_of_chain; ++hop)
    for (size_t first = 0; first < lines.size(); first += size_of_chain)
      hidden.needles.push_back(writer.encode(lines[first + hop]));
  const size_t asked = random.below(numbers.size());
  hidden.questions.push_back(writer.encode(
      "\nQuestion: Find all variables that are assigned the value " + numbers[asked] +
      " in the text above. Answer: According to the chain(s) of variable assignment in the text "
      "above, " +
      std::to_string(hops + 1) + " variables are assigned the value " + numbers[asked] +
      ", they are:" + answer(names[asked]) + "\n"));
  return hide(writer,
              "Memorize and track the chain(s) of variable assignment hidden in the "
              "following text.\n\n",
              std::move(hidden), length);
}

Sample make_hops(const TaskSource& source, Random& random, int length) {
  TaskWriter writer(source, random);
  const int count = std::clamp(length / 150, 2, 8);
  const auto names = distinct_names(random, 2 * count);
  const std::vector<std::string> people(names.begin(), names.begin() + count);
  const std::vector<std::string> places(names.begin() + count, names.end());
  const auto things = values(ValueKind::word, count, source, random);
  Hidden hidden;
  for (size_t i = 0; i < people.size(); ++i) {
    hidden.needles.push_back(writer.encode(" " + people[i] + " lives in " + places[i] + "."));
    hidden.needles.push_back(
        writer.encode(" The people of " + places[i] + " sell " + things[i] + "."));
  }
  shuffle(random, hidden.needles);
  for (size_t i = 0; i < people.size() && i < 4; ++i) {
    const bool steps = random.below(2) == 0;
    hidden.questions.push_back(writer.encode(
        "\nWhat is sold where " + people[i] + " lives?" +
        (steps ? " " + people[i] + " lives in" + answer(" " + places[i]) + ", where people sell"
               : " Answer:") +
        answer(" " + things[i]) + "."));
  }
  shuffle(random, hidden.questions);
  return hide(writer, "\n", std::move(hidden), length);
}

}  // namespace pith

// Tasks over made-up tellings: reports of who did what, and counted words.
#include <algorithm>

#include "train/task_kinds.h"
#include "train/task_writer.h"

namespace pith {
namespace {

// n, m: people; p, q: places; t: a thing; d: a day; v: a number; a: the answer.
struct Fact {
  std::string_view telling, question;
};
constexpr Fact kFacts[] = {
    {"{n} keeps the {t} in {p}.", "Where does {n} keep the {t}? In{p}."},
    {"On {d} {n} travelled from {q} to {p} with {v} bags of salt.",
     "Where did {n} travel to on {d}? To{p}."},
    {"The bridge at {p} was built by {n} and is {v} feet long.",
     "How long is the bridge at {P} that {N} built? It is{v} feet long."},
    {"{n}, who was born in {p}, is a {t}.", "What is {N}, who was born in {P}? A{t}."},
    {"{n} owes {m} the sum of {v} crowns.", "How much does {N} owe {m}? The sum of{v} crowns."},
    {"In {p} the market is held on {d}.", "When is the market held in {P}? On{d}."},
    {"The house of {n} stands near {p}, behind the {t}.",
     "What stands before the house of {N} near {P}? The{t}."},
    {"{n} sold {v} sheep to {m} on {d}.", "How many sheep did {N} sell to {m}? {N} sold{v}."},
    {"The letter from {n} to {m} speaks of a {t}.",
     "What does the letter from {N} to {m} speak of? A{t}."},
    {"{m} asked {n} for the key of {p}, and was given number {v}.",
     "Which key of {P} was given to {m}? Number{v}."},
};
constexpr std::string_view kDays[] = {"Monday", "Tuesday",  "Wednesday", "Thursday",
                                      "Friday", "Saturday", "Sunday"};
constexpr std::string_view kAsides[] = {
    "The weather was fair that week.",
    "Nobody spoke of it afterwards.",
    "It was written down in the book of the town.",
    "There had been rain for three days.",
    "The road was long and the horses were tired.",
    "Some say that this is only half of the story.",
    "An old man by the river remembered it well.",
    "The bells rang at noon, as they always did.",
};

}  // namespace

Sample make_prose(const TaskSource& source, Random& random, int length) {
  TaskWriter writer(source, random);
  const int count = std::clamp(length / 30, 3, 120);
  const auto people = distinct_names(random, 2 * count), places = distinct_names(random, 2 * count);
  std::vector<Sample> facts;
  std::vector<Sample> questions;
  int tokens = 0, asked_tokens = 0;
  for (int i = 0; i < count; ++i) {
    const auto at = static_cast<size_t>(i);
    const Fact& fact = pick(random, kFacts);
    const std::string thing = source.corpus.word(random, source.tokenizer);
    const std::string number = digits(random, between(random, 2, 4));
    const std::string &n = people[2 * at], &m = people[2 * at + 1], &p = places[2 * at],
                      &q = places[2 * at + 1];
    const std::string day(pick(random, kDays));
    std::string telling =
        " " +
        replaced(fact.telling,
                 {{'n', n}, {'m', m}, {'p', p}, {'q', q}, {'t', thing}, {'d', day}, {'v', number}});
    if (random.below(3) == 0) telling += " " + std::string(pick(random, kAsides));
    if (random.below(5) == 0) telling += "\n";
    // In the question, small letters stand for what is asked, but for the names it mentions.
    const std::string ap = answer(" " + p), asked_thing = answer(" " + thing),
                      ad = answer(" " + day), av = answer(" " + number);
    std::string question = "\nQuestion: ";
    const auto mark = fact.question.find('?');
    question += replaced(fact.question.substr(0, mark + 1), {{'n', n},
                                                             {'N', n},
                                                             {'m', m},
                                                             {'p', p},
                                                             {'P', p},
                                                             {'t', thing},
                                                             {'d', day},
                                                             {'v', number}});
    question += "\nAnswer:";
    question += replaced(fact.question.substr(mark + 1),
                         {{'N', n}, {'m', m}, {'p', ap}, {'t', asked_thing}, {'d', ad}, {'v', av}});
    Sample told = writer.encode(telling, TokenRole::text);
    Sample asked = writer.encode(question);
    const int more = static_cast<int>(told.tokens.size());
    if (tokens + more > length * 7 / 10) break;
    tokens += more;
    facts.push_back(std::move(told));
    questions.push_back(std::move(asked));
  }
  std::vector<size_t> order(questions.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  shuffle(random, order);
  for (const Sample& fact : facts) writer.add(fact);
  for (const size_t i : order) {
    asked_tokens += static_cast<int>(questions[i].tokens.size());
    if (tokens + asked_tokens > length) break;
    writer.add(questions[i]);
  }
  return writer.take();
}

Sample make_frequent(const TaskSource& source, Random& random, int length) {
  TaskWriter writer(source, random);
  const bool numbered = random.below(2) == 0;
  const int common = between(random, 1, 3);
  writer.add(numbered ? "Below is a numbered list of words. In these words, some appear more often "
                        "than others. Memorize the ones that appear most often.\n"
                      : "Read the words and find those that appear most often.\n");
  const auto known = values(ValueKind::word, common + std::max(4, length / 16), source, random);
  std::string all;
  for (size_t i = 0; i < static_cast<size_t>(common); ++i) all += " " + known[i];
  const Sample question =
      writer.encode("\nQuestion: What are the " + std::to_string(common) +
                    " most common words in the above list? Answer:" + answer(all) + "\n");
  const int room = length - static_cast<int>(question.tokens.size());
  const size_t words =
      static_cast<size_t>(std::max(8, (room - writer.size()) / (numbered ? 7 : 4)));
  // Each common word clearly more often than the next, the rare ones a few times at most.
  std::vector<size_t> list;
  size_t share = words / 3;
  for (size_t i = 0; i < static_cast<size_t>(common); ++i) {
    list.insert(list.end(), std::max<size_t>(4, share), i);
    share = share * 6 / 10;
  }
  const size_t rare = known.size() - static_cast<size_t>(common);
  for (size_t i = 0; list.size() < words; ++i)
    list.push_back(static_cast<size_t>(common) + i % rare);
  shuffle(random, list);
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string word = " " + known[list[i]];
    const Sample part = writer.encode(numbered ? " " + std::to_string(i + 1) + "." + word : word);
    if (writer.size() + static_cast<int>(part.tokens.size()) > room) break;
    writer.add(part);
  }
  writer.add(question);
  return writer.take();
}

}  // namespace pith

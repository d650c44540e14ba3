// InfiniteBench's synthetic tasks (arXiv:2402.13718), with its prompts for completion models.
#include <algorithm>

#include "eval/fit.h"
#include "eval/suites.h"
#include "eval/words.h"

namespace pith {

std::string KeyValues::json() const {
  std::string out = "{";
  for (size_t i = 0; i < keys.size(); ++i)
    out += (i > 0 ? ", \"" : "\"") + keys[i] + "\": \"" + values[i] + "\"";
  return out + "}";
}

KeyValues make_key_values(Random& random, int count) {
  KeyValues pairs;
  for (int i = 0; i < count; ++i) {
    pairs.keys.push_back(uuid(random));
    pairs.values.push_back(uuid(random));
  }
  return pairs;
}

std::string NumberList::text() const {
  std::string out = "[";
  for (size_t i = 0; i < numbers.size(); ++i)
    out += (i > 0 ? ", " : "") + std::to_string(numbers[i]);
  return out + "]";
}

NumberList make_numbers(Random& random, int count) {
  // The three of each end appear once, so that "second largest" can mean one thing only.
  const int low = between(random, 0, 30), high = between(random, 69, 99);
  NumberList list;
  for (int i = 0; i < 3; ++i) {
    list.numbers.push_back(low + i);
    list.numbers.push_back(high - i);
  }
  while (static_cast<int>(list.numbers.size()) < count)
    list.numbers.push_back(between(random, low + 3, high - 3));
  std::vector<int> sorted = list.numbers;
  std::ranges::sort(sorted);
  shuffle(list.numbers, random);
  list.asked = {{"largest number", high},
                {"second largest number", high - 1},
                {"third largest number", high - 2},
                {"smallest number", low},
                {"second smallest number", low + 1},
                {"third smallest number", low + 2},
                {"median", sorted[sorted.size() / 2]}};
  return list;
}

namespace {

// Goes through all places evenly, whatever part of the samples is used: 59 is prime.
constexpr int kPlaces = 59;
int place_of(int index, int lines) {
  return index * 23 % kPlaces * lines / (kPlaces - 1);
}

// One line among noise that says a number twice.
class HiddenNumberTask final : public Task {
 public:
  enum class What { pass_key, digits };
  explicit HiddenNumberTask(What what)
      : Task(what == What::pass_key ? "passkey" : "number_string", "infinitebench",
             what == What::pass_key ? "a number of five digits in repeated noise"
                                    : "ten digits that repeat, in repeated noise"),
        what_(what) {}

  Sample make(const SampleRequest& request) const override {
    const bool key = what_ == What::pass_key;
    const std::string said = key ? "pass key" : "sequence of digits";
    return fit_sample(*this, request, 1, request.max_tokens, [&](int lines) {
      Random random = sample_random(name(), request.seed, request.index);
      const std::string hidden = key ? number(random, 5) : repeating_digits(random);
      const int place = std::min(place_of(request.index, lines), lines);
      Sample sample;
      sample.context =
          key ? "There is an important info hidden inside a lot of irrelevant text. Find it and "
                "memorize it. I will quiz you about the important information.\n\n"
              : "There is an important info hidden inside a lot of irrelevant text. Find it. I "
                "will quiz you about the important information there.\n\n";
      const std::string told =
          "The " + said + " is " + hidden + ". Remember it. " + hidden + " is the " + said + ".\n";
      for (int line = 0; line <= lines; ++line) {
        if (line == place) sample.context += told;
        if (line < lines) sample.context.append(kNoise).append("\n");
      }
      sample.questions.push_back(
          {"\n\nWhat is the " + said + "?\n\nThe " + said + " is", "", {hidden}, {}});
      sample.max_new_tokens = key ? 6 : 12;
      sample.metric = Metric::first_integer;
      sample.depth = 100 * place / std::max(lines, 1);
      return sample;
    });
  }

 private:
  // Five digits, then five of them are written twice.
  static std::string repeating_digits(Random& random) {
    std::string out = number(random, 5);
    for (int i = 0; i < 5; ++i) {
      const size_t at = random.below(out.size());
      out.insert(at, 1, out[at]);
    }
    return out;
  }
  const What what_;
};

class KeyValueTask final : public Task {
 public:
  KeyValueTask() : Task("kv_retrieval", "infinitebench", "the value of one key of a JSON object") {}

  Sample make(const SampleRequest& request) const override {
    return fit_sample(*this, request, 1, request.max_tokens, [&](int count) {
      Random random = sample_random(name(), request.seed, request.index);
      const KeyValues pairs = make_key_values(random, count);
      const int place = std::min(place_of(request.index, count), count - 1);
      const auto at = static_cast<size_t>(place);
      Sample sample;
      sample.context =
          "Extract the value corresponding to the specified key in the JSON object below.\n\n" +
          pairs.json();
      sample.questions.push_back(
          {"\n\nKey: \"" + pairs.keys[at] + "\"\nThe value associated with the specified key is: ",
           "",
           {pairs.values[at]},
           {}});
      sample.max_new_tokens = 50;
      sample.metric = Metric::word;
      sample.depth = 100 * place / std::max(count - 1, 1);
      return sample;
    });
  }
};

class NumberListTask final : public Task {
 public:
  NumberListTask() : Task("math_find", "infinitebench", "an extreme or the median of a list") {}

  Sample make(const SampleRequest& request) const override {
    return fit_sample(*this, request, 5, request.max_tokens, [&](int half) {
      Random random = sample_random(name(), request.seed, request.index);
      const NumberList list = make_numbers(random, 2 * half + 1);  // odd, for the median
      const auto& asked = list.asked[static_cast<size_t>(request.index) % list.asked.size()];
      Sample sample;
      sample.context = "What is the " + asked.what + " in the following list?\n\n" + list.text();
      sample.questions.push_back(
          {"\n\nYou should answer with only one number, no other words. The " + asked.what +
               " of the list is: ",
           "",
           {std::to_string(asked.answer)},
           {}});
      sample.max_new_tokens = 3;
      sample.metric = Metric::first_integer;
      return sample;
    });
  }
};

}  // namespace

void add_infinite(TaskList& tasks) {
  tasks.push_back(std::make_unique<HiddenNumberTask>(HiddenNumberTask::What::pass_key));
  tasks.push_back(std::make_unique<HiddenNumberTask>(HiddenNumberTask::What::digits));
  tasks.push_back(std::make_unique<KeyValueTask>());
  tasks.push_back(std::make_unique<NumberListTask>());
}

}  // namespace pith

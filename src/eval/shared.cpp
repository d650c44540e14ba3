// SCBench (arXiv:2412.10319): several questions about one context. Each task comes in two modes:
// multi-turn (scbench_kv), where a question follows the ones before it and their true answers, and
// multi-request (scbench_kv_requests), where each is asked of the context alone.
#include <algorithm>
#include <array>
#include <functional>
#include <unordered_set>

#include "base/error.h"
#include "eval/fit.h"
#include "eval/suites.h"
#include "eval/words.h"

namespace pith {
namespace {

constexpr int kQuestions = 5;

// What a task is apart from its mode: a sample of a size, whose questions are not yet turns.
struct SharedShape {
  const char* name;
  const char* summary;
  int least;
  Metric metric;
  int max_new_tokens;
  std::function<Sample(Random& random, int size)> make;
};

// Answers that a question's text leads to; in a chat, each is a turn.
void ask(Sample& sample, std::string text, std::vector<std::string> answers) {
  sample.questions.push_back({"\n\n" + std::move(text), "", std::move(answers), {}});
}

Sample key_values(Random& random, int size) {
  const KeyValues pairs = make_key_values(random, size);
  Sample sample;
  sample.context =
      "Extract the value corresponding to the specified key in the JSON object below.\n\n" +
      pairs.json();
  for (const int at : distinct_below(random, size, kQuestions)) {
    const auto i = static_cast<size_t>(at);
    ask(sample, "Key: \"" + pairs.keys[i] + "\"\nThe value associated with the specified key is: ",
        {pairs.values[i]});
  }
  return sample;
}

// Strings that share beginnings and endings, but no two of them both.
Sample prefix_suffix(Random& random, int size) {
  constexpr int kEnd = 4;
  std::vector<std::string> begins, ends, items;
  const int halves = size / 4 + 4;  // more pairs than strings
  for (int i = 0; i < halves; ++i) {
    begins.push_back(letters(random, 'a', kEnd));
    ends.push_back(letters(random, 'a', kEnd));
  }
  std::unordered_set<std::string> used;
  while (static_cast<int>(items.size()) < size) {
    const std::string& begin = begins[random.below(begins.size())];
    const std::string& end = ends[random.below(ends.size())];
    if (used.insert(begin + end).second)
      items.emplace_back(begin).append(letters(random, 'a', 8)).append(end);
  }
  Sample sample;
  sample.context =
      "Below is a list of strings. Retrieve the one that begins with the given prefix and ends "
      "with "
      "the given suffix.\n\n" +
      joined(items, "\n");
  for (const int at : distinct_below(random, size, kQuestions)) {
    const std::string& item = items[static_cast<size_t>(at)];
    ask(sample,
        "Prefix: \"" + item.substr(0, kEnd) + "\"\nSuffix: \"" + item.substr(item.size() - kEnd) +
            "\"\nThe string with that prefix and suffix is: ",
        {item});
  }
  return sample;
}

Sample variables(Random& random, int size) {
  std::vector<AssignmentChain> chains;
  std::unordered_set<std::string> used;
  while (static_cast<int>(chains.size()) < kQuestions) {
    AssignmentChain chain = make_chain(random, 3, 5);
    std::vector<std::string> all = chain.names;
    all.push_back(chain.value);
    if (std::ranges::any_of(all, [&](const auto& name) { return used.contains(name); })) continue;
    used.insert(all.begin(), all.end());
    chains.push_back(std::move(chain));
  }
  Sample sample;
  sample.context =
      "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n" +
      hide_chains(random, size, chains);
  for (const AssignmentChain& chain : chains)
    ask(sample,
        "Question: Find all variables that are assigned the value " + chain.value +
            " in the text above. Answer: According to the chain(s) of variable assignment in the "
            "text above, 3 variables are assigned the value " +
            chain.value + ", they are: ",
        chain.names);
  return sample;
}

Sample numbers(Random& random, int size) {
  const NumberList list = make_numbers(random, 2 * size + 1);
  std::vector<int> order = distinct_below(random, static_cast<int>(list.asked.size()), kQuestions);
  const auto asked = [&](int i) -> const NumberList::Asked& {
    return list.asked[static_cast<size_t>(order[static_cast<size_t>(i)])];
  };
  const auto what = [&](int i) { return "What is the " + asked(i).what; };
  Sample sample;
  sample.context = what(0) + " in the following list?\n\n" + list.text();
  for (int i = 0; i < kQuestions; ++i)
    ask(sample,
        (i > 0 ? what(i) + " of the list?\n\n" : "") +
            "You should answer with only one number, no other words. The " + asked(i).what +
            " of the list is: ",
        {std::to_string(asked(i).answer)});
  return sample;
}

class SharedTask final : public Task {
 public:
  SharedTask(const SharedShape& shape, bool turns)
      : Task(std::string(shape.name) + (turns ? "" : "_requests"), "scbench",
             std::string(shape.summary) + (turns ? ", turn by turn" : ", each on its own")),
        shape_(shape),
        turns_(turns) {}

  Sample make(const SampleRequest& request) const override {
    return fit_sample(*this, request, shape_.least, request.max_tokens, [&](int size) {
      // The same contexts and questions in both modes.
      Random random = sample_random(shape_.name, request.seed, request.index);
      Sample sample = shape_.make(random, size);
      sample.turns = turns_;
      sample.metric = shape_.metric;
      sample.max_new_tokens = shape_.max_new_tokens;
      return sample;
    });
  }

 private:
  const SharedShape shape_;
  const bool turns_;
};

}  // namespace

void add_shared(TaskList& tasks) {
  const std::array shapes = {SharedShape{"scbench_kv", "five keys of a JSON object", kQuestions,
                                         Metric::all_match, 150, key_values},
                             SharedShape{"scbench_prefix_suffix", "five strings by their ends",
                                         2 * kQuestions, Metric::all_match, 150, prefix_suffix},
                             SharedShape{"scbench_vt", "five chains of variables", kQuestions,
                                         Metric::all_match, 30, variables},
                             SharedShape{"scbench_mf", "five extremes of a list", kQuestions,
                                         Metric::first_integer, 5, numbers}};
  for (const bool turns : {true, false})
    for (const SharedShape& shape : shapes)
      tasks.push_back(std::make_unique<SharedTask>(shape, turns));
}

}  // namespace pith

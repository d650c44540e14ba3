// RULER's variable tracking: one chain of four hops among noise, behind a worked example.
#include <algorithm>

#include "eval/fit.h"
#include "eval/suites.h"
#include "eval/words.h"

namespace pith {

AssignmentChain make_chain(Random& random, int names, int count) {
  AssignmentChain chain;
  while (static_cast<int>(chain.names.size()) < names) {
    std::string name = letters(random, 'A', count);
    if (std::ranges::count(chain.names, name) == 0) chain.names.push_back(std::move(name));
  }
  chain.value = std::to_string(between(random, 10000, 99998));
  chain.lines.push_back("VAR " + chain.names[0] + " = " + chain.value);
  for (size_t i = 1; i < chain.names.size(); ++i)
    chain.lines.push_back("VAR " + chain.names[i] + " = VAR " + chain.names[i - 1] + " ");
  return chain;
}

std::string hide_chains(Random& random, int noise, std::span<const AssignmentChain> chains) {
  std::vector<std::string> lines(static_cast<size_t>(noise), kNoise);
  for (const AssignmentChain& chain : chains) {
    const int count = static_cast<int>(chain.lines.size());
    std::vector<int> places = distinct_below(random, static_cast<int>(lines.size()), count);
    std::ranges::sort(places);
    for (int i = 0; i < count; ++i)
      lines.insert(lines.begin() + places[static_cast<size_t>(i)] + i,
                   chain.lines[static_cast<size_t>(i)]);
  }
  return replaced(joined(lines, "\n"), ". \n", ".\n");
}

namespace {

constexpr int kNames = 5;  // four hops
constexpr int kExampleTokens = 500;

std::string context_text(const std::string& chains) {
  return "Memorize and track the chain(s) of variable assignment hidden in the following "
         "text.\n\n" +
         chains;
}
std::string question_text(const std::string& value) {
  return "\nQuestion: Find all variables that are assigned the value " + value +
         " in the text above.";
}
std::string prefix_text(const std::string& value) {
  return " Answer: According to the chain(s) of variable assignment in the text above, " +
         std::to_string(kNames) + " variables are assigned the value " + value + ", they are: ";
}

Sample hidden(Random& random, int noise, int letter_count) {
  const AssignmentChain chain = make_chain(random, kNames, letter_count);
  Sample sample;
  sample.context = context_text(hide_chains(random, noise, std::span(&chain, 1)));
  sample.questions.push_back(
      {question_text(chain.value), prefix_text(chain.value), chain.names, {}});
  sample.max_new_tokens = 30;
  return sample;
}

class TracingTask final : public Task {
 public:
  TracingTask() : Task("vt", "ruler", "the variables that got a value over four hops") {}

  Sample make(const SampleRequest& request) const override {
    // Where the whole is short, the example is a quarter of it.
    SampleRequest small = request;
    small.max_tokens = std::min(kExampleTokens, std::max(request.max_tokens / 4, 1));
    small.wrapper_tokens = 0;
    const auto example_of = [&](int noise) {
      Random random = sample_random("vt example", request.seed, request.index);
      return hidden(random, noise, 3);
    };
    Sample example = example_of(kNames);
    if (sample_tokens(example, small) < small.max_tokens)
      example = fit_sample(*this, small, kNames, small.max_tokens, example_of);
    const std::string shown =
        example.prompt(0) + " " + joined(example.questions[0].answers, " ") + "\n\n";
    return fit_sample(*this, request, kNames, request.max_tokens, [&](int noise) {
      Random random = sample_random(name(), request.seed, request.index);
      Sample sample = hidden(random, noise, 5);
      sample.context = shown + sample.context;
      return sample;
    });
  }
};

}  // namespace

void add_tracing(TaskList& tasks) {
  tasks.push_back(std::make_unique<TracingTask>());
}

}  // namespace pith

// LongEval's line retrieval (LongChat, 2023): one register of a record of lines.
#include <algorithm>
#include <unordered_set>

#include "eval/fit.h"
#include "eval/suites.h"
#include "eval/words.h"

namespace pith {
namespace {

class LinesTask final : public Task {
 public:
  LinesTask() : Task("longeval_lines", "longeval", "the number that one of many lines holds") {}

  Sample make(const SampleRequest& request) const override {
    const int most = static_cast<int>(adjectives().size() * nouns().size() / 2);
    return fit_sample(*this, request, 1, most, [&](int count) {
      Random random = sample_random(name(), request.seed, request.index);
      std::unordered_set<std::string> used;
      std::vector<std::string> indices, lines;
      std::vector<int> numbers;
      while (static_cast<int>(lines.size()) < count) {
        std::string index = word_pair(random);
        if (!used.insert(index).second) continue;
        numbers.push_back(between(random, 1, 50000));
        lines.push_back("line " + index + ": REGISTER_CONTENT is <" +
                        std::to_string(numbers.back()) + ">\n");
        indices.push_back(std::move(index));
      }
      const size_t asked = random.below(lines.size());
      Sample sample;
      sample.context =
          "Below is a record of lines I want you to remember. Each line begins with 'line <line "
          "index>' and contains a '<REGISTER_CONTENT>' at the end of the line as a numerical "
          "value. "
          "For each line index, memorize its corresponding <REGISTER_CONTENT>. At the end of the "
          "record, I will ask you to retrieve the corresponding <REGISTER_CONTENT> of a certain "
          "line index. Now the record start:\n\n" +
          joined(lines, "");
      sample.questions.push_back(
          {"\nNow the record is over. Tell me what is the <REGISTER_CONTENT> in line " +
               indices[asked] + "? I need the number.",
           " The <REGISTER_CONTENT> in line " + indices[asked] + " is",
           {std::to_string(numbers[asked])},
           {}});
      sample.metric = Metric::first_integer;
      sample.max_new_tokens = 16;
      sample.depth = static_cast<int>(100 * asked / lines.size());
      return sample;
    });
  }
};

}  // namespace

void add_lines(TaskList& tasks) {
  tasks.push_back(std::make_unique<LinesTask>());
}

}  // namespace pith

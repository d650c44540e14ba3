#include "train/tasks.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "train/task_kinds.h"
#include "train/task_writer.h"

namespace pith {
namespace {

constexpr std::array kTasks = {
    Task{"text", "English, from the texts", make_text, 8},
    Task{"copy", "random tokens, words, digits or letters, twice or more often", make_copy, 16},
    Task{"repeat", "a passage, other text, the passage again", make_repeat, 64},
    Task{"needles", "sentences hidden in text that say what a key means, and questions",
         make_needles, 128},
    Task{"passkey", "a number hidden in text, and a question", make_passkey, 128},
    Task{"pairs", "lists of keys and values, as JSON or lines, and questions", make_pairs, 96},
    Task{"lines", "numbered records, one to a line, and questions", make_lines, 128},
    Task{"variables", "chains of assignments hidden in text, and who has a value", make_variables,
         192},
    Task{"frequent", "words, some more often than others, and which", make_frequent, 128},
    Task{"hops", "facts hidden in text, and questions that need two of them", make_hops, 192},
    Task{"prose", "made-up reports full of facts, and questions", make_prose, 128},
};

}  // namespace

std::span<const Task> tasks() {
  return kTasks;
}

const Task* find_task(std::string_view name) {
  const auto found = std::ranges::find(kTasks, name, [](const Task& t) { return t.name; });
  return found == kTasks.end() ? nullptr : &*found;
}

Sample make_sample(const Task& task, const TaskSource& source, Random& random, int length) {
  TaskWriter writer(source, random);
  if (source.tokenizer.begin_token() >= 0)
    writer.add(Sample{{source.tokenizer.begin_token()}, {TokenRole::context}});
  const int room = length - writer.size();
  Sample made = task.make(source, random, room);
  if (static_cast<int>(made.tokens.size()) > room) {
    made.tokens.resize(static_cast<size_t>(room));
    made.roles.resize(static_cast<size_t>(room));
  }
  writer.add(made);
  if (writer.size() < length) {
    writer.add("\n");
    if (writer.size() < length) writer.add_text(length - writer.size());
  }
  return writer.take();
}

}  // namespace pith

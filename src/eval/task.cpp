#include "eval/task.h"

#include <algorithm>

#include "base/error.h"
#include "eval/suites.h"

namespace pith {
namespace {

const TaskList& all_tasks() {
  static const TaskList tasks = [] {
    TaskList list;
    add_needles(list);
    add_tracing(list);
    add_counting(list);
    add_answering(list);
    add_infinite(list);
    add_shared(list);
    add_lines(list);
    add_procedures(list);
    add_recall(list);
    std::stable_partition(list.begin(), list.end(),
                          [](const auto& task) { return task->suite() == "ruler"; });
    return list;
  }();
  return tasks;
}

}  // namespace

std::string Sample::prompt(size_t question) const {
  const Question& asked = questions[question];
  return shown_question + shown_answer + context + asked.text + asked.prefix;
}

double Sample::grade(size_t question, std::string_view output) const {
  if (first_line) {
    output.remove_prefix(std::min(output.find_first_not_of('\n'), output.size()));
    output = output.substr(0, output.find('\n'));
  }
  const Question& asked = questions[question];
  return pith::grade(metric, asked.answers, asked.classes, output);
}

std::span<const Task* const> tasks() {
  static const std::vector<const Task*> pointers = [] {
    std::vector<const Task*> list;
    for (const auto& task : all_tasks()) list.push_back(task.get());
    return list;
  }();
  return pointers;
}

std::vector<const Task*> find_tasks(std::string_view name) {
  std::vector<const Task*> found;
  for (const Task* task : tasks())
    if (task->name() == name) return {task};
  for (const Task* task : tasks())
    if (task->suite() == name) found.push_back(task);
  if (!found.empty()) return found;
  std::string names, suites;
  for (const Task* task : tasks()) {
    names += (names.empty() ? "" : ", ") + task->name();
    if (suites.find(task->suite()) == std::string::npos)
      suites += (suites.empty() ? "" : ", ") + task->suite();
  }
  throw Error(Errc::bad_option, "no task or suite \"" + std::string(name) +
                                    "\"; there are the suites " + suites + " and the tasks " +
                                    names);
}

}  // namespace pith

// InfiniteBench's files (arXiv:2402.13718): its English tasks, with its prompts for completion
// models.
#include <algorithm>
#include <array>

#include "base/error.h"
#include "eval/datasets.h"
#include "eval/jsonl.h"
#include "eval/words.h"

namespace pith {
namespace {

struct InfiniteTask {
  std::string_view name;
  int max_new_tokens;
  Metric metric;
  std::string_view form;
};
constexpr std::array<InfiniteTask, 11> kTasks{{
    {"passkey", 6, Metric::first_integer,
     "There is an important info hidden inside a lot of irrelevant text. Find it and "
     "memorize it. I will quiz you about the important information.\n\n{context}\n\n"
     "{input}\n\nThe pass key is"},
    {"number_string", 12, Metric::first_integer,
     "There is an important info hidden inside a lot of irrelevant text. Find it. I will "
     "quiz you about the important information there.\n\n{context}\n\n{input}\n\nThe "
     "sequence of digits is"},
    {"kv_retrieval", 50, Metric::word,
     "Extract the value corresponding to the specified key in the JSON object below.\n\n"
     "{context}\n\n{input}"},
    {"longbook_sum_eng", 1200, Metric::rouge_l,
     "Summarize the book below.\n\n{context}\n\nSummary:"},
    {"longbook_choice_eng", 40, Metric::choice,
     "Read the book and answer the question.\n\n{context}\n\nQuestion: {question}\nA. "
     "{OPTION_A}\nB. {OPTION_B}\nC. {OPTION_C}\nD. {OPTION_D}\n\nThe letter of the correct "
     "answer is"},
    {"longbook_qa_eng", 40, Metric::f1,
     "Read the book and answer the question. Be very concise in your answer.\n\n"
     "{context}\n\nQuestion: {question}\nAnswer:"},
    {"math_find", 3, Metric::first_integer, "{prefix}\n\n{context}\n\n{input}"},
    {"math_calc", 30000, Metric::sequence,
     "Let us calculate the intermediate values of an expression.\n\nExpression: 1 + 3 + 4\n"
     "Values: [1, 4, 8]\n\nExpression: 8 - 3 + 2 - 4\nValues: [8, 5, 7, 3]\n\nExpression: "
     "{context}\nValues:"},
    {"code_run", 5, Metric::last_integer,
     "There is a function called {func} in the following Python code.\n\n{context}\n\n"
     "Please compute the exact value of {func_call}. The value of {func_call} is"},
    {"code_debug", 5, Metric::choice,
     "Following is a Python code where exactly one of the functions/methods has a "
     "deliberate error that makes it crash.\n\n{context}\n\nOptions:\nA. {OPTION_A}\nB. "
     "{OPTION_B}\nC. {OPTION_C}\nD. {OPTION_D}\n\nThe correct option is:"},
    {"longdialogue_qa_eng", 40, Metric::part_match,
     "Below is a dialogue script where one random occurrence of a character name is "
     "replaced with \"$$MASK$$\", and you should try to guess who that character is.\n\n"
     "{context}\n\nThe name that has been replaced with $$MASK$$ is likely"},
}};

// "func_12(-3)" of a sentence; empty if there is none.
std::string call_in(const std::string& text) {
  const size_t at = text.find("func_"), end = text.find(')', at);
  return at == std::string::npos || end == std::string::npos ? "" : text.substr(at, end - at + 1);
}

// "the largest number" of "The largest number of the list is: ".
std::string target_in(const std::string& text) {
  const size_t at = text.find("The "), end = text.find(" of", at);
  if (at == std::string::npos || end == std::string::npos) return "";
  return "t" + text.substr(at + 1, end - at - 1);
}

// The letter of the option that is the answer.
std::string letter_of(const JsonRecord& record, const std::vector<std::string>& options,
                      const std::vector<std::string>& answers) {
  for (size_t i = 0; i < options.size(); ++i)
    if (!answers.empty() && answers[0] == options[i])
      return std::string(1, static_cast<char>('A' + i));
  if (!answers.empty() && answers.back().size() == 1) return answers.back();
  record.refuse("answer", "is none of the options");
}

}  // namespace

Sample infinite_sample(std::string_view name, const JsonRecord& record) {
  const auto task = std::ranges::find(kTasks, name, &InfiniteTask::name);
  if (task == kTasks.end()) {
    std::string all;
    for (const InfiniteTask& known : kTasks)
      all += (all.empty() ? "" : ", ") + std::string(known.name);
    throw Error(Errc::bad_option, "no infinitebench task \"" + std::string(name) +
                                      "\"; name the file after one of " + all +
                                      ", or write it behind the format as in infinitebench:TASK");
  }
  const std::string input = record.text_or("input", "");
  std::vector<std::string> answers = record.texts("answer");
  if (answers.empty()) record.refuse("answer", "has none");
  std::string form(task->form);
  form = replaced(std::move(form), "{question}", input);
  if (task->metric == Metric::choice) {
    const std::vector<std::string> options = record.texts("options");
    if (options.size() != 4) record.refuse("options", "must be four");
    for (size_t i = 0; i < 4; ++i)
      form = replaced(std::move(form),
                      "{OPTION_" + std::string(1, static_cast<char>('A' + i)) + "}", options[i]);
    answers = {letter_of(record, options, answers)};
  }
  if (name == "code_run") {
    const std::string call = call_in(input);
    if (call.empty()) record.refuse("input", "calls no function \"func_...\"");
    form = replaced(std::move(form), "{func_call}", call);
    form = replaced(std::move(form), "{func}", call.substr(0, call.find('(')));
  }
  if (name == "math_find") {
    const std::string target = target_in(input);
    if (target.empty()) record.refuse("input", "does not ask for \"The ... of the list\"");
    form = replaced(std::move(form), "{prefix}", "What is " + target + " in the following list?");
  }
  Sample sample;
  fill_prompt(sample, form, record.text("context"), input);
  sample.questions[0].answers = std::move(answers);
  sample.max_new_tokens = task->max_new_tokens;
  sample.metric = task->metric;
  return sample;
}

}  // namespace pith

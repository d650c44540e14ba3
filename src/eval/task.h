// An evaluation task makes samples and says how answers to them are graded. Samples depend on the
// seed, their number, the length asked for and the tokenizer, and on nothing else: the same bytes
// on every machine. docs/evaluation.md says where each task comes from, and what differs.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "eval/metrics.h"

namespace pith {

// What tasks need of a tokenizer: how long a text is, and where to cut it.
class TokenText {
 public:
  virtual ~TokenText() = default;
  virtual std::vector<int32_t> encode(std::string_view text) const = 0;
  virtual std::string decode(std::span<const int32_t> tokens) const = 0;
  int count(std::string_view text) const { return static_cast<int>(encode(text).size()); }
};

struct Question {
  std::string text;                  // follows the context
  std::string prefix;                // begins the answer; behind the chat template's header
  std::vector<std::string> answers;  // what they are to the grade: the metric says
  std::vector<std::string> classes;  // of classification
};

// A prompt is context + question.text + question.prefix, without anything in between.
struct Sample {
  // A worked example in front of the context; with a chat template, a turn of its own.
  std::string shown_question, shown_answer;
  std::string context;  // read once; compressed before or with a question, as the protocol says
  std::vector<Question> questions;
  // Several questions: each behind the ones before it and their true answers (multi-turn), or each
  // behind the context alone (multi-request).
  bool turns = false;
  Metric metric = Metric::all_match;
  int max_new_tokens = 64;
  bool first_line = false;    // the answer is what precedes its first line break
  bool wrapped = true;        // whether a chat template is to be put around it, where there is one
  std::optional<int> depth;   // of a single needle, in percent
  std::optional<int> record;  // of a file, counted from 0

  // In [0, 1], of what the model wrote for a question.
  double grade(size_t question, std::string_view output) const;
  // The text of one question's prompt, without a chat template.
  std::string prompt(size_t question) const;
};

// A question about documents, and the documents that answer it; those of other questions distract.
struct DocumentQuestion {
  std::string question;
  std::vector<std::string> answers;    // any of them
  std::vector<std::string> documents;  // that are needed
  std::string article;                 // distractors of the same article come first; may be empty
};

// Text that tasks are made from. Where something is empty, text of our own is generated.
struct Materials {
  std::string haystack;                     // any plain text
  std::vector<DocumentQuestion> questions;  // from parse_document_questions
};

struct SampleRequest {
  const TokenText* tokens = nullptr;
  const Materials* materials = nullptr;
  uint64_t seed = 42;
  int index = 0;           // which sample, from 0
  int max_tokens = 4096;   // of a prompt and its answer together
  int wrapper_tokens = 0;  // of these, what a chat template and a begin token take
};

class Task {
 public:
  Task(std::string name, std::string suite, std::string summary)
      : name_(std::move(name)), suite_(std::move(suite)), summary_(std::move(summary)) {}
  Task(const Task&) = delete;
  Task& operator=(const Task&) = delete;
  virtual ~Task() = default;

  const std::string& name() const { return name_; }        // "niah_single_1"
  const std::string& suite() const { return suite_; }      // "ruler"
  const std::string& summary() const { return summary_; }  // one line, lower case, no full stop
  virtual int samples() const { return 0; }                // there are, of a file; 0: any number
  // Throws bad_request if the shortest sample is longer than max_tokens.
  virtual Sample make(const SampleRequest& request) const = 0;

 private:
  std::string name_, suite_, summary_;
};

// All generated tasks, suite by suite.
std::span<const Task* const> tasks();
// One of that name, or all of a suite's. Throws bad_option with what there is.
std::vector<const Task*> find_tasks(std::string_view name);

// Lines of {"question": ..., "answers": [...], "documents": [...], "article": ...}. `name` is how
// sentences name the file. Throws bad_file with file, line and field.
std::vector<DocumentQuestion> parse_document_questions(std::string_view text,
                                                       const std::string& name);

}  // namespace pith

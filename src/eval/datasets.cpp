#include "eval/datasets.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "eval/fit.h"
#include "eval/jsonl.h"
#include "eval/words.h"

namespace pith {
namespace {

// Which task of a suite a file holds: "dir/shortdep_qa.first5.jsonl" is "shortdep_qa".
std::string stem(const std::string& name) {
  const size_t slash = name.find_last_of('/');
  const std::string file = slash == std::string::npos ? name : name.substr(slash + 1);
  return file.substr(0, file.find('.'));
}

[[noreturn]] void refuse_task(std::string_view suite, const std::string& task, const char* all) {
  throw Error(Errc::bad_option,
              "no " + std::string(suite) + " task \"" + task + "\"; name the file after one of " +
                  all + ", or write it behind the format as in " + std::string(suite) + ":TASK");
}

Sample ruler_sample(const std::string& task, const JsonRecord& record) {
  struct Kind {
    std::string_view begins;
    int max_new_tokens;
  };
  constexpr std::array<Kind, 5> kKinds{
      {{"niah", 128}, {"vt", 30}, {"cwe", 120}, {"fwe", 50}, {"qa", 32}}};
  const auto kind =
      std::ranges::find_if(kKinds, [&](const Kind& kind) { return task.starts_with(kind.begins); });
  if (kind == kKinds.end()) refuse_task("ruler", task, "niah_*, vt, cwe, fwe and qa_*");
  const std::string input = record.text("input");
  // The question is the last one: worked examples have one, too.
  size_t at = std::string::npos;
  for (const std::string_view begins :
       {"\nWhat is the special magic", "\nWhat are all the special magic", "\nQuestion: "}) {
    const size_t found = input.rfind(begins);
    if (found != std::string::npos && (at == std::string::npos || found > at)) at = found;
  }
  if (at == std::string::npos) record.refuse("input", "has no question of RULER's");
  Sample sample;
  sample.context = input.substr(0, at);
  sample.questions.push_back(
      {input.substr(at), record.text_or("answer_prefix", ""), record.texts("outputs"), {}});
  if (sample.questions[0].answers.empty()) record.refuse("outputs", "has none");
  sample.metric = kind->begins == "qa" ? Metric::part_match : Metric::all_match;
  sample.max_new_tokens = kind->max_new_tokens;
  return sample;
}

// nelson-liu/lost-in-the-middle.
Sample key_value_sample(const JsonRecord& record) {
  std::string json;
  for (const auto& [key, value] : record.pairs("ordered_kv_records")) {
    json += json.empty() ? "{\"" : ",\n \"";
    json += key;
    json += "\": \"";
    json += value;
    json += '"';
  }
  if (json.empty()) record.refuse("ordered_kv_records", "has none");
  Sample sample;
  sample.context =
      "Extract the value corresponding to the specified key in the JSON object below.\n\nJSON "
      "data:\n" +
      json + "}";
  sample.questions.push_back({"\n\nKey: \"" + record.text("key") + "\"\nCorresponding value:",
                              "",
                              {record.text("value")},
                              {}});
  sample.max_new_tokens = 100;
  return sample;
}

Sample lines_sample(const JsonRecord& record) {
  const std::string prompt = record.text("prompt");
  const size_t at = prompt.rfind("\nNow the record is over.");
  if (at == std::string::npos) record.refuse("prompt", "does not end with LongEval's question");
  Sample sample;
  sample.context = prompt.substr(0, at);
  sample.questions.push_back({prompt.substr(at), "", {record.text("expected_number")}, {}});
  sample.metric = Metric::first_integer;
  sample.max_new_tokens = 16;
  return sample;
}

struct LoogleKind {
  std::string_view name;
  std::string_view form;
  Metric metric;
  int max_new_tokens;
};
constexpr std::array<LoogleKind, 4> kLoogle{
    {{"shortdep_qa",
      "Please answer the question based on the long texts below. \n{context}\nQuestion: "
      "{input}\nAnswer: ",
      Metric::rouge_l, 300},
     {"longdep_qa",
      "Please answer the question based on the long texts below. \n{context}\nQuestion: "
      "{input}\nAnswer: ",
      Metric::rouge_l, 500},
     {"longdep_summarization",
      "Please generate a summary of the below paper. \n{context}\n Summarization: ",
      Metric::rouge_l, 500},
     {"shortdep_cloze",
      "Please fill in the clozes based on the given long texts below. Each of the placeholder "
      "'<mask-n>' in the question could be an entity of Person, Location or Organiocation. The "
      "same masks represent the same entity. Output a json format answer, for example: "
      "{'<mask-0>': "
      "'Bob', '<mask-1>': 'Gorrosion Magazine','<mask-2>': 'Bethel Horizon'}\n{context}\n "
      "Question: {input} What are the masked entities? \nAnswer:",
      Metric::masks, 50}}};

Sample loogle_sample(const std::string& task, const JsonRecord& record) {
  const auto kind = std::ranges::find(kLoogle, task, &LoogleKind::name);
  if (kind == kLoogle.end())
    refuse_task("loogle", task,
                "shortdep_qa, longdep_qa, longdep_summarization and shortdep_cloze");
  const std::string context = record.text("input");
  Sample sample;
  sample.metric = kind->metric;
  sample.max_new_tokens = kind->max_new_tokens;
  if (task == "longdep_summarization") {
    fill_prompt(sample, kind->form, context, "");
    sample.questions.back().answers = {record.text("output")};
    return sample;
  }
  const std::string where = record.where() + ": \"qa_pairs\"";
  for (const JsonRecord& pair : parse_python(record.text("qa_pairs"), where).records("value")) {
    fill_prompt(sample, kind->form, context, pair.text("Q"));
    std::vector<std::string>& answers = sample.questions.back().answers;
    if (kind->metric == Metric::masks) {
      const JsonRecord masks = pair.object("A");
      for (int n = 0;; ++n) {
        const std::string mask = "<mask-" + std::to_string(n) + ">";
        if (!masks.has(mask.c_str())) break;
        answers.push_back(masks.text(mask.c_str()));
      }
      if (answers.empty()) pair.refuse("A", "has no \"<mask-0>\"");
    } else {
      answers = pair.texts("A");
    }
  }
  if (sample.questions.empty()) record.refuse("qa_pairs", "has none");
  return sample;
}

constexpr std::array<std::string_view, 6> kFormats = {"ruler",  "longbench", "infinitebench",
                                                      "loogle", "longeval",  "kv-retrieval"};

Sample read_sample(std::string_view format, const std::string& task, const JsonRecord& record) {
  if (format == "ruler") return ruler_sample(task, record);
  if (format == "longbench") return longbench_sample(record);
  if (format == "infinitebench") return infinite_sample(task, record);
  if (format == "loogle") return loogle_sample(task, record);
  if (format == "longeval") return lines_sample(record);
  return key_value_sample(record);
}

class FileTask final : public Task {
 public:
  FileTask(std::string name, std::string suite, std::vector<Sample> samples,
           std::vector<std::string> where)
      : Task(std::move(name), std::move(suite), "records of a file"),
        samples_(std::move(samples)),
        where_(std::move(where)) {}

  int samples() const override { return static_cast<int>(samples_.size()); }
  Sample make(const SampleRequest& request) const override {
    const size_t record = static_cast<size_t>(request.index) % samples_.size();
    Sample sample = samples_[record];
    sample.record = static_cast<int>(record);
    cut_middle(sample, request, where_[record]);
    return sample;
  }

 private:
  const std::vector<Sample> samples_;
  const std::vector<std::string> where_;
};

}  // namespace

std::vector<std::string_view> dataset_formats() {
  return {kFormats.begin(), kFormats.end()};
}

void fill_prompt(Sample& sample, std::string_view form, const std::string& context,
                 const std::string& input) {
  constexpr std::string_view kContext = "{context}";
  const size_t at = form.find(kContext);
  sample.context = std::string(form.substr(0, at)) + context;
  sample.questions.push_back(
      {replaced(std::string(form.substr(at + kContext.size())), "{input}", input), "", {}, {}});
}

void cut_middle(Sample& sample, const SampleRequest& request, const std::string& where) {
  const TokenText& text = *request.tokens;
  const int most = request.max_tokens;
  int tokens = sample_tokens(sample, request);
  if (tokens <= most) return;
  const std::vector<int32_t> all = text.encode(sample.context);
  const int beside = tokens - static_cast<int>(all.size());  // question, answer, wrapper
  int behind = 0;
  for (const Question& question : sample.questions)
    behind = std::max(behind, text.count(question.text + question.prefix));
  // Where a beginning and an end meet, their text may take more tokens than both did: then less
  // stays.
  for (int room = most - beside; room > 0; room -= std::max(tokens - most, 1)) {
    const int prompt = room + behind;
    const int tail = std::clamp(prompt / 2 - behind, 0, room), head = room - tail;
    sample.context = text.decode(std::span(all).first(static_cast<size_t>(head))) +
                     text.decode(std::span(all).last(static_cast<size_t>(tail)));
    tokens = sample_tokens(sample, request);
    if (tokens <= most) return;
  }
  throw Error(Errc::bad_request, where + ": the question and its answer need " +
                                     std::to_string(beside) + " tokens, and " +
                                     std::to_string(most) + " were asked for; ask for more");
}

std::unique_ptr<const Task> load_dataset(std::string_view format, std::string_view text,
                                         const std::string& name) {
  const size_t colon = format.find(':');
  const std::string suite(format.substr(0, colon));
  if (std::ranges::find(kFormats, suite) == kFormats.end()) {
    std::string all;
    for (const std::string_view known : kFormats)
      all += (all.empty() ? "" : ", ") + std::string(known);
    throw Error(Errc::bad_option, "no data set format \"" + suite + "\"; there are " + all);
  }
  const std::string task =
      colon == std::string_view::npos ? stem(name) : std::string(format.substr(colon + 1));
  std::vector<Sample> samples;
  std::vector<std::string> where;
  for (const JsonRecord& record : read_jsonl(text, name)) {
    samples.push_back(read_sample(suite, task, record));
    where.push_back(record.where());
  }
  return std::make_unique<FileTask>(suite + ":" + task, suite, std::move(samples),
                                    std::move(where));
}

}  // namespace pith

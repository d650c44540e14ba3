// LongBench (arXiv:2308.14508): its English tasks, with the prompts and answer lengths that come
// with it, typing errors included.
#include <algorithm>
#include <array>

#include "base/error.h"
#include "eval/datasets.h"
#include "eval/jsonl.h"

namespace pith {
namespace {

constexpr std::string_view kPassages =
    "Answer the question based on the given passages. Only give me the answer and do not "
    "output any other words.\n\nThe following are given passages.\n{context}\n\nAnswer the "
    "question based on the given passages. Only give me the answer and do not output any "
    "other words.\n\nQuestion: {input}\nAnswer:";

struct LongBenchTask {
  std::string_view name;
  int max_new_tokens;
  Metric metric;
  bool wrapped;     // in a chat template
  bool first_line;  // of the answer counts
  std::string_view form;
};
constexpr std::array<LongBenchTask, 16> kTasks{{
    {"narrativeqa", 128, Metric::f1, true, false,
     "You are given a story, which can be either a novel or a movie script, and a question. "
     "Answer the question asconcisely as you can, using a single phrase if possible. Do not "
     "provide any explanation.\n\nStory: {context}\n\nNow, answer the question based on the "
     "story asconcisely as you can, using a single phrase if possible. Do not provide any "
     "explanation.\n\nQuestion: {input}\n\nAnswer:"},
    {"qasper", 128, Metric::f1, true, false,
     "You are given a scientific article and a question. Answer the question as concisely "
     "as you can, using a single phrase or sentence if possible. If the question cannot be "
     "answered based on the information in the article, write \"unanswerable\". If the "
     "question is a yes/no question, answer \"yes\", \"no\", or \"unanswerable\". Do not "
     "provide any explanation.\n\nArticle: {context}\n\n Answer the question based on the "
     "above article as concisely as you can, using a single phrase or sentence if possible. "
     "If the question cannot be answered based on the information in the article, write "
     "\"unanswerable\". If the question is a yes/no question, answer \"yes\", \"no\", or "
     "\"unanswerable\". Do not provide any explanation.\n\nQuestion: {input}\n\nAnswer:"},
    {"multifieldqa_en", 64, Metric::f1, true, false,
     "Read the following text and answer briefly.\n\n{context}\n\nNow, answer the following "
     "question based on the above text, only give me the answer and do not output any other "
     "words.\n\nQuestion: {input}\nAnswer:"},
    {"hotpotqa", 32, Metric::f1, true, false, kPassages},
    {"2wikimqa", 32, Metric::f1, true, false, kPassages},
    {"musique", 32, Metric::f1, true, false, kPassages},
    {"gov_report", 512, Metric::rouge_l, true, false,
     "You are given a report by a government agency. Write a one-page summary of the "
     "report.\n\nReport:\n{context}\n\nNow, write a one-page summary of the report.\n\n"
     "Summary:"},
    {"qmsum", 512, Metric::rouge_l, true, false,
     "You are given a meeting transcript and a query containing a question or instruction. "
     "Answer the query in one or more sentences.\n\nTranscript:\n{context}\n\nNow, answer "
     "the query based on the above meeting transcript in one or more sentences.\n\nQuery: "
     "{input}\nAnswer:"},
    {"multi_news", 512, Metric::rouge_l, true, false,
     "You are given several news passages. Write a one-page summary of all news. \n\nNews:\n"
     "{context}\n\nNow, write a one-page summary of all the news.\n\nSummary:"},
    {"trec", 64, Metric::classification, false, true,
     "Please determine the type of the question below. Here are some examples of "
     "questions.\n\n{context}\n{input}"},
    {"triviaqa", 32, Metric::f1, false, true,
     "Answer the question based on the given passage. Only give me the answer and do not "
     "output any other words. The following are some examples.\n\n{context}\n\n{input}"},
    {"samsum", 128, Metric::rouge_l, false, true,
     "Summarize the dialogue into a few short sentences. The following are some "
     "examples.\n\n{context}\n\n{input}"},
    {"passage_count", 32, Metric::count, true, false,
     "There are some paragraphs below sourced from Wikipedia. Some of them may be "
     "duplicates. Please carefully read these paragraphs and determine how many unique "
     "paragraphs there are after removing duplicates. In other words, how many "
     "non-repeating paragraphs are there in total?\n\n{context}\n\nPlease enter the final "
     "count of unique paragraphs after removing duplicates. The output format should only "
     "contain the number, such as 1, 2, 3, and so on.\n\nThe final answer is: "},
    {"passage_retrieval_en", 32, Metric::retrieval, true, false,
     "Here are 30 paragraphs from Wikipedia, along with an abstract. Please determine which "
     "paragraph the abstract is from.\n\n{context}\n\nThe following is an abstract.\n\n"
     "{input}\n\nPlease enter the number of the paragraph that the abstract is from. The "
     "answer format must be like \"Paragraph 1\", \"Paragraph 2\", etc.\n\nThe answer is: "},
    {"lcc", 64, Metric::edit_similarity, false, false,
     "Please complete the code given below. \n{context}Next line of code:\n"},
    {"repobench-p", 64, Metric::edit_similarity, false, false,
     "Please complete the code given below. \n{context}{input}Next line of code:\n"},
}};

}  // namespace

Sample longbench_sample(const JsonRecord& record) {
  const std::string name = record.text("dataset");
  const auto task = std::ranges::find(kTasks, name, &LongBenchTask::name);
  if (task == kTasks.end()) {
    std::string all;
    for (const LongBenchTask& known : kTasks)
      all += (all.empty() ? "" : ", ") + std::string(known.name);
    record.refuse("dataset", "is \"" + name + "\", which is none of " + all);
  }
  Sample sample;
  fill_prompt(sample, task->form, record.text("context"), record.text_or("input", ""));
  Question& question = sample.questions[0];
  question.answers = record.texts("answers");
  if (question.answers.empty()) record.refuse("answers", "has none");
  if (task->metric == Metric::classification) question.classes = record.texts("all_classes");
  sample.max_new_tokens = task->max_new_tokens;
  sample.metric = task->metric;
  sample.wrapped = task->wrapped;
  sample.first_line = task->first_line;
  return sample;
}

}  // namespace pith

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <gtest/gtest.h>
#include <map>
#include <set>
#include <sstream>

#include "base/error.h"
#include "eval/datasets.h"
#include "eval/fit.h"
#include "eval/prose.h"
#include "eval/words.h"
#include "support/refusals.h"
#include "support/task_solvers.h"
#include "support/test_data.h"

namespace pith {
namespace {

using test::solve;
using test::told_by;
using test::ToyText;

const ToyText kText;
const Materials kNone;

SampleRequest request(int index, int tokens = 4096, uint64_t seed = 42) {
  SampleRequest request;
  request.tokens = &kText;
  request.materials = &kNone;
  request.index = index;
  request.max_tokens = tokens;
  request.seed = seed;
  return request;
}

const Task& task(std::string_view name) {
  return *find_tasks(name).at(0);
}

// Long enough for every task; countdown shows two searches.
int length_of(const Task& task) {
  return task.name() == "countdown" ? 6000 : 1500;
}

std::string all_text(const Sample& sample) {
  std::string out = sample.shown_question + sample.shown_answer + sample.context;
  for (const Question& question : sample.questions) {
    out += "|" + question.text + "|" + question.prefix;
    for (const std::string& answer : question.answers) out += "|" + answer;
  }
  return out;
}

TEST(Tasks, AreSolvedByWhoeverReadsTheirText) {
  for (const Task* task : tasks())
    for (const int index : {0, 5}) {
      const Sample sample = task->make(request(index, length_of(*task)));
      for (size_t q = 0; q < sample.questions.size(); ++q)
        EXPECT_EQ(sample.grade(q, solve(task->name(), sample, q)), 1)
            << task->name() << " " << index << ": " << sample.questions[q].text << "\n"
            << solve(task->name(), sample, q);
    }
}

TEST(Tasks, AreNotSolvedByChance) {
  // Whoever answers with what is right elsewhere, or with words of nothing.
  Random random(7);
  for (const Task* task : tasks()) {
    double sum = 0;
    int count = 0;
    const Sample other = task->make(request(73, length_of(*task)));
    for (int index = 0; index < 4; ++index) {
      const Sample sample = task->make(request(index, length_of(*task)));
      for (size_t q = 0; q < sample.questions.size(); ++q, ++count) {
        std::string said = solve(task->name(), other, q);
        if (task->name() == "needle") said = joined(distinct_words(random, 8), " ");
        sum += sample.grade(q, said);
      }
    }
    EXPECT_LE(sum / count, 0.2) << task->name();
  }
}

TEST(Tasks, AreAsLongAsAskedFor) {
  for (const Task* task : tasks())
    for (const int tokens : {length_of(*task), 4500}) {
      if (tokens < length_of(*task)) continue;
      SampleRequest asked = request(3, tokens);
      asked.wrapper_tokens = 17;
      const Sample sample = task->make(asked);
      const int found = sample_tokens(sample, asked);
      EXPECT_LE(found, tokens) << task->name();
      // The longest text that is added at once is a step of cwe (30 numbered words) or of a
      // document; countdown's lengths are those of its searches.
      if (task->name() != "countdown") {
        EXPECT_GT(found, tokens - 400) << task->name();
      }
      asked.wrapper_tokens = 0;
      const auto wrapped = static_cast<int>(sample.turns ? sample.questions.size() : 1);
      EXPECT_EQ(sample_tokens(sample, asked), found - 17 * wrapped);
    }
}

TEST(Tasks, RepeatThemselvesByteForByteFromASeed) {
  std::set<std::string> seen;
  uint64_t hash = 0xcbf29ce484222325u;
  for (const Task* task : tasks()) {
    const std::string text = all_text(task->make(request(1, length_of(*task))));
    EXPECT_EQ(all_text(task->make(request(1, length_of(*task)))), text) << task->name();
    EXPECT_NE(all_text(task->make(request(2, length_of(*task)))), text) << task->name();
    EXPECT_NE(all_text(task->make(request(1, length_of(*task), 43))), text) << task->name();
    for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
    if (task->suite() != "scbench") {
      EXPECT_TRUE(seen.insert(text).second) << task->name();
    }
  }
  // On every machine. What changes it changes published figures, and is told in docs/evaluation.md.
  EXPECT_EQ(hash, 14540457729874110947u);
}

TEST(Tasks, SayWhenTheirShortestSampleIsTooLong) {
  for (const Task* task : tasks()) {
    const std::string told = told_by(Errc::bad_request, [&] { task->make(request(0, 20)); });
    EXPECT_NE(told.find(task->name()), std::string::npos) << told;
  }
}

TEST(Tasks, AreFoundByNameAndBySuite) {
  EXPECT_EQ(find_tasks("ruler").size(), 13u);
  EXPECT_EQ(find_tasks("scbench").size(), 8u);
  EXPECT_EQ(find_tasks("vt").size(), 1u);
  const std::string told = told_by(Errc::bad_option, [] { find_tasks("rulr"); });
  EXPECT_NE(told.find("niah_single_1"), std::string::npos);
}

// The strings of RULER, with the sample's own key and value.
TEST(RulerTasks, AreWordedAsTheReference) {
  const Sample one = task("niah_single_1").make(request(0, 1024));
  const std::string value = one.questions[0].answers[0];
  const std::string& asked = one.questions[0].text;
  const size_t key_at = asked.find(" for ") + 5;
  const std::string key = asked.substr(key_at, asked.find(" mentioned") - key_at);
  const std::string noise =
      "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.";
  const std::string begins =
      "A special magic number is hidden within the following text. Make sure to memorize it. I "
      "will "
      "quiz you about the number afterwards.\n";
  const std::string needle =
      "One of the special magic numbers for " + key + " is: " + value + ".\n";
  EXPECT_EQ(one.context.substr(0, begins.size()), begins);
  EXPECT_NE(one.context.find(noise + "\n" + needle + noise + "\n"), std::string::npos);
  EXPECT_EQ(asked,
            "\nWhat is the special magic number for " + key + " mentioned in the provided text?");
  EXPECT_EQ(one.questions[0].prefix,
            " The special magic number for " + key + " mentioned in the provided text is");
  EXPECT_EQ(value.size(), 7u);
  EXPECT_EQ(one.max_new_tokens, 128);

  const Sample four = task("niah_multiquery").make(request(0, 2048));
  EXPECT_EQ(four.questions[0].answers.size(), 4u);
  EXPECT_TRUE(
      four.context.starts_with("Some special magic numbers are hidden within the following text. "
                               "Make sure to memorize it. I "
                               "will quiz you about the numbers afterwards.\n"));
  EXPECT_TRUE(four.questions[0].text.starts_with("\nWhat are all the special magic numbers for "));
  EXPECT_NE(four.questions[0].text.find(", and "), std::string::npos);

  const Sample vt = task("vt").make(request(0));
  const std::string hidden = vt.context.substr(vt.context.rfind("Memorize and track"));
  EXPECT_TRUE(hidden.starts_with(
      "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n"));
  EXPECT_TRUE(vt.questions[0].prefix.ends_with(", they are: "));
  EXPECT_EQ(vt.questions[0].answers.size(), 5u);
  // The example: five names of three letters behind its answer.
  const std::string shown = vt.context.substr(0, vt.context.rfind("Memorize and track"));
  EXPECT_NEAR(kText.count(shown), 500 - 30, 40);
  EXPECT_EQ(shown[shown.rfind("they are:") + 9], ' ');
  EXPECT_EQ(shown.size() - shown.rfind("they are: ") - 10, 1u + 5 * 4 - 1 + 2);
}

TEST(RulerTasks, HideNeedlesAtAllDepths) {
  for (const std::string_view name : {"niah_single_1", "niah_single_2", "niah_multikey_2"}) {
    double first = 1, last = 0;
    for (int index = 0; index < 12; ++index) {
      const Sample sample = task(name).make(request(index, 1000));
      const size_t at = sample.context.find(": " + sample.questions[0].answers[0]);
      const double depth = static_cast<double>(at) / static_cast<double>(sample.context.size());
      first = std::min(first, depth);
      last = std::max(last, depth);
    }
    EXPECT_LT(first, 0.35) << name;
    EXPECT_GT(last, 0.65) << name;
  }
}

TEST(RulerTasks, CountWordsAsTheReference) {
  const Sample cwe = task("cwe").make(request(0));
  for (const std::string& word : cwe.questions[0].answers) {
    const std::string item = ". " + word;
    int times = 0;
    for (size_t at = cwe.context.find(item); at != std::string::npos;
         at = cwe.context.find(item, at + 1)) {
      const char behind =
          at + item.size() < cwe.context.size() ? cwe.context[at + item.size()] : ' ';
      times += behind == ' ';
    }
    EXPECT_EQ(times, 30) << word;
  }
  EXPECT_TRUE(cwe.shown_answer.ends_with("\n"));

  // Shares 60.8, 15.2, 6.75 and 3.80 % of the words that were drawn from.
  const Sample fwe = task("fwe").make(request(0));
  const std::string text = fwe.context.substr(fwe.context.find("coded words. ") + 13);
  std::map<std::string, int> counts;
  for (const std::string& word : split_words(text)) ++counts[word];
  const double drawn = counts["..."] / 0.6079;
  EXPECT_NEAR(counts[fwe.questions[0].answers[0]], 0.1520 * drawn, 2);
  EXPECT_NEAR(counts[fwe.questions[0].answers[1]], 0.0675 * drawn, 2);
  EXPECT_NEAR(counts[fwe.questions[0].answers[2]], 0.0380 * drawn, 2);
}

TEST(RulerTasks, UseTheDocumentsAndTheTextTheyAreGiven) {
  Materials materials;
  Random names(1);
  for (int i = 0; i < 60; ++i) materials.haystack += "Sentence " + word_pair(names) + " ends. ";
  materials.questions = parse_document_questions(
      "{\"question\": \"Who?\", \"answers\": [\"Ann\"], \"documents\": [\"Ann did.\"]}\n\n"
      "{\"question\": \"When?\", \"answers\": [\"then\"], \"documents\": [\"It was then.\"]}\n",
      "qa.jsonl");
  SampleRequest with = request(1, 600);
  with.materials = &materials;
  const Sample qa = task("qa_1").make(with);
  EXPECT_NE(qa.context.find("Ann did."), std::string::npos);
  EXPECT_NE(qa.context.find("It was then."), std::string::npos);
  EXPECT_NE(qa.context.find("Document 2:\n"), std::string::npos);
  EXPECT_EQ(qa.context.find("Document 3:\n"), std::string::npos);  // no more than there are
  EXPECT_EQ(qa.questions[0].text.substr(qa.questions[0].text.size() - 15), "Question: When?");
  EXPECT_EQ(qa.grade(0, "Now and THEN"), 1);
  EXPECT_NE(task("niah_single_2").make(with).context.find(" ends. Sentence "), std::string::npos);
}

TEST(GridTask, PutsItsNeedleAtEachDepth) {
  for (int index = 0; index < 11; ++index) {
    const Sample sample = task("needle").make(request(index));
    const size_t at = sample.context.find("\nThe best thing to do");
    EXPECT_EQ(sample.depth, index * 10);
    EXPECT_NEAR(100.0 * static_cast<double>(at) / static_cast<double>(sample.context.size()),
                index * 10, 3.5);
    if (index < 10 && at > 0) {
      EXPECT_EQ(sample.context[at - 1], '.');
    }
  }
}

TEST(SharedTasks, AskTheSameInBothModes) {
  const Sample turns = task("scbench_kv").make(request(0)),
               requests = task("scbench_kv_requests").make(request(0));
  EXPECT_TRUE(turns.turns);
  EXPECT_FALSE(requests.turns);
  EXPECT_EQ(turns.questions.size(), 5u);
  EXPECT_EQ(requests.questions.size(), 5u);
}

TEST(Prose, IsPlainEnglishThatDoesNotRepeatItself) {
  const std::string text = write_prose(1, 5000);
  EXPECT_GE(split_words(text).size(), 5000u);
  EXPECT_EQ(write_prose(1, 500), text.substr(0, write_prose(1, 500).size()));
  EXPECT_NE(write_prose(2, 500), write_prose(1, 500));
  std::multiset<std::string> seen;
  for (const std::string& sentence : split_sentences(text)) seen.insert(sentence);
  for (const std::string& sentence : seen) EXPECT_LE(seen.count(sentence), 2u) << sentence;
  for (const char c : text) EXPECT_TRUE(c == '\n' || (c >= ' ' && c <= '~')) << c;
  EXPECT_EQ(text.find_first_of("{}0123456789"), std::string::npos);
  for (const std::string_view article : {" a a", " a e", " a i", " a o", " a u"})
    EXPECT_EQ(text.find(article), std::string::npos) << text.substr(text.find(article), 20);
}

TEST(Prose, IsCutIntoWordsAndSentences) {
  EXPECT_EQ(split_sentences("One. Two!  no? \"Three.\" \"Four\" e.g. five"),
            (std::vector<std::string>{"One.", "Two!  no?", "\"Three.\"", "\"Four\" e.g. five"}));
  EXPECT_EQ(first_words({"a", "b"}, 5), "a b a b a");
}

TEST(Words, AreDifferentHoweverMany) {
  Random random(3);
  for (const int count : {10, 700, 5000}) {
    const std::vector<std::string> words = distinct_words(random, count);
    EXPECT_EQ(std::set<std::string>(words.begin(), words.end()).size(), static_cast<size_t>(count));
  }
  const std::string id = uuid(random);
  EXPECT_EQ(id.size(), 36u);
  EXPECT_EQ(id[14], '4');
  EXPECT_NE(std::string("89ab").find(id[19]), std::string::npos);
}

Sample loaded(std::string_view format, const std::string& line, int tokens = 4096,
              const std::string& name = "some.jsonl") {
  std::string one_line = line;
  std::erase(one_line, '\n');
  return load_dataset(format, one_line, name)->make(request(0, tokens));
}

TEST(DataSets, GetThePromptsAndMetricsOfTheirSuites) {
  const Sample trec = loaded("longbench",
                             R"j({"input": "Type:", "context": "Q: why?", "answers": ["Reason"],
                                "dataset": "trec", "all_classes": ["Reason", "Place"]})j");
  EXPECT_EQ(trec.prompt(0),
            "Please determine the type of the question below. Here are some examples of "
            "questions.\n\nQ: why?\nType:");
  EXPECT_EQ(trec.grade(0, "\nReason\nPlace"), 1);  // the first line counts
  EXPECT_FALSE(trec.wrapped);
  const Sample hotpot = loaded("longbench",
                               R"j({"input": "Who?", "context": "P.", "answers": ["the Dog"],
                                  "dataset": "hotpotqa", "all_classes": null})j");
  EXPECT_EQ(hotpot.questions[0].text.substr(hotpot.questions[0].text.size() - 24),
            "\n\nQuestion: Who?\nAnswer:");
  EXPECT_EQ(hotpot.grade(0, "dog."), 1);
  EXPECT_EQ(hotpot.max_new_tokens, 32);

  const Sample kv = loaded("kv-retrieval", R"j({"ordered_kv_records": [["a", "1"], ["b", "2"]],
                                              "key": "b", "value": "2"})j");
  EXPECT_EQ(
      kv.prompt(0),
      "Extract the value corresponding to the specified key in the JSON object below.\n\nJSON "
      "data:\n{\"a\": \"1\",\n \"b\": \"2\"}\n\nKey: \"b\"\nCorresponding value:");

  const Sample choice = loaded("infinitebench:longbook_choice_eng",
                               R"j({"id": 1, "context": "Book", "input": "Who?", "answer": ["Bo"],
                "options": ["Al", "Bo", "Cy", "Di"]})j");
  EXPECT_EQ(choice.prompt(0),
            "Read the book and answer the question.\n\nBook\n\nQuestion: Who?\nA. Al\nB. Bo\nC. "
            "Cy\nD. Di\n\nThe letter of the correct answer is");
  EXPECT_EQ(choice.grade(0, " B"), 1);
  const Sample math =
      loaded("infinitebench",
             R"j({"context": "[1, 2]", "input": "The largest number of the list is: ",
                                "answer": 2})j",
             4096, "dir/math_find.jsonl");
  EXPECT_TRUE(math.context.starts_with("What is the largest number in the following list?"));
  EXPECT_EQ(math.grade(0, "2"), 1);
  const Sample run = loaded("infinitebench:code_run",
                            R"j({"context": "def func_1(x)", "input": "What is func_1(-3)?",
                               "answer": -7
})j");
  EXPECT_TRUE(run.questions[0].text.ends_with(
      "Please compute the exact value of func_1(-3). The value of func_1(-3) is"));
  EXPECT_EQ(run.grade(0, " -7."), 1);

  const Sample cloze = loaded("loogle:shortdep_cloze",
                              R"j({"input": "T", "title": "x", "output": "None", "qa_pairs":
         "[{'Q': '<mask-0>\\'s \"friend\"\\u00e9', 'A': {'<mask-0>': 'Bob'}}]"})j");
  EXPECT_EQ(cloze.questions[0].text.substr(0, 32), "\n Question: <mask-0>'s \"friend\"\xc3");
  EXPECT_EQ(cloze.grade(0, "{'<mask-0>': 'Bob'}"), 1);

  const Sample ruler =
      loaded("ruler", R"j({"index": 0, "input": "Question: no\nText.\nQuestion: Q?",
                                          "outputs": ["x", "y"]})j",
             4096, "vt.jsonl");
  EXPECT_EQ(ruler.context, "Question: no\nText.");
  EXPECT_EQ(ruler.grade(0, "Y"), 0.5);
}

TEST(DataSets, NameFileLineAndFieldOfWhatIsWrong) {
  struct Bad {
    std::string_view format;
    std::string text;
    std::vector<std::string> says;
  };
  const std::vector<Bad> bad = {
      {"longbench", "\n{\"dataset\": \"trec\"", {"f.jsonl:2", "not a JSON object"}},
      {"longbench", "{\"dataset\": \"lsht\"}", {"f.jsonl:1", "\"dataset\"", "trec"}},
      {"longbench",
       "{\"dataset\": \"lcc\", \"context\": 1.5, \"answers\": [[]]}",
       {"f.jsonl:1", "\"answers\""}},
      {"longbench",
       "{\"dataset\": \"lcc\", \"context\": \"c\", \"answers\": []}",
       {"\"answers\" has none"}},
      {"longbench", "", {"f.jsonl", "no record"}},
      {"kv-retrieval", "{\"ordered_kv_records\": [[\"a\"]]}", {"\"ordered_kv_records\"", "pairs"}},
      {"infinitebench:passkey", "{\"context\": \"c\"}", {"\"answer\" is missing"}},
      {"infinitebench:code_debug",
       "{\"context\": \"c\", \"answer\": [\"x\"], \"options\": [1, 2]}",
       {"\"options\" must be four"}},
      {"loogle:longdep_qa",
       "{\"input\": \"c\", \"qa_pairs\": \"[{'Q': 'x\"}",
       {"f.jsonl:1", "Python"}},
      {"loogle:longdep_qa", "{\"input\": \"c\", \"qa_pairs\": \"[1]\"}", {"list of objects"}},
      {"longeval", "{\"prompt\": \"p\", \"expected_number\": 1}", {"\"prompt\""}},
      {"ruler:vt", "{\"input\": \"p\", \"outputs\": [\"1\"]}", {"\"input\"", "question"}},
  };
  for (const Bad& b : bad) {
    const std::string told =
        told_by(Errc::bad_file, [&] { load_dataset(b.format, b.text, "f.jsonl"); });
    for (const std::string& part : b.says) EXPECT_NE(told.find(part), std::string::npos) << told;
  }
  const std::string line = "{\"context\": \"c\", \"answer\": 1, \"input\": \"i\"}";
  for (const std::string_view format : {"squad", "infinitebench:poem", "loogle", "ruler"})
    told_by(Errc::bad_option, [&] { load_dataset(format, line, "f.jsonl"); });
  told_by(Errc::bad_file, [] { parse_document_questions("{\"question\": 1}", "f"); });
}

TEST(DataSets, LoseTheMiddleOfWhatIsTooLong) {
  std::string context;
  for (int i = 0; i < 3000; ++i) context += " w" + std::string(1, static_cast<char>('a' + i % 26));
  const std::string line =
      R"j({"dataset": "hotpotqa", "input": "Q?", "answers": ["x"], "context": ")j" +
      std::string("Begin") + context + " End\"}";
  const Sample sample = loaded("longbench", line, 1000);
  const int tokens = kText.count(sample.prompt(0)) + 32;
  EXPECT_LE(tokens, 1000);
  EXPECT_GT(tokens, 990);
  EXPECT_NE(sample.context.find("\nBegin wa wb"), std::string::npos);
  EXPECT_TRUE(sample.context.ends_with(" End"));
  // Half of the prompt is its beginning: the first 484 of 968 tokens.
  const std::vector<int32_t> whole = kText.encode(loaded("longbench", line, 9000).prompt(0)),
                             cut = kText.encode(sample.prompt(0));
  EXPECT_TRUE(std::equal(cut.begin(), cut.begin() + 480, whole.begin()));
  EXPECT_TRUE(std::equal(cut.end() - 480, cut.end(), whole.end() - 480));
  told_by(Errc::bad_request, [&] { loaded("longbench", line, 60); });
}

std::string unpacked(const std::string& name) {
  const std::string to = testing::TempDir() + "/eval_data.jsonl";
  if (std::system(("xz -dc '" + test::data_path(name) + "' > '" + to + "'").c_str()) != 0)
    return "";
  std::ifstream in(to);
  std::stringstream all;
  all << in.rdbuf();
  return all.str();
}

TEST(DataSets, ScoreRulersSampleAsItsOwnOutputsSay) {
  const std::string name = "ruler-sample/niah_multikey_3.4096.first50.jsonl.xz";
  PITH_NEEDS_DATA(name);
  const auto file = load_dataset("ruler", unpacked(name), name);
  EXPECT_EQ(file->name(), "ruler:niah_multikey_3");
  ASSERT_EQ(file->samples(), 50);
  const Sample own = task("niah_multikey_3").make(request(0));
  // All that is not a uuid.
  const auto form = [](const std::string& text) {
    std::string out;
    for (const std::string& word : split_words(text))
      out += word.find('-') == std::string::npos ? " " + word : " ID";
    return out;
  };
  for (int i = 0; i < 50; ++i) {
    const Sample sample = file->make(request(i, 1 << 20));
    const std::string right = sample.questions[0].answers.at(0);
    EXPECT_EQ(sample.grade(0, right), 1);
    EXPECT_EQ(sample.grade(0, solve("niah_multikey_3", sample, 0)), 1);
    EXPECT_EQ(sample.grade(0, file->make(request(i + 1, 1 << 20)).questions[0].answers[0]), 0);
    // Ours are worded like it.
    EXPECT_EQ(form(sample.questions[0].text),
              form(own.questions[0].text) + form(own.questions[0].prefix));
    EXPECT_EQ(form(sample.context).substr(0, 300), form(own.context).substr(0, 300));
  }
}

TEST(DataSets, ReadEveryRecordOfTheSamples) {
  struct File {
    std::string format, name;
    int records;
  };
  const std::vector<File> files = {
      {"kv-retrieval", "kv-retrieval/kv-retrieval-75_keys.first50.jsonl.xz", 50},
      {"longbench", "longbench-sample/multi_news.first100.jsonl.xz", 100},
      {"longeval", "longeval-lines/200_lines.jsonl.xz", 50},
      {"loogle", "loogle-sample/longdep_qa.jsonl.xz", 5},
      {"loogle", "loogle-sample/longdep_summarization.jsonl.xz", 5},
      {"loogle", "loogle-sample/shortdep_cloze.jsonl.xz", 5},
      {"loogle", "loogle-sample/shortdep_qa.jsonl.xz", 5}};
  PITH_NEEDS_DATA(files[0].name);
  for (const File& file : files) {
    const auto task = load_dataset(file.format, unpacked(file.name), file.name);
    EXPECT_EQ(task->samples(), file.records) << file.name;
    const Sample sample = task->make(request(file.records - 1, 4096));
    EXPECT_LE(sample_tokens(sample, request(0)), 4096);
    for (size_t q = 0; q < sample.questions.size(); ++q) {
      std::string said = sample.questions[q].answers[0];
      if (file.name.find("cloze") != std::string::npos) {
        said = "{";
        for (size_t n = 0; n < sample.questions[q].answers.size(); ++n)
          said += "'<mask-" + std::to_string(n) + ">': '" + sample.questions[q].answers[n] + "', ";
      }
      EXPECT_EQ(sample.grade(q, said), 1) << file.name << ": " << said;
    }
  }
}

}  // namespace
}  // namespace pith

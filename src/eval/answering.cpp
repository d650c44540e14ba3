// RULER's question answering: the documents that answer, among those of other questions.
#include <algorithm>
#include <unordered_set>

#include "base/error.h"
#include "eval/fit.h"
#include "eval/jsonl.h"
#include "eval/suites.h"
#include "eval/words.h"

namespace pith {
namespace {

std::string capital(std::string_view word) {
  std::string out(word);
  if (out[0] >= 'a' && out[0] <= 'z') out[0] = static_cast<char>(out[0] - 'a' + 'A');
  return out;
}

// Invented people, buildings and towns, for when there is no file of questions. No name is that of
// two things.
class Gazetteer {
 public:
  explicit Gazetteer(Random& random) : random_(random) {}

  std::string person() {
    return fresh([&] { return pick(people()) + " " + capital(pick(nouns())) + pick(kEndings); });
  }
  std::string building() {
    return fresh([&] {
      return capital(pick(adjectives())) + " " + capital(pick(nouns())) + " " + pick(kKinds);
    });
  }
  std::string town() { return pick(places()); }
  std::string noun() { return pick(nouns()); }
  std::string adjective() { return pick(adjectives()); }
  std::string year() { return std::to_string(between(random_, 1700, 1999)); }
  std::string trade() { return pick(kTrades); }

 private:
  static constexpr std::string_view kEndings[] = {"ley", "son", "worth", "man", "field", "ton"};
  static constexpr std::string_view kKinds[] = {"Museum", "Library",     "Theater",
                                                "Bridge", "Observatory", "Hospital"};
  static constexpr std::string_view kTrades[] = {"architect", "engineer", "painter",
                                                 "printer",   "surgeon",  "composer"};
  std::string pick(std::span<const std::string_view> list) {
    return std::string(list[random_.below(list.size())]);
  }
  template <class Draw>
  std::string fresh(Draw&& draw) {
    for (;;) {
      std::string name = draw();
      if (used_.insert(name).second) return name;
    }
  }
  Random& random_;
  std::unordered_set<std::string> used_;
};

// One document says it.
DocumentQuestion one_step(Gazetteer& names) {
  const std::string what = names.building(), who = names.person(), town = names.town();
  return {"Who founded the " + what + "?",
          {who},
          {"The " + what + " stands near the center of " + town + ". It was founded by " + who +
           " in " + names.year() + ", and its first visitors paid for their tickets with " +
           with_article(names.noun()) + ". Above the entrance one still sees " +
           with_article(names.adjective()) + " " + names.noun() +
           ", which the town gave back after the war of " + names.year() + "."},
          {}};
}

// One names the person, the other the town.
DocumentQuestion two_steps(Gazetteer& names) {
  const std::string what = names.building(), who = names.person(), born = names.town();
  return {"In which town was the designer of the " + what + " born?",
          {born},
          {what + "\nThe " + what + " was opened in " + names.year() + ". It was designed by " +
               who + ", who never saw it finished, and it is known for its " + names.adjective() +
               " " + names.noun() + ".",
           who + "\n" + who + " (born in " + born + " in " + names.year() + ") was an " +
               "accomplished " + names.trade() + " and kept " + with_article(names.adjective()) +
               " " + names.noun() + " in the garden."},
          {}};
}

class AnsweringTask final : public Task {
 public:
  explicit AnsweringTask(bool two)
      : Task(two ? "qa_2" : "qa_1", "ruler",
             two ? "a question that two of many documents answer"
                 : "a question that one of many documents answers"),
        two_(two) {}

  Sample make(const SampleRequest& request) const override {
    std::vector<DocumentQuestion> own;
    const bool given = request.materials && !request.materials->questions.empty();
    if (!given) own = invented(request);
    const std::vector<DocumentQuestion>& all = given ? request.materials->questions : own;
    const DocumentQuestion& asked = all[static_cast<size_t>(request.index) % all.size()];
    const std::vector<std::string> others = distractors(request, all, asked);
    return fit_sample(*this, request, 0, static_cast<int>(others.size()), [&](int count) {
      std::vector<std::string> documents = asked.documents;
      documents.insert(documents.end(), others.begin(), others.begin() + count);
      Random random = sample_random(name() + " order", request.seed, request.index);
      shuffle(documents, random);
      std::string context = kInstruction + "\n\nThe following are given documents.\n\n";
      for (size_t i = 0; i < documents.size(); ++i)
        context +=
            (i > 0 ? "\n\nDocument " : "Document ") + std::to_string(i + 1) + ":\n" + documents[i];
      Sample sample;
      sample.context = std::move(context);
      sample.questions.push_back({"\n\n" + kInstruction + "\n\nQuestion: " + asked.question,
                                  " Answer:",
                                  asked.answers,
                                  {}});
      sample.metric = Metric::part_match;
      sample.max_new_tokens = 32;
      return sample;
    });
  }

 private:
  static inline const std::string kInstruction =
      "Answer the question based on the given documents. Only give me the answer and do not output "
      "any other words.";

  std::vector<DocumentQuestion> invented(const SampleRequest& request) const {
    Random random = sample_random(name() + " documents", request.seed, 0);
    Gazetteer names(random);
    // A document of either form has more than 30 tokens.
    const int count = std::max(request.max_tokens / 30, request.index + 1);
    std::vector<DocumentQuestion> all;
    all.reserve(static_cast<size_t>(count));
    for (int i = 0; i < count; ++i) all.push_back(two_ ? two_steps(names) : one_step(names));
    return all;
  }

  // In the order in which they are used: of the same article, then of all others.
  std::vector<std::string> distractors(const SampleRequest& request,
                                       const std::vector<DocumentQuestion>& all,
                                       const DocumentQuestion& asked) const {
    std::unordered_set<std::string> used(asked.documents.begin(), asked.documents.end());
    std::vector<std::string> same, others;
    for (const DocumentQuestion& question : all)
      for (const std::string& document : question.documents)
        if (used.insert(document).second) {
          const bool of_article = !asked.article.empty() && question.article == asked.article;
          (of_article ? same : others).push_back(document);
        }
    Random random = sample_random(name(), request.seed, request.index);
    shuffle(same, random);
    shuffle(others, random);
    same.insert(same.end(), others.begin(), others.end());
    return same;
  }

  const bool two_;
};

}  // namespace

std::vector<DocumentQuestion> parse_document_questions(std::string_view text,
                                                       const std::string& name) {
  std::vector<DocumentQuestion> questions;
  for (const JsonRecord& record : read_jsonl(text, name)) {
    DocumentQuestion question;
    question.question = record.text("question");
    question.answers = record.texts("answers");
    question.documents = record.texts("documents");
    question.article = record.text_or("article", "");
    if (question.answers.empty()) record.refuse("answers", "has none");
    if (question.documents.empty()) record.refuse("documents", "has none");
    questions.push_back(std::move(question));
  }
  return questions;
}

void add_answering(TaskList& tasks) {
  tasks.push_back(std::make_unique<AnsweringTask>(false));
  tasks.push_back(std::make_unique<AnsweringTask>(true));
}

}  // namespace pith

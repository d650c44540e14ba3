// How answers are graded. All grades are in [0, 1]; suites report their mean times 100.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pith {

enum class Metric {
  all_match,        // share of the answers that the output contains, whatever their case (RULER)
  part_match,       // 1 if it contains any of them (RULER qa, SCBench)
  exact,            // 1 if it is one of them, but for space around it
  f1,               // bag of normalised words, best over the answers (SQuAD, LongBench)
  rouge_l,          // F1 of the longest common subsequence of words, best over the answers
  edit_similarity,  // of its first line of code (LongBench code)
  classification,   // the class it names; shared if it names several (LongBench)
  retrieval,        // share of its integers that are the answer's paragraph number (LongBench)
  count,            // share of its integers that are the answer (LongBench)
  first_integer,    // 1 if its first integer is one of the answers (InfiniteBench, LongEval)
  word,             // 1 if an answer is among its words (InfiniteBench key-value)
  choice,           // 1 if the first letter A to D that stands alone is the answer
  sequence,         // share of the answers that its integers begin with (InfiniteBench math_calc)
  last_integer,     // 1 if its last word is the answer (InfiniteBench code_run)
  masks,            // share of "<mask-n>" it fills as answers[n] says (LooGLE cloze)
  route,            // share of lines between <Route> and </Route> before the first wrong one
  countdown,        // 1 if the steps between <Solution> and </Solution> lead to the target
};
std::string_view metric_name(Metric metric);
// Throws bad_option, with the names there are.
Metric metric_named(std::string_view name);

double grade(Metric metric, std::span<const std::string> answers,
             std::span<const std::string> classes, std::string_view output);

// What they are made of, with their steps.
double string_match_all(std::span<const std::string> answers, std::string_view output);
double string_match_part(std::span<const std::string> answers, std::string_view output);
// Lower case, without ASCII punctuation and the words a, an, the.
std::vector<std::string> normalised_words(std::string_view text);
double f1_score(std::string_view answer, std::string_view output);
// Words are what blanks and full stops separate; plain F1 of the whole texts. (The `rouge` package
// takes the union over sentences, which is a little higher for texts of many of them.)
double rouge_l(std::string_view answer, std::string_view output);
// round(100 (a + b - d) / (a + b)) / 100, where d counts insertions and deletions of bytes.
double edit_similarity(std::string_view answer, std::string_view output);
double classification_score(std::string_view answer, std::span<const std::string> classes,
                            std::string_view output);
// `answer` holds "Paragraph 7".
double retrieval_score(std::string_view answer, std::string_view output);
double count_score(std::string_view answer, std::string_view output);
// answers[0] is the right route, lines separated by line breaks.
double route_score(std::string_view answer, std::string_view output);
// answers[0] is "40 19 23 7 -> 29".
double countdown_score(std::string_view answer, std::string_view output);
// Runs of ASCII digits, in order, without leading zeros.
std::vector<std::string> integers(std::string_view text);
// What is between <tag> and </tag>, without space around it; empty if there is no such thing.
std::string_view between_tags(std::string_view text, std::string_view tag);
// RULER's: control characters become line breaks, space around it goes.
std::string cleaned(std::string_view output);

// The mean of scores and half the width of its 95 % confidence interval (Student's t).
struct Mean {
  int count = 0;
  double mean = 0;
  std::optional<double> half_width;  // nothing for fewer than two
};
Mean mean_of(std::span<const double> values);

}  // namespace pith

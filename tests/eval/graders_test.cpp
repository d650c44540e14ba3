// Grades against values computed by hand: the arithmetic is in the comments.
#include <cmath>
#include <gtest/gtest.h>

#include "base/error.h"
#include "eval/countdown.h"
#include "eval/metrics.h"

namespace pith {
namespace {

using Texts = std::vector<std::string>;

double graded(Metric metric, const Texts& answers, const std::string& output,
              const Texts& classes = {}) {
  return grade(metric, answers, classes, output);
}

struct Case {
  Metric metric;
  Texts answers;
  std::string output;
  double grade;
};

TEST(Graders, AcceptAndRefuseAnswersAsWorkedOutByHand) {
  const std::vector<Case> cases = {
      // The share of the answers, whatever their case.
      {Metric::all_match, {"7391048"}, " 7391048.", 1},
      {Metric::all_match, {"7391048"}, "739104", 0},
      {Metric::all_match, {"Alpha", "beta", "gamma", "delta"}, "ALPHA, Beta and epsilon", 0.5},
      {Metric::all_match, {"ab"}, "a\tb", 0},  // a control character is a line break
      {Metric::all_match, {"x"}, "", 0},
      {Metric::part_match, {"Paris", "the capital"}, "It is THE CAPITAL.", 1},
      {Metric::part_match, {"Paris", "the capital"}, "It is Rome.", 0},
      {Metric::exact, {"yes"}, " yes\n", 1},
      {Metric::exact, {"yes"}, "yes.", 0},
      // {big, red, dog} and {red, dogs, big, house}: 2 shared, 2*2/(3+4).
      {Metric::f1, {"a big, red dog"}, "The red dogs; big house", 4.0 / 7},
      {Metric::f1, {"the answer"}, "Answer!", 1},
      {Metric::f1, {"x y", "z"}, "z", 1},  // the best of several
      {Metric::f1, {"two two"}, "two", 2.0 / 3},
      {Metric::f1, {"two"}, "two two", 2.0 / 3},  // it counts once
      {Metric::f1, {"two"}, "", 0},
      {Metric::f1, {"the"}, "a", 0},  // nothing is left of either
      // the cat sat on the mat / the cat lay on a mat: the cat on mat = 4 of 6 and 6.
      {Metric::rouge_l, {"the cat sat on the mat."}, "the cat lay on a mat", 8.0 / 12},
      {Metric::rouge_l, {"a b c d"}, "d c b a", 2.0 / 8},
      {Metric::rouge_l, {"a b"}, "c", 0},
      // kitten / sitting: common subsequence ittn = 4, 2*4/13 = 0.615.
      {Metric::edit_similarity, {"kitten"}, "sitting", 0.62},
      {Metric::edit_similarity, {"return x"}, "\n\n```cpp\n# so\n// say\nreturn x\nmore", 1},
      {Metric::edit_similarity, {"x"}, "# x", 0},
      {Metric::retrieval, {"Paragraph 7"}, "Paragraph 7", 1},
      {Metric::retrieval, {"Paragraph 7"}, "Paragraph 7 or 17, of 30", 1.0 / 3},
      {Metric::retrieval, {"Paragraph 7"}, "the seventh", 0},
      {Metric::count, {"12"}, "12", 1},
      {Metric::count, {"12"}, "between 12 and 13", 0.5},
      {Metric::count, {"12"}, "120", 0},
      {Metric::first_integer, {"71432"}, " 71432. Remember 5", 1},
      {Metric::first_integer, {"71432"}, "It is 1 of 71432", 0},
      {Metric::first_integer, {"71432"}, "none", 0},
      {Metric::first_integer, {"7"}, "007", 1},
      {Metric::word, {"a1-b2"}, "{\"a1-b2\"}", 1},
      {Metric::word, {"a1-b2"}, "a1-b2c", 0},
      {Metric::choice, {"B"}, "The answer is B.", 1},
      {Metric::choice, {"B"}, "A good question, but B", 1},
      {Metric::choice, {"B"}, "Because of C", 0},
      {Metric::choice, {"A"}, "A", 1},
      {Metric::sequence, {"1", "4", "8"}, "[1, 4, 9]", 2.0 / 3},
      {Metric::sequence, {"1", "4", "8"}, "[2, 4, 8]", 0},
      {Metric::last_integer, {"-12"}, "the value is -12.", 1},
      {Metric::last_integer, {"12"}, "-12", 0},
      {Metric::masks, {"Ann", "Rome"}, "{'<mask-0>': 'Ann', \"<mask-1>\": \"Rome, Italy\"}", 0.5},
      {Metric::masks, {"Ann"}, "Ann", 0},
      {Metric::route, {"one\ntwo\nthree"}, "So: <Route>\none\ntwo\nthree\n</Route> done", 1},
      {Metric::route, {"one\ntwo\nthree"}, "<Route>\none\n2\nthree\n</Route>", 1.0 / 3},
      {Metric::route, {"one\ntwo"}, "<Route>\none\ntwo\nthree\n</Route>", 0.5},
      {Metric::route, {"one"}, "one", 0},
      {Metric::countdown,
       {"40 19 23 7 -> 29"},
       "<Solution>\n40 - 19 = 21\n23 - 7 = 16\n21 + 16 = 37\n</Solution>",
       0},  // right sums, wrong target
      {Metric::countdown,
       {"40 19 23 7 -> 37"},
       "<Solution>\n40 - 19 = 21\n23 - 7 = 16\n21 + 16 = 37\n</Solution>",
       1},
      {Metric::countdown,
       {"1 1 1 1 -> 3"},
       "<Solution>\n1 + 1 = 2\n2 + 2 = 4\n4 - 1 = 3\n</Solution>",
       0},  // one is used twice
      {Metric::countdown,
       {"6 4 3 1 -> 1"},
       "<Solution>\n6 / 4 = 1\n3 - 1 = 2\n2 - 1 = 1\n</Solution>",
       0},
      {Metric::countdown, {"2 1 -> 3"}, "2 + 1 = 3", 0},
  };
  for (const Case& c : cases)
    EXPECT_NEAR(graded(c.metric, c.answers, c.output), c.grade, 1e-12)
        << metric_name(c.metric) << " of: " << c.output;
}

TEST(Graders, ShareAClassAmongAllThatAreNamed) {
  const Texts classes = {"ocean", "oceanography", "sport", "science"};
  const Texts answer = {"oceanography"};
  const auto of = [&](const std::string& output) {
    return graded(Metric::classification, answer, output, classes);
  };
  EXPECT_EQ(of("oceanography"), 1);  // "ocean" is part of the answer's name
  EXPECT_EQ(of("oceanography or sport"), 0.5);
  EXPECT_EQ(of("science"), 0);
  EXPECT_EQ(of(""), 0);
}

TEST(Graders, CutWordsAsTheirMetricSays) {
  EXPECT_EQ(normalised_words("The well-known  \"Answer\", an apple."),
            (Texts{"wellknown", "answer", "apple"}));
  EXPECT_EQ(integers("a1b22 -3 007"), (Texts{"1", "22", "3", "7"}));
  EXPECT_EQ(between_tags("x <A>\n b \n</A> y", "A"), "b");
  EXPECT_EQ(between_tags("x <A> b", "A"), "");
  EXPECT_EQ(cleaned("\n a\x01z \t"), "a\nz");
}

TEST(Graders, GiveMeansTheirConfidenceIntervals) {
  EXPECT_EQ(mean_of({}).count, 0);
  EXPECT_FALSE(mean_of(std::vector{1.0}).half_width);
  // Standard deviation sqrt(1/3), three degrees of freedom: 3.182 sqrt(1/3) / sqrt(4).
  const Mean four = mean_of(std::vector{1.0, 0.0, 1.0, 0.0});
  EXPECT_EQ(four.mean, 0.5);
  EXPECT_NEAR(four.half_width.value(), 0.91857, 1e-4);
  // 40 samples: the quantile is 2.0227; the standard deviation of halves sqrt(40 / 39) / 2.
  std::vector<double> many(40);
  for (size_t i = 0; i < many.size(); ++i) many[i] = static_cast<double>(i % 2);
  EXPECT_NEAR(mean_of(many).half_width.value(), 2.0227 * 0.50637 / std::sqrt(40), 2e-3);
}

TEST(Graders, AreFoundByName) {
  EXPECT_EQ(metric_named("rouge_l"), Metric::rouge_l);
  try {
    metric_named("bleu");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Errc::bad_option);
    EXPECT_NE(std::string(error.what()).find("all_match"), std::string::npos);
  }
}

// The first lines of the search for [9, 16, 6, 18] and 12, worked out by hand.
TEST(Countdown, WritesItsSearchOutPairByPair) {
  const CountdownSearch found = search({9, 16, 6, 18}, 12);
  const std::string begins =
      "# Search Procedure\n"
      "Initial number set: [9, 16, 6, 18], target: 12. Options for choosing two numbers: [(9, 16), "
      "(9, 6), (9, 18), (16, 6), (16, 18), (6, 18)].\n"
      " |- Pick two numbers (9, 16) (numbers left: [6, 18]). Try possible operations.\n"
      "  |- Try 16 + 9 = 25. Add 25 to the number set. Current number set: [25, 6, 18], target: "
      "12. "
      "Options for choosing two numbers: [(25, 6), (25, 18), (6, 18)].\n"
      "   |- Pick two numbers (25, 6) (numbers left: [18]). Try possible operations.\n"
      "    |- Try 25 + 6 = 31. Add 31 to the number set. Current number set: [31, 18], target: 12, "
      "just two numbers left.\n"
      "     |- Try 31 + 18 = 49. Evaluate 49 != 12, drop this branch.\n";
  EXPECT_EQ(found.trace.substr(0, begins.size()), begins);
  EXPECT_EQ(found.steps.size(), 3u);
  EXPECT_EQ(graded(Metric::countdown, {"9 16 6 18 -> 12"}, found.trace), 1);
  EXPECT_TRUE(search({1, 1, 1, 1}, 99).steps.empty());
}

}  // namespace
}  // namespace pith

// LongProc's generated tasks (arXiv:2501.05414): short prompts, long answers that follow a
// procedure. What is put to the test is a cache that is compressed while generating.
#include <algorithm>
#include <array>
#include <unordered_set>

#include "eval/countdown.h"
#include "eval/fit.h"
#include "eval/suites.h"
#include "eval/words.h"

namespace pith {
namespace {

constexpr const char* kCountdownRules =
    "[TASK]\n"
    "You will be given four numbers and a target number, your task is to find a way to use all "
    "four "
    "numbers exactly once, along with the basic operations (+, -, *, /), to reach the target "
    "number.\n\n"
    "[RULES]\n"
    "- You can use each number exactly once.\n"
    "- You can use the four basic operations (+, -, *, /).\n"
    "- The intermediate results must be integers (no decimals allowed).\n"
    "- The intermediate results must be positive.\n"
    "- The intermediate results will not exceed 2000.\n\n"
    "[APPROACH]\n"
    "We will solve the problem by searching. Starting from a given set of four numbers, we will "
    "follow this search process:\n"
    "- At each state, we will consider all possible number pairs (in order) from the current "
    "number "
    "set. Choose one pair and apply one of the four basic operations to them to obtain a new "
    "number.\n"
    "  * If there are still numbers left, we will add the new number to the number set and "
    "continue "
    "the search.\n"
    "  * If we have used all numbers, we will check if the new number is equal to the target "
    "number. "
    "If it is, we have found the solution. Otherwise, we will backtrack.\n"
    "- Suppose the two numbers we choose are a and b (where a >= b). We will try the four options "
    "(a + b), (a - b), (a * b), (a / b) to obtain the new number. Remember to always use the "
    "larger "
    "number as the first operand.\n"
    "- If the new number is a decimal, or exceeds the maximum intermediate result, we will discard "
    "this branch and backtrack.\n"
    "- We will continue this process until we reach the target number with four numbers used or "
    "exhaust all possible combinations.\n\n";
constexpr const char* kCountdownNotes =
    "[Problem]\n"
    "Now, solve the following problem. Note that:\n"
    "- Please carefully read the approach and examples provided above, and follow them to solve "
    "the "
    "problem.\n"
    "- Please ALWAYS include your search procedure (after # Search Procedure). The search "
    "procedure "
    "should follow the format of the examples provided above.\n"
    "- Please mark your answer with <Solution> and </Solution> tags. The solution should be a "
    "sequence of three equations exactly following the format of the examples above, with no "
    "additional text in between.\n\n";

std::string problem(const CountdownNumbers& numbers, int target) {
  return "Numbers: " + list_text(numbers) + "\nTarget: " + std::to_string(target);
}

std::string example(const CountdownNumbers& numbers, int target) {
  return "# Example\n" + problem(numbers, target) + "\n\n" + search(numbers, target).trace;
}

class CountdownTask final : public Task {
 public:
  CountdownTask() : Task("countdown", "longproc", "four numbers to a target, searched in words") {}

  Sample make(const SampleRequest& request) const override {
    // The reference's examples, and shorter ones for when they do not fit.
    const std::string shown = examples({{40, 19, 23, 7}, 29}, {{9, 16, 6, 18}, 12});
    Random random = sample_random("countdown examples", 0, 0);
    const Problem first = draw(random, kShortLines), second = draw(random, kShortLines);
    const std::string shorter = examples(first, second);
    // Searches of up to so many lines; what is largest and fits is taken.
    constexpr std::array<int, 6> kLines = {kShortLines, 80, kShortLines, 160, 640, INT32_MAX};
    return fit_sample(*this, request, 0, kLines.size() - 1, [&](int size) {
      Random own = sample_random(name(), request.seed, request.index);
      const Problem asked = draw(own, kLines[static_cast<size_t>(size)]);
      Sample sample;
      sample.context =
          std::string(kCountdownRules) + "[EXAMPLES]\n" + (size < 2 ? shorter : shown) + "\n";
      sample.questions.push_back(
          {kCountdownNotes + problem(asked.numbers, asked.target), "\n\n", {expected(asked)}, {}});
      sample.metric = Metric::countdown;
      sample.max_new_tokens = request.tokens->count(search(asked.numbers, asked.target).trace) + 32;
      return sample;
    });
  }

 private:
  static constexpr int kShortLines = 24;
  struct Problem {
    CountdownNumbers numbers;
    int target;
  };
  static std::string examples(const Problem& first, const Problem& second) {
    return example(first.numbers, first.target) + "\n" + example(second.numbers, second.target) +
           "\n";
  }
  static std::string expected(const Problem& asked) {
    std::string out;
    for (const int number : asked.numbers) out += std::to_string(number) + " ";
    return out + "-> " + std::to_string(asked.target);
  }
  // One whose search has at most so many lines.
  static Problem draw(Random& random, int lines) {
    for (;;) {
      Problem drawn;
      for (int i = 0; i < 4; ++i) drawn.numbers.push_back(between(random, 1, 50));
      drawn.target = between(random, 10, 99);
      const CountdownSearch found = search(drawn.numbers, drawn.target);
      if (!found.steps.empty() && found.lines <= lines) return drawn;
    }
  }
};

class PathTask final : public Task {
 public:
  PathTask() : Task("path_traversal", "longproc", "a route along one-way connections") {}

  Sample make(const SampleRequest& request) const override {
    return fit_sample(*this, request, 3, most_cities(), [&](int steps) {
      Random random = sample_random(name(), request.seed, request.index);
      return sized(request, random, steps);
    });
  }

 private:
  // Names of one word, and of two.
  static int most_cities() { return static_cast<int>(places().size() * 12 / 2); }

  static std::vector<std::string> cities(Random& random, int count) {
    constexpr std::array<std::string_view, 12> kBefore = {"",       "New ",   "Old ",   "Upper ",
                                                          "Lower ", "Great ", "Saint ", "Port ",
                                                          "North ", "South ", "East ",  "Little "};
    std::vector<std::string> names;
    std::unordered_set<std::string> used;
    while (static_cast<int>(names.size()) < count) {
      // Bare names first: long ones only where there are many cities.
      const size_t kinds = std::min(kBefore.size(), static_cast<size_t>(count) / 32 + 1);
      std::string name(kBefore[random.below(kinds)]);
      name += places()[random.below(places().size())];
      if (used.insert(name).second) names.push_back(std::move(name));
    }
    return names;
  }

  static std::string line(const std::string& from, std::string_view by, const std::string& to) {
    return "From " + from + ", take a " + std::string(by) + " to " + to + ".";
  }

  // A route of so many steps, and half as many cities beside it that lead into it or nowhere.
  static Sample sized(const SampleRequest& request, Random& random, int steps) {
    constexpr std::array<std::string_view, 4> kBy = {"bus", "train", "plane", "ferry"};
    const int beside = steps / 2;
    const std::vector<std::string> names = cities(random, steps + 1 + beside);
    std::vector<std::string> told, route;
    for (int i = 0; i < static_cast<int>(names.size()); ++i) {
      if (i == steps) continue;  // the destination
      const int to = i < steps ? i + 1 : between(random, 0, static_cast<int>(names.size()) - 1);
      const std::string_view by = kBy[random.below(kBy.size())];
      const std::string &from = names[static_cast<size_t>(i)],
                        &next = names[static_cast<size_t>(to)];
      std::string& city = told.emplace_back(from);
      city.append(" is a lively city. You can travel from ").append(from).append(" to ");
      city.append(next).append(" by ").append(by).append(".");
      if (i < steps) route.push_back(line(from, by, next));
    }
    shuffle(told, random);
    const std::string &source = names[0], &destination = names[static_cast<size_t>(steps)];
    Sample sample;
    sample.context =
        std::string(kRules) +
        "[PROBLEM]\nIn a hypothetical world, there are a number of cities. Each city has a one-way "
        "connection to only one other city via a specific transit method. The details of the "
        "cities are as follows:\n" +
        joined(told, "\n");
    const std::string answer = joined(route, "\n");
    sample.questions.push_back(
        {"\n\nNow find the route from " + source + " to " + destination +
             " based on the information above. Some reminders:\n- All connections are one-way. You "
             "can solve the problem by iteratively finding the next city to travel to until you "
             "reach the destination city.\n- Follow the specific format for the route output. Mark "
             "the route with <Route> and </Route> tags.\n",
         "\n",
         {answer},
         {}});
    sample.metric = Metric::route;
    sample.max_new_tokens = request.tokens->count("<Route>\n" + answer + "\n</Route>") + 8;
    return sample;
  }

  static constexpr const char* kRules =
      "[TASK]\n"
      "In a completely hypothetical world, there are a number of cities. Each city has a one-way "
      "connection to only one other city via a specific transit method (bus, train, plane, or "
      "ferry). Your task is to provide a route from a city to another city. You should follow the "
      "specific instruction provided later and output the route following the format provided in "
      "the instruction.\n\n\n"
      "[IMPORTANT NOTES]\n"
      "- All connections are one-way. If city A is connected to city B, you can travel from A to "
      "B, "
      "but not the other way around.\n"
      "- Because each city is connected to only one other city, so there's only one possible "
      "route. "
      "To find the route, you can simply start from the starting city, identify the next city it's "
      "connected to, and repeat the process until you reach the destination city.\n"
      "- Please follow the exact format specified below when outputting the route.\n\n\n"
      "[OUTPUT FORMAT]\n"
      "Please mark the route with <Route> and </Route> tags. The route should be in the following "
      "format, where one line is one step of the route:\n"
      "<Route>\n"
      "From <CITY_NAME>, take a <TRANSIT_METHOD> to <CITY_NAME>.\n"
      "...\n"
      "From <CITY_NAME>, take a <TRANSIT_METHOD> to <CITY_NAME>.\n"
      "</Route>\n\n\n"
      "[EXAMPLE]\n"
      "In a hypothetical world, there are a number of cities. Each city has a one-way connection "
      "to "
      "only one other city via a specific transit method. The details of the cities are as "
      "follows:\n"
      "Fort Worth is a lively city. You can travel from Fort Worth to Manchester by ferry.\n"
      "Leeds is a lively city. You can travel from Leeds to London by bus.\n"
      "Manchester is a lively city. You can travel from Manchester to Indianapolis by plane.\n"
      "Houston is a lively city. You can travel from Houston to London by ferry.\n"
      "Charlotte is a lively city. You can travel from Charlotte to Charlotte by bus.\n"
      "London is a lively city. You can travel from London to San Antonio by train.\n"
      "San Antonio is a lively city. You can travel from San Antonio to Kitchener by train.\n"
      "Seattle is a lively city. You can travel from Seattle to London by train.\n"
      "Indianapolis is a lively city. You can travel from Indianapolis to Houston by ferry.\n\n"
      "Now find the route from Manchester to Kitchener based on the information above.\n\n"
      "<Route>\n"
      "From Manchester, take a plane to Indianapolis.\n"
      "From Indianapolis, take a ferry to Houston.\n"
      "From Houston, take a ferry to London.\n"
      "From London, take a train to San Antonio.\n"
      "From San Antonio, take a train to Kitchener.\n"
      "</Route>\n\n\n";
};

}  // namespace

void add_procedures(TaskList& tasks) {
  tasks.push_back(std::make_unique<CountdownTask>());
  tasks.push_back(std::make_unique<PathTask>());
}

}  // namespace pith

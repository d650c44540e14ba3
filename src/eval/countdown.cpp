#include "eval/countdown.h"

#include <algorithm>
#include <cstdio>

namespace pith {
namespace {

constexpr int kTooLarge = 2000;

std::string decimal(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f", value);
  return text;
}

class Searcher {
 public:
  explicit Searcher(int target) : target_(target) {}

  CountdownSearch run(const CountdownNumbers& numbers) {
    text_ = "Initial number set: " + state(numbers) +
            ". Options for choosing two numbers: " + pairs(numbers) + ".";
    ++lines_;
    const bool found = choose(numbers, 0);
    CountdownSearch result;
    result.lines = lines_;
    if (!found) return result;
    result.steps = steps_;
    result.trace =
        "# Search Procedure\n" + text_ + "\n\n" +
        "Now we have found the target, let's trace back the solution:\nFinal step: " + steps_[2] +
        "\nThe step before: " + steps_[1] + "\nThe first step: " + steps_[0] +
        "\n\nOutput the solution in the required format:\n<Solution>\n" + steps_[0] + "\n" +
        steps_[1] + "\n" + steps_[2] + "\n</Solution>\n";
    return result;
  }

 private:
  std::string state(const CountdownNumbers& numbers) const {
    return list_text(numbers) + ", target: " + std::to_string(target_);
  }
  static std::string pairs(const CountdownNumbers& numbers) {
    std::string out = "[";
    for (size_t i = 0; i < numbers.size(); ++i)
      for (size_t j = i + 1; j < numbers.size(); ++j)
        out += (out.size() > 1 ? ", (" : "(") + std::to_string(numbers[i]) + ", " +
               std::to_string(numbers[j]) + ")";
    return out + "]";
  }
  void line(int depth, const std::string& text) {
    text_ += "\n" + std::string(static_cast<size_t>(depth), ' ') + "|- " + text;
    ++lines_;
  }

  // Every pair of the set at this depth; the lines of its operations are one deeper.
  bool choose(const CountdownNumbers& numbers, int depth) {
    const bool last = numbers.size() == 2;
    if (!last) ++depth;
    for (size_t i = 0; i < numbers.size(); ++i)
      for (size_t j = i + 1; j < numbers.size(); ++j) {
        CountdownNumbers rest;
        for (size_t k = 0; k < numbers.size(); ++k)
          if (k != i && k != j) rest.push_back(numbers[k]);
        if (!last)
          line(depth, "Pick two numbers (" + std::to_string(numbers[i]) + ", " +
                          std::to_string(numbers[j]) + ") (numbers left: " + list_text(rest) +
                          "). Try possible operations.");
        const int a = std::max(numbers[i], numbers[j]), b = std::min(numbers[i], numbers[j]);
        for (const char operation : {'+', '-', '*', '/'})
          if (attempt(a, operation, b, rest, depth + 1)) return true;
      }
    return false;
  }

  bool attempt(int a, char operation, int b, const CountdownNumbers& rest, int depth) {
    const std::string left = std::to_string(a) + " " + operation + " " + std::to_string(b);
    if (operation == '/' && b == 0) {
      line(depth, "Try " + left + " (invalid operation). drop this branch.");
      return false;
    }
    if (operation == '/' && a % b != 0) {
      const std::string value = decimal(static_cast<double>(a) / b);
      line(depth,
           "Try " + left + " = " + value + ". " + value + " is a decimal, drop this branch.");
      return false;
    }
    const int value = operation == '+'   ? a + b
                      : operation == '-' ? a - b
                      : operation == '*' ? a * b
                                         : a / b;
    const std::string result = std::to_string(value), step = left + " = " + result;
    if (value >= kTooLarge) {
      line(depth, "Try " + step + ". " + result +
                      " exceeds the maximum intermediate result, drop this branch.");
      return false;
    }
    if (rest.empty()) {
      const bool found = value == target_;
      line(depth, "Try " + step + ". Evaluate " + result + (found ? " == " : " != ") +
                      std::to_string(target_) +
                      (found ? ", target found!" : ", drop this branch."));
      if (found) steps_.push_back(step);
      return found;
    }
    CountdownNumbers next = {value};
    next.insert(next.end(), rest.begin(), rest.end());
    line(depth,
         "Try " + step + ". Add " + result +
             " to the number set. Current number set: " + state(next) +
             (next.size() == 2 ? ", just two numbers left."
                               : ". Options for choosing two numbers: " + pairs(next) + "."));
    steps_.push_back(step);
    if (choose(next, depth)) return true;
    steps_.pop_back();
    return false;
  }

  const int target_;
  std::string text_;
  std::vector<std::string> steps_;
  int lines_ = 0;
};

}  // namespace

std::string list_text(const CountdownNumbers& numbers) {
  std::string out = "[";
  for (size_t i = 0; i < numbers.size(); ++i)
    out += (i > 0 ? ", " : "") + std::to_string(numbers[i]);
  return out + "]";
}

CountdownSearch search(const CountdownNumbers& numbers, int target) {
  return Searcher(target).run(numbers);
}

}  // namespace pith

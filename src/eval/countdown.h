// The search that LongProc's countdown asks for, written out as a model is to write it.
#pragma once

#include <string>
#include <vector>

namespace pith {

using CountdownNumbers = std::vector<int>;

struct CountdownSearch {
  std::vector<std::string> steps;  // "40 - 19 = 21": those that reach the target; empty: none do
  std::string trace;               // the search and the solution between its tags
  int lines = 0;                   // of the search
};

// Depth first through all pairs in order and, with the larger number first, + - * /. Results that
// are no integers or reach 2000 end a branch.
CountdownSearch search(const CountdownNumbers& numbers, int target);

std::string list_text(const CountdownNumbers& numbers);  // "[40, 19]"

}  // namespace pith

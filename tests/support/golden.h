// What trained models answer, computed once outside of this repository: the golden.json files of
// the test data. Their numbers are rounded to four or five decimals.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace pith::test {

struct GoldenPrompt {
  std::string text;
  std::vector<int32_t> ids;                     // begin token included
  std::vector<std::pair<int32_t, double>> top;  // the ten largest logits after the last token
  std::vector<double> first_logits;             // of tokens 0 to 7
  double log_sum_exp = 0;
  std::vector<int32_t> greedy;  // continuation
};

struct GoldenStory {
  int index = 0;             // in the data's list of stories
  int tokens = 0;            // begin token included
  double nll_sum = 0;        // of tokens 1 to tokens - 1, natural logarithm
  std::vector<int32_t> ids;  // only of the first stories; empty: not recorded
};

struct Golden {
  std::vector<GoldenPrompt> prompts;
  std::vector<GoldenStory> stories;
};

Golden read_golden(const std::string& path);
// The stories that GoldenStory::index counts.
std::vector<std::string> read_stories(const std::string& path);

}  // namespace pith::test

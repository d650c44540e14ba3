// Samples that teach recall, made from a seed: what is asked can only be answered from what the
// sample itself said. docs/training.md shows one of each kind.
#pragma once

#include <span>
#include <string_view>

#include "base/random.h"
#include "text/tokenizer.h"
#include "train/corpus.h"
#include "train/sample.h"

namespace pith {

// What a sample is made of.
struct TaskSource {
  const Tokenizer& tokenizer;
  const Corpus& corpus;
};

struct Task {
  std::string_view name;
  std::string_view doc;
  // A sample of about `length` tokens, or fewer; `fill` completes it.
  Sample (*make)(const TaskSource& source, Random& random, int length);
  int shortest;  // length
};

std::span<const Task> tasks();
const Task* find_task(std::string_view name);  // or null

// A sample of exactly `length` tokens that begins with <s>: what `task` makes, completed by text.
Sample make_sample(const Task& task, const TaskSource& source, Random& random, int length);

}  // namespace pith

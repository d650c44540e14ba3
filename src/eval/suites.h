// The generated tasks of each file; task.cpp lists them all.
#pragma once

#include <memory>
#include <vector>

#include "base/random.h"
#include "eval/task.h"

namespace pith {

using TaskList = std::vector<std::unique_ptr<const Task>>;

void add_needles(TaskList& tasks);     // RULER's niah, and the grid
void add_tracing(TaskList& tasks);     // RULER's vt
void add_counting(TaskList& tasks);    // RULER's cwe and fwe
void add_answering(TaskList& tasks);   // RULER's qa
void add_infinite(TaskList& tasks);    // InfiniteBench
void add_shared(TaskList& tasks);      // SCBench
void add_lines(TaskList& tasks);       // LongEval
void add_procedures(TaskList& tasks);  // LongProc
void add_recall(TaskList& tasks);      // ours: pairs of words in nonsense

// "recall_numbers" with 1 to kMostAskedNeedles needles, each at a place of its own.
inline constexpr int kMostAskedNeedles = 40;
std::unique_ptr<const Task> asked_needles(int needles);

// Of RULER and InfiniteBench alike.
inline constexpr const char* kNoise =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.";

// One chain of assignments, "VAR ABCDE = 12345" and "VAR FGHIJ = VAR ABCDE ", as RULER writes it.
struct AssignmentChain {
  std::vector<std::string> names, lines;
  std::string value;
};
AssignmentChain make_chain(Random& random, int names, int letters);
// Noise lines with the chains' lines among them, each chain's in order.
std::string hide_chains(Random& random, int noise, std::span<const AssignmentChain> chains);

// One list of numbers with different extremes, and the questions about it.
struct NumberList {
  std::vector<int> numbers;
  struct Asked {
    std::string what;  // "second largest number"
    int answer;
  };
  std::vector<Asked> asked;  // largest, second and third largest, smallest ..., median
  std::string text() const;  // "[3, 14, 15]"
};
NumberList make_numbers(Random& random, int count);

// {"key": "value", ...} of version-4 uuids.
struct KeyValues {
  std::vector<std::string> keys, values;
  std::string json() const;
};
KeyValues make_key_values(Random& random, int count);

}  // namespace pith

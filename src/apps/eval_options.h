// What `pith eval` is to measure: from flags, or from a plan file with flags on top.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "apps/engine_arguments.h"

namespace pith {

inline constexpr int kMostJobs = 256;

struct EvalOptions {
  std::string plan;
  EngineArguments engine;  // its model is one of these
  std::vector<std::string> models, specs, tasks, data;
  std::string budgets, lengths = "4096", seeds = "42", protocol = "agnostic";
  std::string haystack, questions, results, chat = "auto", format = "md", figures;
  int samples = 10, batch = 1, jobs = 1;
  uint64_t batch_bytes = 0;  // 0: no throughput is measured
  bool share = false, list = false, show = false, fidelity = false, report_only = false;
  std::set<std::string> given;  // flags of the command line, by their long names
};

// Throws bad_option, naming the option.
std::vector<int> lengths_of(const EvalOptions& options);
std::vector<uint64_t> seeds_of(const EvalOptions& options);

// Fills what no flag gave from a JSON file. `text` is the file's. Throws bad_file with file, field
// and what belongs there.
void read_plan(std::string_view text, const std::string& name, EvalOptions& options);

struct EvalSpec {
  std::string text;   // canonical
  std::string files;  // digest of what it reads (Policy::files_digest)
};

// The specs of --kv, each once, those that take a budget and name none with each of --budget
// instead of once. `shape` and `digest` are the model's. Throws bad_option.
std::vector<EvalSpec> specs_of(const EvalOptions& options, const KvShape& shape,
                               std::string_view digest);

// A word as a shell takes it: quoted where it has to be.
std::string shell_word(const std::string& word);

}  // namespace pith

// pith run --prompts: many prompts at once, under one limit of cache memory.
#pragma once

#include <string>
#include <vector>

#include "apps/engine_arguments.h"

namespace pith {

struct ManyOptions {
  EngineArguments engine;
  SamplingOptions sampling;
  std::string prompts;  // file
  std::string opening;  // file of the text that all of them follow; empty: none
  std::string spec;
  int predict = -1, sessions = 8;
  std::vector<std::string> stops;
  bool escapes = false, literal = false, json = false, quiet = false;
  bool exact = false, reuse = true;
};

// Writes the answers to standard output, in the order of the prompts, each as soon as it and those
// before it are complete. The exit code: 1 if a prompt was refused, 130 after Ctrl-C.
int run_many(const ManyOptions& options);

}  // namespace pith

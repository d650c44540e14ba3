// What a distillation is, as a JSON file says it; docs/training.md lists every field.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "train/adapter_layout.h"
#include "train/distiller.h"

namespace pith {

struct DistillConfig {
  std::string name;                   // of the adapter's file
  std::string model;                  // GGUF; relative to the configuration's folder, like texts
  std::string beginning;              // an adapter whose parameters are the first; may be empty
  std::vector<std::string> texts;     // folders
  std::vector<std::string> held_out;  // names of files that are measured and never learnt
  uint64_t seed = 1;
  AdapterShape adapter;
  int layer = -1;         // of the adapter; -1: 6, or the last but one
  int scorer_width = -1;  // -1: the model's width
  DistillerOptions learner;
  double rate = 5e-5, floor = 0.1;  // the cosine falls to floor * rate
  int64_t steps = 1000, warm_up_steps = 50;
  int rows = 8;                     // samples of a step
  int length = 1024, shortest = 0;  // tokens of a sample; 0: a quarter of the longest
  double least_retention = 0.001, most_retention = 0.8;  // drawn evenly on a scale of logarithms
  std::vector<std::pair<std::string, double>> mix;
  int measure_steps = 100;  // between two measurements on what is held out
  int checkpoint_seconds = 600;
};

// Throws io, or bad_option with a sentence that names file and field.
DistillConfig read_distill_config(const std::string& path);
double rate_at(const DistillConfig& config, int64_t step);

}  // namespace pith

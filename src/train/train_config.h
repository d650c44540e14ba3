// What a training run is, as a JSON file says it; docs/training.md lists every field.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "train/beginning.h"
#include "train/learner.h"
#include "train/network_shape.h"

namespace pith {

// A stretch of the curriculum: rows of one length, and how often each task is drawn.
struct Stage {
  int64_t tokens = 0;  // of all its steps
  int length = 0, rows = 0;
  std::vector<std::pair<std::string, double>> mix;  // task and weight
};

struct TrainConfig {
  std::string name;         // of the model and its files
  std::string description;  // for the model's card
  uint64_t seed = 1;
  std::vector<std::string> texts;     // folders; relative ones begin at the config's folder
  std::vector<std::string> held_out;  // names of files that are measured and never learnt
  int vocabulary_tokens = 2048;
  int64_t vocabulary_bytes = 8 << 20;  // of text to learn the vocabulary from
  NetworkShape shape;                  // but for the vocabulary
  Beginning beginning = Beginning::recall;
  std::string first_model;  // GGUF file whose weights and vocabulary it begins with, if not empty
  double rate = 1e-3, floor = 0.1;  // the cosine falls to floor * rate
  int64_t warm_up_tokens = 100000;
  double answer_weight = 4, copy_weight = 1, context_weight = 0.05;
  double decay = 0.01, beta1 = 0.9, beta2 = 0.95, clip = 1;
  int recompute_from = 1024;
  int parts = 2;  // that a step's rows are cut into; changing it changes rounding
  std::vector<Stage> stages;
  int64_t measure_tokens = 500000;  // between two measurements on what is held out
  int checkpoint_seconds = 600;

  int64_t total_tokens() const;
};

// Throws io, or bad_option with a sentence that names file and field.
TrainConfig read_train_config(const std::string& path);

// Where a run stands after `tokens` tokens: the stage, and the rate its next step learns at.
const Stage& stage_at(const TrainConfig& config, int64_t tokens);
double rate_at(const TrainConfig& config, int64_t tokens);

}  // namespace pith

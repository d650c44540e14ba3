// A training run on disk. A checkpoint is a model, with the optimiser's state in further tensors
// and entries: `pith run -m checkpoint.gguf` works at any time.
#pragma once

#include <cstdint>
#include <string>

#include "convert/vocabulary.h"
#include "tensor/dtype.h"
#include "train/learner.h"
#include "train/train_config.h"

namespace pith {

struct Progressed {  // how far a run came
  LearnerState state;
  int64_t tokens = 0;
  double seconds = 0;  // spent learning, over all its parts
};

// What a model file says of itself besides its tensors.
struct ModelFacts {
  std::string name, description;
  uint64_t seed = 0;
  int64_t tokens = 0;  // learnt from
  NetworkShape shape;
  const Vocabulary* vocabulary = nullptr;
};

// Appears under its name when it is complete.
void write_checkpoint(const std::string& path, const ModelFacts& facts, const Progressed& progress);
// Throws bad_file where it is none, or of another shape.
Progressed read_checkpoint(const std::string& path, const NetworkShape& shape);

// A model alone, matrices as `dtype` (F32, F16, BF16 or Q8_0).
void export_model(const std::string& path, const ModelFacts& facts,
                  std::span<const float> parameters, DType dtype);
// The parameters of a llama-architecture model file, in the layout's order, and its shape. Throws
// unsupported where the network here does not compute what the file says.
NetworkShape read_shape(const class GgufFile& file);
std::vector<float> read_parameters(const class GgufFile& file, const NetworkShape& shape);
// A checkpoint as a model of another format: its entries and tensors without the optimiser's.
void export_checkpoint(const std::string& checkpoint, const std::string& out, DType dtype);

}  // namespace pith

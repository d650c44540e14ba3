// Adapters on disk (policy/adapter.h has the format), and the state of their training.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "tensor/dtype.h"
#include "train/adapter_layout.h"
#include "train/learner.h"

namespace pith {

struct AdapterFacts {
  std::string name, model_digest;
  uint64_t seed = 0;
  NetworkShape network;
  AdapterShape adapter;
};

// What `--kv kvdistill:adapter=PATH` reads; matrices as `dtype` (F32, F16 or BF16).
void write_adapter(const std::string& path, const AdapterFacts& facts,
                   std::span<const float> parameters, DType dtype);

// The parameters of an adapter, whatever model and fold it was made for. Throws bad_file where a
// tensor is missing or of another shape, or the scorer reads another layer.
std::vector<float> read_adapter(const std::string& path, const AdapterFacts& facts);

struct DistillProgress {
  LearnerState state;
  int64_t tokens = 0;  // read by the student
  double seconds = 0;  // spent learning, over all parts of the run
};
void write_distill_checkpoint(const std::string& path, const AdapterFacts& facts,
                              const DistillProgress& progress);
// Throws bad_file where it is none, or of another model or shape.
DistillProgress read_distill_checkpoint(const std::string& path, const AdapterFacts& facts);

}  // namespace pith

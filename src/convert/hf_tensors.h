// Where each weight of a Hugging Face checkpoint goes in a GGUF file, and how it changes on the
// way: rows of queries and keys are reordered for llama, Gemma's norms get their 1 added.
#pragma once

#include <vector>

#include "convert/hf_config.h"
#include "convert/model_writer.h"
#include "convert/safetensors.h"

namespace pith {

// All tensors of the model, in the order they are to be written. They read from `weights`, which
// must outlive them. Throws bad_file for a tensor that is missing or has another shape than the
// config says, unsupported for a tensor that has no place in the architecture.
std::vector<OutputTensor> place_hf_tensors(const HfConfig& config, const SafeFolder& weights,
                                           DType dtype);

}  // namespace pith

// Other people's model files to GGUF. Every function writes `out` completely or not at all, reads
// its input as untrusted, and reports progress in tensors.
#pragma once

#include <string>
#include <vector>

#include "base/progress.h"
#include "tensor/dtype.h"

namespace pith {

// A Hugging Face folder: config.json, *.safetensors (sharded or not), tokenizer.json or
// tokenizer.model. `dtype` F32, F16 or BF16 for matrices; vectors stay F32.
void convert_hugging_face(const std::string& folder, const std::string& out, DType dtype,
                          Monitor& monitor = Monitor::silent());
// llama2.c checkpoints, version 0 (float) and 2 (Q8 groups), with their tokenizer.bin.
void convert_llama2c(const std::string& checkpoint, const std::string& tokenizer,
                     const std::string& out, DType dtype, Monitor& monitor = Monitor::silent());

// Matrices of a GGUF file in another format; vectors stay F32. Rows that a block format does not
// divide fall back to F16 (and the file says so in its metadata).
struct QuantizeReport {
  uint64_t bytes_before = 0, bytes_after = 0;
  int tensors = 0, fallbacks = 0;
};
QuantizeReport quantize(const std::string& in, const std::string& out, DType dtype,
                        Monitor& monitor = Monitor::silent());

// Orthonormal directions that become the channels of a model's heads, a row each.
struct FoldMaps {
  int layers = 0, query_heads = 0, heads = 0, dim = 0;
  std::vector<float> v;  // [layers, heads, dim, dim]
  // The same of queries and keys. What the model does to them between their projections and their
  // products must not mind: no norms, and with rotary positions only turns of the pairs of channels
  // that these turn. Empty: they stay.
  std::vector<float> k;
};
// A GGUF file whose projections give the coordinates of the maps, and whose output projection takes
// them back: the model answers the same, and what a cache drops of a value is its last channels.
// Matrices that change are written as `dtype`, all others stay as they lie. Values must reach the
// cache as they are projected: not for models that clamp them.
void fold(const std::string& in, const std::string& out, const FoldMaps& maps, DType dtype,
          Monitor& monitor = Monitor::silent());

}  // namespace pith

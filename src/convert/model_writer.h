// The way all converters write: metadata, then tensors row by row, in the order they were added.
//
//   ModelWriter ( metadata().set_* | add )* write
//
// A row is read, checked and coded on its own, so memory is a few megabytes however large a tensor
// is. The file appears under its name only when `write` returns.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/progress.h"
#include "gguf/gguf.h"

namespace pith {

struct OutputTensor {
  std::string name;           // in the GGUF file
  std::vector<int64_t> dims;  // GGUF order: dims[0] is the length of a row
  DType dtype = DType::f32;   // its block divides dims[0]
  std::string origin;         // for messages: "model.safetensors: tensor 'lm_head.weight'"
  // Values of one row, dims[0] of them; called from several threads, must not throw.
  std::function<void(int64_t row, float* out)> read;
  // Where the source already has the format, its rows as they lie; `read` then only checks them.
  std::span<const std::byte> raw = {};
};

class ModelWriter {
 public:
  // `work` names it in progress reports: "convert", "quantize".
  ModelWriter(const std::string& path, std::string work, Monitor& monitor);

  GgufWriter& metadata() { return out_; }
  void add(OutputTensor tensor);
  // Throws bad_file where a weight is not finite, unsupported where it does not fit the format,
  // interrupted if the monitor says so.
  void write();
  uint64_t tensor_bytes() const { return bytes_; }

 private:
  void write_tensor(const OutputTensor& tensor, const class Threads& threads);
  GgufWriter out_;
  std::string work_;
  Monitor& monitor_;
  std::vector<OutputTensor> tensors_;
  uint64_t bytes_ = 0;
};

// Throws bad_option unless converters write this format: F32, F16 or BF16.
void check_convert_dtype(DType dtype);

// general.file_type and general.quantization_version as llama.cpp numbers them.
void set_file_type(GgufWriter& out, DType dtype);

}  // namespace pith

// What a trained network consists of: its dimensions, and where each of its tensors lies in the one
// array that holds all parameters. Names and shapes are those of a llama-architecture GGUF file, so
// a checkpoint is a model; q, k, v and gate, up are neighbours, so that each group is one matrix.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pith {

struct NetworkShape {
  int layers = 0, width = 0, query_heads = 0, heads = 0, dim = 0, ffn_width = 0;
  int vocab = 0;    // tokens; 0 until the vocabulary is known
  int context = 0;  // the longest sequence the model is trained for
  double rope_base = 10000;
  float norm_eps = 1e-5f;
};

// Throws bad_option where the dimensions do not fit each other, naming the one that does not.
void check_shape(const NetworkShape& shape);

struct Parameter {
  std::string name;  // of the tensor in GGUF: "blk.0.attn_q.weight"
  int64_t rows, cols;
  int64_t offset;  // of its first value in the array
  bool vector;     // gains of a norm: one row, stored as F32, never decayed
  int64_t size() const { return rows * cols; }
};

class ParameterLayout {
 public:
  explicit ParameterLayout(const NetworkShape& shape);
  std::span<const Parameter> all() const { return all_; }
  const Parameter& find(std::string_view name) const;                 // must exist
  const Parameter& of_layer(int layer, std::string_view name) const;  // "attn_q"
  int64_t size() const { return size_; }                              // floats

 private:
  void add(std::string name, int64_t rows, int64_t cols, bool vector = false);
  std::vector<Parameter> all_;
  int64_t size_ = 0;
};

}  // namespace pith

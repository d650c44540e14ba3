// What KV-Distill trains: a scorer of tokens and low-rank additions to the projections of a frozen
// model, in one array. Names and shapes are those of the adapter file (policy/adapter.h).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "train/network_shape.h"

namespace pith {

struct AdapterShape {
  int layer = 0;   // whose output the scorer reads, counted from 0
  int rank = 128;  // of the additions
  double alpha = 256;
  int hidden = 0;   // width of the scorer; 0: it is linear
  int fold = 1536;  // tokens that are compressed together, a multiple of 128; 0: all
  int sinks = 8;    // first tokens that always stay
  // rsLoRA (arXiv:2312.03732): what additions are multiplied with.
  double scale() const;
};

// Throws bad_option where it does not fit the network, naming the field that does not.
void check_adapter(const AdapterShape& adapter, const NetworkShape& network);

class AdapterLayout {
 public:
  AdapterLayout(const NetworkShape& network, const AdapterShape& adapter);
  std::span<const Parameter> all() const { return all_; }
  // "scorer.up.weight", "blk.0.attn_q.weight.lora_a"; null if there is none.
  const Parameter* find(const std::string& name) const;
  int64_t size() const { return size_; }

 private:
  void add(std::string name, int64_t rows, int64_t cols, bool vector = false);
  std::vector<Parameter> all_;
  int64_t size_ = 0;
};

// Random but for lora_b, which is 0: the model as it is, with tokens chosen at random.
std::vector<float> first_adapter(const AdapterLayout& layout, uint64_t seed);

}  // namespace pith

// Attention from its definition, in float64: what kernels and the backend are compared with.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/table.h"
#include "tensor/kv_shape.h"

namespace pith::test {

// Logit of one query and one row. `query_head` picks the ALiBi slope.
double oracle_logit(std::span<const float> q, std::span<const float> k, const AttentionRule& rule,
                    int query_head, int64_t q_pos, int64_t k_pos);

// Softmax over the rows that were added, and the mean of their values under it. Values stay where
// they are and must outlive the oracle.
class AttentionOracle {
 public:
  void add(double logit, std::span<const float> value);  // a row that is seen
  void skip();                                           // a row that is not

  size_t rows() const { return logits_.size(); }
  double max() const;
  double sum() const;                      // of exp(logit - max)
  std::vector<double> probs() const;       // [rows], zero for those skipped
  std::vector<double> out(int dim) const;  // zeros where nothing was added

 private:
  std::vector<double> logits_;
  std::vector<std::span<const float>> values_;
};

// Numbers of a normal distribution, the same in every run.
std::vector<float> normal_numbers(size_t count, uint64_t seed, float spread = 1);

// Largest |a - b| / (1 + |b|).
double worst(std::span<const float> a, std::span<const double> b);

}  // namespace pith::test

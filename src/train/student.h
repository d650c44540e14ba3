// The student of KV-Distill as a function of its adapter: what Distiller trains, and what tests
// differentiate. Included by the few sources that know libtorch.
#pragma once

#include <torch/types.h>
#include <vector>

#include "train/distiller.h"
#include "train/network.h"

namespace pith {

// Scorer and additions as tensors over somebody's flat parameters; backward passes add to
// `gradients`, where it is defined.
class Student {
 public:
  Student(const Network& model, const NetworkShape& shape, const AdapterShape& adapter,
          const torch::Tensor& parameters, const torch::Tensor& gradients);

  struct Logits {
    torch::Tensor teacher, student;  // [rows, vocab] at the sample's rows
  };
  // The teacher's carry no gradient.
  Logits logits(const DistillSample& sample, Damping damping) const;
  std::vector<int32_t> chosen(const DistillSample& sample) const;

 private:
  struct Compressed {
    std::vector<torch::Tensor> k, v;  // by layer, [1, heads, kept, dim]
    torch::Tensor scores;             // [kept]
  };
  torch::Tensor read(const DistillSample& sample) const;    // [context, width]
  torch::Tensor scores(const torch::Tensor& hidden) const;  // [context]
  std::vector<int32_t> choose(const torch::Tensor& scores, const DistillSample& sample) const;
  Compressed compress(const DistillSample& sample, const torch::Tensor& seen) const;
  torch::Tensor attend(const Network::Heads& heads, const torch::Tensor& k, const torch::Tensor& v,
                       const torch::Tensor& scores, Damping damping) const;
  std::vector<std::pair<int64_t, int64_t>> folds(int64_t tokens) const;

  const Network& model_;
  const NetworkShape shape_;
  const AdapterShape adapter_;
  torch::Tensor up_, up_bias_, down_, down_bias_;
  std::vector<Additions> layers_;
};

// Sums over rows of KL(teacher || student) and KL(student || teacher), and whether both find the
// same token likeliest, [rows].
struct Divergence {
  torch::Tensor forward, reverse, agree;
};
Divergence divergence(const Student::Logits& logits);

}  // namespace pith

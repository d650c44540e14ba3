// AdamW (arXiv:1711.05101) over one flat array. Included by the few sources that know libtorch.
#pragma once

#include <cmath>
#include <span>
#include <torch/types.h>
#include <vector>

#include "base/error.h"

namespace pith {

struct Adam {
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8, decay = 0.01;
  torch::Tensor moment1, moment2;  // like the parameters
  torch::Tensor decays;            // 1 where parameters decay, 0 elsewhere
  int64_t steps = 0;

  void step(torch::Tensor& parameters, const torch::Tensor& gradient, double rate) {
    const torch::NoGradGuard guard;
    ++steps;
    moment1.mul_(beta1).add_(gradient, 1 - beta1);
    moment2.mul_(beta2).addcmul_(gradient, gradient, 1 - beta2);
    const double unbias1 = 1 - std::pow(beta1, static_cast<double>(steps));
    const double unbias2 = 1 - std::pow(beta2, static_cast<double>(steps));
    const torch::Tensor denominator = (moment2 / unbias2).sqrt_().add_(epsilon);
    parameters.addcmul_(parameters, decays, -rate * decay);
    parameters.addcdiv_(moment1, denominator, -rate / unbias1);
  }
};

// Makes the norm of a step's gradient no more than `most`, where that is above 0, and returns what
// it was. Throws bad_file where it or the step's loss is not finite, before anything has changed.
inline double clip_gradient(const torch::Tensor& gradient, double most, double loss) {
  const double norm = gradient.norm().item<double>();
  if (!std::isfinite(loss) || !std::isfinite(norm))
    throw Error(Errc::bad_file,
                "the loss is not a number any more; go on from the last checkpoint with a smaller "
                "'rate'");
  if (most > 0 && norm > most) gradient.mul_(most / norm);
  return norm;
}

// An array as a tensor of its own, and back.
inline torch::Tensor tensor_of(std::span<const float> values) {
  return torch::from_blob(const_cast<float*>(values.data()), {static_cast<int64_t>(values.size())},
                          torch::kFloat32)
      .clone();
}
inline std::vector<float> values_of(const torch::Tensor& tensor) {
  const torch::Tensor here = tensor.detach().to(torch::kCPU, torch::kFloat32).contiguous();
  const float* data = here.data_ptr<float>();
  return {data, data + here.numel()};
}

}  // namespace pith

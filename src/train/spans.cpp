#include "train/spans.h"

#include <ATen/Parallel.h>
#include <algorithm>
#include <cmath>
#include <torch/autograd.h>

#include "base/error.h"
#include "train/network.h"

namespace pith {
namespace {

using torch::Tensor;

double rate_of(const SpanOptions& options, int step) {
  constexpr double kFloor = 0.1;
  const double fifth = std::max(1.0, options.steps / 5.0);
  const double up = (step + 1) / fifth, down = (options.steps - step) / fifth;
  return options.rate * std::max(kFloor, std::min({1.0, up, down}));
}

}  // namespace

std::vector<float> train_spans(const NetworkShape& shape, std::span<const float> parameters,
                               const SpanOptions& options,
                               const std::function<SpanSample(int step)>& sample, Monitor& monitor,
                               const std::function<void(const SpanStep&)>& report) {
  at::set_num_threads(options.threads);
  const Tensor weights =
      torch::from_blob(const_cast<float*>(parameters.data()),
                       {static_cast<int64_t>(parameters.size())}, torch::kFloat32);
  const Network network(shape, weights, Tensor(), torch::kFloat32);
  const Looking less{options.sink, options.recent};
  Tensor gates = torch::ones({shape.layers, shape.heads}).requires_grad_(true);
  Tensor moment1 = torch::zeros_like(gates.detach()), moment2 = torch::zeros_like(moment1);
  for (int step = 0; step < options.steps; ++step) {
    monitor.check();
    monitor.progress("spans", step, options.steps);
    SpanSample made = sample(step);
    if (made.rows.empty() || made.tokens.empty())
      throw Error(Errc::bad_request, "a sample to train spans with asks for nothing");
    const Tensor tokens =
        torch::from_blob(made.tokens.data(), {1, static_cast<int64_t>(made.tokens.size())},
                         torch::kInt32)
            .to(torch::kInt64);
    const Tensor rows =
        torch::from_blob(made.rows.data(), {static_cast<int64_t>(made.rows.size())}, torch::kInt64);
    const Tensor begin = network.embed(tokens);
    Tensor wanted = begin;
    {
      const torch::NoGradGuard guard;
      for (int l = 0; l < network.layers(); ++l) wanted = network.layer(l, wanted);
      wanted = network.last_norm(wanted).index_select(1, rows);
    }
    Tensor hidden = begin;
    for (int l = 0; l < network.layers(); ++l)
      hidden = network.gated_layer(l, hidden, gates[l], less);
    const Tensor distance =
        (network.last_norm(hidden).index_select(1, rows) - wanted).square().mean();
    const Tensor loss = distance + options.size * gates.abs().mean();
    const Tensor gradient = torch::autograd::grad({loss}, {gates})[0];
    const torch::NoGradGuard guard;
    constexpr double kBeta1 = 0.9, kBeta2 = 0.999, kEpsilon = 1e-8;
    moment1.mul_(kBeta1).add_(gradient, 1 - kBeta1);
    moment2.mul_(kBeta2).addcmul_(gradient, gradient, 1 - kBeta2);
    const Tensor up = moment1 / (1 - std::pow(kBeta1, step + 1));
    const Tensor down = (moment2 / (1 - std::pow(kBeta2, step + 1))).sqrt_().add_(kEpsilon);
    gates.sub_(rate_of(options, step) * up / down).clamp_(0, 1);
    if (report) report({step + 1, distance.item<double>(), gates.mean().item<double>()});
  }
  monitor.progress("spans", options.steps, options.steps);
  const Tensor result = gates.detach().contiguous();
  const float* data = result.data_ptr<float>();
  return {data, data + result.numel()};
}

}  // namespace pith

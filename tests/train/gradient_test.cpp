// The network's gradients against finite differences, in double precision.
#include <cmath>
#include <gtest/gtest.h>
#include <torch/autograd.h>

#include "support/network_shapes.h"
#include "train/network.h"

namespace pith {
namespace {

using torch::Tensor;

Tensor random_values(at::IntArrayRef sizes, int seed) {
  const at::Generator generator = at::detail::createCPUGenerator(static_cast<uint64_t>(seed));
  return torch::randn(sizes, generator, torch::kFloat64);
}

// Attention written the long way: all scores, a mask, a softmax.
Tensor plain_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Looking& looking) {
  const int64_t length = q.size(2), group = q.size(1) / k.size(1);
  const Tensor keys = k.repeat_interleave(group, 1), values = v.repeat_interleave(group, 1);
  Tensor hidden = torch::zeros({length, length}, torch::kBool);
  for (int64_t query = 0; query < length; ++query)
    for (int64_t key = 0; key < length; ++key) {
      const bool seen = looking.recent == 0 || key < looking.sink || key > query - looking.recent;
      hidden[query][key] = key > query || !seen;
    }
  const Tensor scores =
      torch::matmul(q, keys.transpose(2, 3)) / std::sqrt(static_cast<double>(q.size(3)));
  const Tensor out =
      torch::matmul(torch::softmax(scores.masked_fill(hidden, -INFINITY), -1), values);
  return out.transpose(1, 2).reshape({q.size(0), length, q.size(1) * q.size(3)});
}

TEST(TrainerGradient, AttentionInBlocksIsAttentionOverAllRows) {
  const auto leaf = [](at::IntArrayRef sizes, int seed) {
    return random_values(sizes, seed).requires_grad_(true);
  };
  const Tensor q = leaf({2, 4, 21, 8}, 1), k = leaf({2, 2, 21, 8}, 2), v = leaf({2, 2, 21, 8}, 3);
  const Tensor weight = random_values({2, 21, 32}, 4);
  // 21 rows are two blocks of 8 and a rest.
  for (const Looking& looking : {Looking{0, 0, 8}, Looking{2, 5, 8}, Looking{0, 1, 8}}) {
    const Tensor blocks = causal_attention(q, k, v, looking);
    const Tensor plain = plain_attention(q, k, v, looking);
    EXPECT_LT((blocks - plain).abs().max().item<double>(), 1e-12);
    const auto of_blocks = torch::autograd::grad({(blocks * weight).sum()}, {q, k, v});
    const auto of_plain = torch::autograd::grad({(plain * weight).sum()}, {q, k, v});
    for (size_t i = 0; i < 3; ++i)
      EXPECT_LT((of_blocks[i] - of_plain[i]).abs().max().item<double>(), 1e-12);
  }
}

double loss_of(const Network& network, const Tensor& tokens, const Tensor& targets, Tensor* keep) {
  Tensor hidden = network.embed(tokens);
  for (int l = 0; l < network.layers(); ++l) hidden = network.layer(l, hidden);
  const Tensor logits = network.logits(hidden.view({-1, hidden.size(2)}));
  const Tensor loss = torch::nll_loss(torch::log_softmax(logits, -1), targets.view({-1}));
  if (keep != nullptr) *keep = loss;
  return loss.item<double>();
}

TEST(TrainerGradient, IsTheSlopeOfTheLossForEveryTensor) {
  const NetworkShape shape = test::small_shape(2, 64);
  const ParameterLayout layout(shape);
  Tensor parameters = random_values({layout.size()}, 5) * 0.3;
  Tensor gradients = torch::zeros_like(parameters);
  // F32 as the precision of products means: as the parameters are.
  const Network network(shape, parameters, gradients, torch::kFloat32);
  const Tensor tokens = torch::arange(48, torch::kInt64).mul(7).remainder(40).view({2, 24});
  const Tensor targets = torch::arange(48, torch::kInt64).mul(11).remainder(40).view({2, 24});
  Tensor loss;
  loss_of(network, tokens, targets, &loss);
  loss.backward();
  const torch::NoGradGuard guard;
  for (const Parameter& p : layout.all()) {
    const Tensor direction = random_values({p.size()}, static_cast<int>(p.offset));
    const double slope = (gradients.narrow(0, p.offset, p.size()) * direction).sum().item<double>();
    const auto at = [&](double step) {
      parameters.narrow(0, p.offset, p.size()).add_(direction, step);
      const double value = loss_of(network, tokens, targets, nullptr);
      parameters.narrow(0, p.offset, p.size()).add_(direction, -step);
      return value;
    };
    constexpr double kStep = 1e-5;
    const double measured = (at(kStep) - at(-kStep)) / (2 * kStep);
    EXPECT_NEAR(slope, measured, 1e-6 * std::max(1.0, std::fabs(measured))) << p.name;
  }
}

}  // namespace
}  // namespace pith

#include "train/learner.h"

#include <torch/autograd.h>
#include <torch/cuda.h>

#include "base/error.h"
#include "train/adam.h"
#include "train/network.h"
#include "train/workers.h"

namespace pith {
namespace {

using torch::Tensor;

// Decayed are matrices, but not the embedding: 1 and 0.
Tensor decay_mask(const ParameterLayout& layout) {
  Tensor mask = torch::zeros({layout.size()});
  for (const Parameter& p : layout.all())
    if (!p.vector && p.name != "token_embd.weight") mask.narrow(0, p.offset, p.size()).fill_(1);
  return mask;
}

}  // namespace

struct Learner::State {
  struct Worker {
    Tensor gradients;
    std::unique_ptr<Network> network;
  };

  State(const NetworkShape& shape, const LearnerOptions& options)
      : shape(shape), options(options), layout(shape), device(options.device) {
    const int64_t size = layout.size();
    const auto zeros = [&] { return torch::zeros({size}, torch::TensorOptions().device(device)); };
    parameters = zeros();
    adam = {options.beta1,
            options.beta2,
            options.epsilon,
            options.decay,
            zeros(),
            zeros(),
            decay_mask(layout).to(device)};
    workers.resize(static_cast<size_t>(device.is_cpu() ? std::max(1, options.threads) : 1));
    const auto precision = options.bf16 ? torch::kBFloat16 : torch::kFloat32;
    for (Worker& worker : workers) {
      worker.gradients = zeros();
      worker.network = std::make_unique<Network>(shape, parameters, worker.gradients, precision);
    }
  }

  double weight(TokenRole role) const { return options.weights[static_cast<size_t>(role)]; }

  // Weighted loss of a batch's targets and what it is made of. Where there are gradients to find,
  // they are added to the worker's, divided by `total`.
  BatchScore run(const Worker& worker, const Batch& batch, double total) const {
    const Network& net = *worker.network;
    const int64_t rows = batch.rows, length = batch.length;
    const Tensor all = torch::from_blob(const_cast<int32_t*>(batch.tokens.data()),
                                        {rows, length + 1}, torch::kInt32)
                           .to(torch::kInt64);
    const Tensor tokens = all.narrow(1, 0, length).contiguous().to(device);
    // Rows of targets that count for nothing need no logits.
    std::vector<int64_t> places, wanted;
    std::vector<float> weights;
    std::vector<TokenRole> roles;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < length; ++i) {
        const auto at = static_cast<size_t>(r * (length + 1) + i + 1);
        const double w = weight(batch.roles[at]);
        if (w <= 0) continue;
        places.push_back(r * length + i);
        wanted.push_back(batch.tokens[at]);
        weights.push_back(static_cast<float>(w / total));
        roles.push_back(batch.roles[at]);
      }
    }
    BatchScore score;
    if (places.empty()) return score;
    const auto indices = [&](std::vector<int64_t>& values) {
      return torch::from_blob(values.data(), {static_cast<int64_t>(values.size())}, torch::kInt64)
          .to(device);
    };
    const Tensor place = indices(places), target = indices(wanted);
    const Tensor weight = tensor_of(weights).to(device);
    const bool learns = torch::GradMode::is_enabled();

    const auto head = [&](const Tensor& hidden) {
      const Tensor logits =
          net.logits(hidden.view({rows * length, shape.width}).index_select(0, place));
      const Tensor losses =
          torch::nll_loss(torch::log_softmax(logits, -1), target, {}, torch::Reduction::None);
      count(score, losses, logits, target, roles);
      return (losses * weight).sum();
    };
    if (!learns || length < options.recompute_from) {
      Tensor hidden = net.embed(tokens);
      for (int l = 0; l < net.layers(); ++l) hidden = net.layer(l, hidden);
      const Tensor loss = head(hidden);
      if (learns) loss.backward();
      return score;
    }
    // Only the input of every layer is kept; on the way back each layer runs once more.
    std::vector<Tensor> inputs;
    {
      const torch::NoGradGuard guard;
      inputs.push_back(net.embed(tokens));
      for (int l = 0; l < net.layers(); ++l) inputs.push_back(net.layer(l, inputs.back()));
    }
    Tensor hidden = inputs.back().detach().requires_grad_(true);
    head(hidden).backward();
    Tensor gradient = hidden.grad();
    for (int l = net.layers() - 1; l >= 0; --l) {
      inputs.pop_back();
      hidden = inputs.back().detach().requires_grad_(true);
      net.layer(l, hidden).backward(gradient);
      gradient = hidden.grad();
    }
    net.embed(tokens).backward(gradient);
    return score;
  }

  static void count(BatchScore& score, const Tensor& losses, const Tensor& logits,
                    const Tensor& target, const std::vector<TokenRole>& roles) {
    const torch::NoGradGuard guard;
    const Tensor loss = losses.detach().to(torch::kCPU, torch::kFloat64).contiguous();
    const Tensor right =
        logits.detach().argmax(-1).eq(target).to(torch::kCPU, torch::kInt64).contiguous();
    const double* l = loss.data_ptr<double>();
    const int64_t* r = right.data_ptr<int64_t>();
    for (size_t i = 0; i < roles.size(); ++i) {
      RoleScore& role = score.roles[static_cast<size_t>(roles[i])];
      role.loss += l[i];
      ++role.targets;
      role.right += r[i];
    }
  }

  void share_out(int parts, const std::function<void(int part, Worker& worker)>& work) {
    pith::share_out(parts, static_cast<int>(workers.size()), [&](int part, int worker) {
      work(part, workers[static_cast<size_t>(worker)]);
    });
  }

  double total_weight(const Batch& batch) const {
    double total = 0;
    for (int64_t r = 0; r < batch.rows; ++r)
      for (int64_t i = 1; i <= batch.length; ++i)
        total += weight(batch.roles[static_cast<size_t>(r * (batch.length + 1) + i)]);
    return total;
  }

  double weighted_loss(const BatchScore& score) const {
    double sum = 0, total = 0;
    for (size_t i = 0; i < score.roles.size(); ++i) {
      sum += options.weights[i] * score.roles[i].loss;
      total += options.weights[i] * static_cast<double>(score.roles[i].targets);
    }
    return total > 0 ? sum / total : 0;
  }

  // Adds up all workers' gradients in the first one's.
  void clear_gradients() {
    for (Worker& worker : workers) worker.gradients.zero_();
  }
  Tensor sum_gradients() {
    for (size_t w = 1; w < workers.size(); ++w) workers[0].gradients.add_(workers[w].gradients);
    return workers[0].gradients;
  }

  const NetworkShape shape;
  const LearnerOptions options;
  const ParameterLayout layout;
  const torch::Device device;
  Tensor parameters;
  Adam adam;
  std::vector<Worker> workers;
};

Learner::Learner(const NetworkShape& shape, const LearnerOptions& options) {
  if (options.device != "cpu" && options.device != "cuda")
    throw Error(Errc::bad_option,
                "device: '" + options.device + "' is not known; known are cpu and cuda");
  if (options.device == "cuda" && !torch::cuda::is_available())
    throw Error(Errc::unsupported,
                "device: this libtorch finds no CUDA device; train on the cpu, or build with the "
                "libtorch of an installed PyTorch");
  use_one_thread_per_product();
  state_ = std::make_unique<State>(shape, options);
}

Learner::~Learner() = default;

void Learner::set_parameters(std::span<const float> parameters) {
  PITH_CHECK(static_cast<int64_t>(parameters.size()) == state_->layout.size(),
             "parameters are those of the layout");
  const torch::NoGradGuard guard;
  state_->parameters.copy_(tensor_of(parameters));
}

std::vector<float> Learner::parameters() const {
  return values_of(state_->parameters);
}

void Learner::set_state(const LearnerState& state) {
  set_parameters(state.parameters);
  const torch::NoGradGuard guard;
  const auto set = [](Tensor& to, const std::vector<float>& from) {
    if (from.empty())
      to.zero_();
    else
      to.copy_(tensor_of(from));
  };
  set(state_->adam.moment1, state.moment1);
  set(state_->adam.moment2, state.moment2);
  state_->adam.steps = state.steps;
}

LearnerState Learner::state() const {
  return {parameters(), values_of(state_->adam.moment1), values_of(state_->adam.moment2),
          state_->adam.steps};
}

StepResult Learner::step(int parts, const std::function<Batch(int part)>& make, double rate) {
  State& s = *state_;
  // The loss is divided by the weight of all parts, so they are all made first.
  std::vector<Batch> batches(static_cast<size_t>(parts));
  s.share_out(parts,
              [&](int part, State::Worker&) { batches[static_cast<size_t>(part)] = make(part); });
  double total = 0;
  for (const Batch& batch : batches) total += s.total_weight(batch);
  std::vector<BatchScore> scores(batches.size());
  s.clear_gradients();
  s.share_out(parts, [&](int part, State::Worker& worker) {
    const auto i = static_cast<size_t>(part);
    scores[i] = s.run(worker, batches[i], total);
  });
  StepResult result;
  for (const BatchScore& score : scores) result.score += score;
  result.loss = s.weighted_loss(result.score);
  const Tensor gradient = s.sum_gradients();
  result.gradient_norm = clip_gradient(gradient, s.options.clip, result.loss);
  s.adam.step(s.parameters, gradient, rate);
  return result;
}

StepResult Learner::gradients(const Batch& batch, std::vector<float>& out) {
  State& s = *state_;
  s.clear_gradients();
  StepResult result;
  result.score = s.run(s.workers[0], batch, s.total_weight(batch));
  result.loss = s.weighted_loss(result.score);
  out = values_of(s.workers[0].gradients);
  return result;
}

BatchScore Learner::measure(int parts, const std::function<Batch(int part)>& make) {
  std::vector<BatchScore> scores(static_cast<size_t>(parts));
  state_->share_out(parts, [&](int part, State::Worker& worker) {
    const torch::NoGradGuard guard;
    scores[static_cast<size_t>(part)] = state_->run(worker, make(part), 1);
  });
  BatchScore sum;
  for (const BatchScore& score : scores) sum += score;
  return sum;
}

std::vector<float> Learner::logits(std::span<const int32_t> tokens) {
  const torch::NoGradGuard guard;
  const Network& net = *state_->workers[0].network;
  const auto length = static_cast<int64_t>(tokens.size());
  const Tensor ids =
      torch::from_blob(const_cast<int32_t*>(tokens.data()), {1, length}, torch::kInt32)
          .to(state_->device, torch::kInt64);
  Tensor hidden = net.embed(ids);
  for (int l = 0; l < net.layers(); ++l) hidden = net.layer(l, hidden);
  return values_of(net.logits(hidden.view({length, state_->shape.width})));
}

}  // namespace pith

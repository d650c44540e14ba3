#include "train/distiller.h"

#include <torch/autograd.h>

#include "base/error.h"
#include "train/adam.h"
#include "train/student.h"
#include "train/workers.h"

namespace pith {
namespace {

using torch::Tensor;

Tensor decay_mask(const AdapterLayout& layout) {
  Tensor mask = torch::zeros({layout.size()});
  for (const Parameter& p : layout.all())
    if (!p.vector) mask.narrow(0, p.offset, p.size()).fill_(1);
  return mask;
}

DistillScore score_of(const Divergence& d) {
  const torch::NoGradGuard guard;
  return {d.forward.sum().item<double>(), d.reverse.sum().item<double>(), d.forward.size(0),
          d.agree.sum().item<int64_t>()};
}

}  // namespace

struct Distiller::State {
  struct Worker {
    Tensor gradients;
    std::unique_ptr<Student> student;
  };

  State(const NetworkShape& network, std::span<const float> weights, const AdapterShape& adapter,
        const DistillerOptions& how)
      : options(how),
        layout(network, adapter),
        frozen(tensor_of(weights)),
        model(network, frozen, Tensor(), torch::kFloat32),
        parameters(torch::zeros({layout.size()})),
        student(model, network, adapter, parameters, Tensor()),
        workers(static_cast<size_t>(std::max(1, how.threads))) {
    adam = {how.beta1,
            how.beta2,
            how.epsilon,
            how.decay,
            torch::zeros_like(parameters),
            torch::zeros_like(parameters),
            decay_mask(layout)};
    for (Worker& worker : workers) {
      worker.gradients = torch::zeros_like(parameters);
      worker.student =
          std::make_unique<Student>(model, network, adapter, parameters, worker.gradients);
    }
  }

  double loss_of(const DistillScore& score) const {
    return score.targets == 0
               ? 0
               : (options.forward * score.forward + (1 - options.forward) * score.reverse) /
                     static_cast<double>(score.targets);
  }

  const DistillerOptions options;
  const AdapterLayout layout;
  const Tensor frozen;
  const Network model;
  Tensor parameters;
  const Student student;  // carries no gradients
  Adam adam;
  std::vector<Worker> workers;
};

Distiller::Distiller(const NetworkShape& shape, std::span<const float> model,
                     const AdapterShape& adapter, const DistillerOptions& options) {
  check_adapter(adapter, shape);
  use_one_thread_per_product();
  state_ = std::make_unique<State>(shape, model, adapter, options);
}

Distiller::~Distiller() = default;

void Distiller::set_state(const LearnerState& state) {
  PITH_CHECK(static_cast<int64_t>(state.parameters.size()) == state_->layout.size(),
             "parameters are those of the layout");
  const torch::NoGradGuard guard;
  const auto set = [](Tensor& to, const std::vector<float>& from) {
    if (from.empty())
      to.zero_();
    else
      to.copy_(tensor_of(from));
  };
  set(state_->parameters, state.parameters);
  set(state_->adam.moment1, state.moment1);
  set(state_->adam.moment2, state.moment2);
  state_->adam.steps = state.steps;
}

LearnerState Distiller::state() const {
  return {values_of(state_->parameters), values_of(state_->adam.moment1),
          values_of(state_->adam.moment2), state_->adam.steps};
}

DistillStep Distiller::step(int samples, const std::function<DistillSample(int sample)>& make,
                            double rate) {
  State& s = *state_;
  // The loss is divided by the targets of all samples, so they are all made first.
  std::vector<DistillSample> made(static_cast<size_t>(samples));
  const int workers = static_cast<int>(s.workers.size());
  share_out(samples, workers, [&](int i, int) { made[static_cast<size_t>(i)] = make(i); });
  double targets = 0;
  for (const DistillSample& sample : made) targets += static_cast<double>(sample.rows.size());
  for (State::Worker& worker : s.workers) worker.gradients.zero_();
  std::vector<DistillScore> scores(made.size());
  share_out(samples, workers, [&](int i, int worker) {
    const auto at = static_cast<size_t>(i);
    const Student& student = *s.workers[static_cast<size_t>(worker)].student;
    const Divergence d = divergence(student.logits(made[at], s.options.damping));
    scores[at] = score_of(d);
    const Tensor loss =
        (s.options.forward * d.forward.sum() + (1 - s.options.forward) * d.reverse.sum()) / targets;
    loss.backward();
  });
  DistillStep result;
  for (const DistillScore& score : scores) result.score += score;
  result.loss = s.loss_of(result.score);
  for (size_t w = 1; w < s.workers.size(); ++w) s.workers[0].gradients.add_(s.workers[w].gradients);
  const Tensor gradient = s.workers[0].gradients;
  result.gradient_norm = clip_gradient(gradient, s.options.clip, result.loss);
  s.adam.step(s.parameters, gradient, rate);
  return result;
}

DistillScore Distiller::measure(const DistillSample& sample) const {
  const torch::NoGradGuard guard;
  return score_of(divergence(state_->student.logits(sample, Damping::none)));
}

std::vector<float> Distiller::logits(const DistillSample& sample) const {
  const torch::NoGradGuard guard;
  return values_of(state_->student.logits(sample, Damping::none).student);
}

std::vector<int32_t> Distiller::chosen(const DistillSample& sample) const {
  return state_->student.chosen(sample);
}

}  // namespace pith

// KV-Distill's training (arXiv:2503.10337, methods.md 6), one step at a time. The teacher is a
// frozen model that reads context, question and answer; the student is the same model, which reads
// question and answer over the rows of the context that a scorer chose and an adapter wrote. Only
// scorer and adapter learn, so that the student's next tokens are the teacher's. Hides libtorch.
//
// What the choice is worth reaches the scorer by damping: a logit between a token of question or
// answer and a chosen row is multiplied by sigmoid(score), or has log(sigmoid(score)) added. In the
// engine nothing is damped, and a student that learnt with it meets larger logits there, the more
// of them the more rows stay; `gradient` therefore adds log(sigmoid(score)) to the derivative only.
//
// A step is deterministic: sample i goes to thread i mod threads, and gradients are added up in the
// threads' order.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "train/adapter_layout.h"
#include "train/learner.h"
#include "train/network_shape.h"

namespace pith {

enum class Damping { none, multiply, add, gradient };

struct DistillSample {
  std::vector<int32_t> tokens;  // context, question, answers
  int context = 0;              // tokens that are compressed
  // Tokens behind which an answer is predicted; none of them is of the context.
  std::vector<int64_t> rows;
  double retention = 1;  // share of the context that stays
};

struct DistillerOptions {
  Damping damping = Damping::multiply;
  double forward = 0.6;  // weight of KL(teacher || student); the rest is of KL(student || teacher)
  int threads = 1;
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, decay = 0.01;
  double clip = 1;  // of the gradient's norm
};

struct DistillScore {  // sums over tokens of answers, in nats
  double forward = 0, reverse = 0;
  int64_t targets = 0, agree = 0;  // agree: both find the same token likeliest
  DistillScore& operator+=(const DistillScore& other) {
    forward += other.forward;
    reverse += other.reverse;
    targets += other.targets;
    agree += other.agree;
    return *this;
  }
};

struct DistillStep {
  DistillScore score;
  double loss = 0;           // a token, what the step descends
  double gradient_norm = 0;  // before clipping
};

class Distiller {
 public:
  // `model`: the frozen parameters, in the order of ParameterLayout.
  Distiller(const NetworkShape& shape, std::span<const float> model, const AdapterShape& adapter,
            const DistillerOptions& options);
  ~Distiller();

  void set_state(const LearnerState& state);  // of the adapter
  LearnerState state() const;

  // One step of AdamW. Throws bad_file where the loss is not finite any more, before anything has
  // changed.
  DistillStep step(int samples, const std::function<DistillSample(int sample)>& make, double rate);
  // Without damping, as the engine computes it.
  DistillScore measure(const DistillSample& sample) const;
  // The student's logits at the sample's rows, [rows, vocab], likewise.
  std::vector<float> logits(const DistillSample& sample) const;
  // Tokens of the context that stay, ascending.
  std::vector<int32_t> chosen(const DistillSample& sample) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pith

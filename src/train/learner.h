// A network that learns: parameters, gradients and AdamW's two moments, one step at a time. Hides
// libtorch, so that all other sources of the room compile without it.
//
//   Learner learner(shape, options);  learner.set_state(...);
//   loop: learner.step(parts, rate)   parts are made by the threads that learn from them
//
// A step on the CPU is deterministic: part i goes to thread i mod threads, a thread's parts are
// taken in order, and gradients are added up in the threads' order. Threads of libtorch itself
// are not used, since at this size they cost more than they bring.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "train/network_shape.h"
#include "train/sample.h"

namespace pith {

struct LearnerOptions {
  std::string device = "cpu";  // or "cuda"
  bool bf16 = false;           // of products; parameters, sums and the stream stay F32
  int threads = 1;             // of the CPU; a step's parts are shared out among them
  int recompute_from = 1024;   // rows of this length keep only the layers' inputs for the way back
  std::array<float, kTokenRoles> weights = {0.05f, 1, 1, 4};  // of targets in the loss
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8, decay = 0.01;
  double clip = 1;  // of the gradient's norm
};

struct LearnerState {
  std::vector<float> parameters, moment1, moment2;  // [layout.size()]
  int64_t steps = 0;
};

struct StepResult {
  BatchScore score;
  double loss = 0;           // weighted, what the step descends
  double gradient_norm = 0;  // before clipping
};

class Learner {
 public:
  // Throws unsupported where the device is not there.
  Learner(const NetworkShape& shape, const LearnerOptions& options);
  ~Learner();

  void set_state(const LearnerState& state);
  LearnerState state() const;
  void set_parameters(std::span<const float> parameters);
  std::vector<float> parameters() const;

  // One step of AdamW on `parts` batches, each made by `make` in the thread that learns from it.
  // Throws bad_file where the loss is not finite any more, before anything has changed.
  StepResult step(int parts, const std::function<Batch(int part)>& make, double rate);
  // Loss and gradients of one batch, without a step: for tests. Flat, in the layout's order.
  StepResult gradients(const Batch& batch, std::vector<float>& out);
  // No learning: what the network says of targets.
  BatchScore measure(int parts, const std::function<Batch(int part)>& make);
  // Of every position of one row, [tokens, vocab].
  std::vector<float> logits(std::span<const int32_t> tokens);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pith

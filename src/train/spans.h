// DuoAttention's training (arXiv:2410.10819, methods.md 8.2b): one gate for each head between full
// attention and attention to sinks and a window. Only gates learn: to change the model's last
// hidden states as little as possible where they carry answers, while being small.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/progress.h"
#include "train/network_shape.h"

namespace pith {

// Tokens, and the rows of which the last hidden state counts: those that predict answers.
struct SpanSample {
  std::vector<int32_t> tokens;
  std::vector<int64_t> rows;
};

struct SpanOptions {
  int steps = 2000;
  int sink = 128, recent = 256;  // of the shorter attention
  double rate = 0.02;  // warms up over a fifth of the steps, falls to a tenth over the last
  double size = 0.05;  // weight of the mean gate in the loss
  int threads = 1;
};

struct SpanStep {
  int step = 0;
  double distance = 0;  // mean squared, of the rows that count
  double mean_gate = 0;
};

// The gates, [layers, heads], between 0 and 1: what the head needs of full attention. `sample`
// makes that of a step. Throws bad_request for a sample without rows, interrupted if the monitor
// says so.
std::vector<float> train_spans(const NetworkShape& shape, std::span<const float> parameters,
                               const SpanOptions& options,
                               const std::function<SpanSample(int step)>& sample,
                               Monitor& monitor = Monitor::silent(),
                               const std::function<void(const SpanStep&)>& report = {});

}  // namespace pith

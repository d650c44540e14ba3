#include "train/distill_samples.h"

#include <algorithm>
#include <cmath>

#include "train/task_writer.h"

namespace pith {

DistillSample cut_sample(const Sample& sample, const Tokenizer& tokenizer) {
  constexpr size_t kLongestQuestion = 96;  // tokens
  const auto asked = [](TokenRole role) {
    return role == TokenRole::answer || role == TokenRole::copy;
  };
  DistillSample out;
  out.tokens = sample.tokens;
  const auto found = std::ranges::find_if(sample.roles, asked);
  const auto first = static_cast<size_t>(found - sample.roles.begin());
  if (found == sample.roles.end() || first < 2) return out;
  size_t cut = first - 1;
  for (size_t at = first - 1; at > 1 && first - at < kLongestQuestion; --at)
    if (tokenizer.piece(sample.tokens[at]).starts_with('\n')) {
      cut = at;
      break;
    }
  out.context = static_cast<int>(cut);
  for (size_t at = first; at < sample.roles.size(); ++at)
    if (asked(sample.roles[at])) out.rows.push_back(static_cast<int64_t>(at) - 1);
  out.tokens.resize(static_cast<size_t>(out.rows.back()) + 1);  // nothing behind is looked at
  return out;
}

DistillSample make_distill_sample(const DistillConfig& config, const TaskSource& source,
                                  uint64_t number) {
  constexpr uint64_t kNumbersPerSample = uint64_t{1} << 20;
  Random random(config.seed, number * kNumbersPerSample);
  double sum = 0;
  for (const auto& [name, weight] : config.mix) sum += weight;
  for (;;) {
    double drawn = random.uniform() * sum;
    const Task* task = nullptr;
    for (const auto& [name, weight] : config.mix) {
      task = find_task(name);
      if ((drawn -= weight) < 0) break;
    }
    const int length =
        between(random, std::clamp(task->shortest, config.shortest, config.length), config.length);
    DistillSample out = cut_sample(make_sample(*task, source, random, length), source.tokenizer);
    const double low = std::log(config.least_retention), high = std::log(config.most_retention);
    out.retention = std::exp(low + (high - low) * random.uniform());
    if (!out.rows.empty()) return out;
  }
}

}  // namespace pith

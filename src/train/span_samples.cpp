#include "train/span_samples.h"

#include "train/task_writer.h"

namespace pith {

SpanSample make_span_sample(const TaskSource& source, uint64_t seed, int step, int longest) {
  constexpr std::string_view kTasks[] = {"needles", "needles", "passkey", "pairs", "repeat"};
  Random random(seed, static_cast<uint64_t>(step) << 24);
  for (;;) {
    const Task& task = *find_task(pick(random, kTasks));
    const Sample sample =
        make_sample(task, source, random, between(random, std::max(200, longest / 4), longest));
    SpanSample out;
    out.tokens = sample.tokens;
    for (size_t i = 1; i < sample.roles.size(); ++i)
      if (sample.roles[i] == TokenRole::answer || sample.roles[i] == TokenRole::copy)
        out.rows.push_back(static_cast<int64_t>(i) - 1);
    if (!out.rows.empty()) return out;
  }
}

}  // namespace pith

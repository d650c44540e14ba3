#include "calibrate/spans.h"

#include <algorithm>

#include "base/error.h"
#include "policy/registry.h"
#include "runtime/engine.h"

namespace pith {

std::vector<float> find_spans(Engine& engine, std::span<const std::vector<int32_t>> prompts,
                              int chunk, int sink, const std::string& progress_file,
                              Monitor& monitor) {
  const ModelConfig& config = engine.model().config();
  const KvShape& shape = config.shape;
  const std::string spec = "kvzip:budget=1.0,share=even,chunk=" + std::to_string(chunk) +
                           ",sink=" + std::to_string(sink);
  const auto policy = make_policy(spec, shape);
  for (const std::vector<int32_t>& prompt : prompts)
    if (prompt.size() < static_cast<size_t>(sink) + 2)
      throw Error(Errc::bad_request, "a prompt of " + std::to_string(prompt.size()) +
                                         " tokens has no rows behind its " + std::to_string(sink) +
                                         " sinks");
  if (prompts.empty()) throw Error(Errc::bad_request, "the text has no tokens");
  const size_t heads = static_cast<size_t>(shape.layers) * static_cast<size_t>(shape.heads);
  SampleSums sums(progress_file, "spans " + config.digest + " " + spec + " " + text_digest(prompts),
                  {{"score", {shape.heads, shape.layers}, std::vector<float>(heads, 0.0f)}});
  OnlyStops stops(monitor);
  const int64_t samples = static_cast<int64_t>(prompts.size());
  while (sums.done() < samples) {
    monitor.progress("prompts", sums.done(), samples);
    monitor.check();
    const auto session = engine.open(policy);
    engine.prefill(*session, prompts[static_cast<size_t>(sums.done())], stops);
    for (int l = 0; l < shape.layers; ++l)
      for (int h = 0; h < shape.heads; ++h) {
        const std::span<const float> scores = std::as_const(*session->store).at(l, h).scores();
        // Layers with a sliding window have left the sinks behind.
        const size_t first = shape.window(l) > 0 ? 0 : static_cast<size_t>(sink);
        float most = 0;
        for (size_t r = first; r + 1 < scores.size(); ++r) most = std::max(most, scores[r]);
        sums.at(0)[static_cast<size_t>(l * shape.heads + h)] += most;
      }
    sums.finish_sample();
  }
  monitor.progress("prompts", samples, samples);
  std::vector<float> mean(sums.at(0).begin(), sums.at(0).end());
  for (float& score : mean) score /= static_cast<float>(samples);
  return mean;
}

std::vector<CalibrationTensor> span_tensors(const std::vector<float>& scores,
                                            const KvShape& shape) {
  return {{"spans.score", {shape.heads, shape.layers}, scores}};
}

}  // namespace pith

#include "calibrate/queries.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/parallel.h"
#include "policy/observer.h"
#include "runtime/engine.h"

namespace pith {
namespace {

enum Sum : size_t { kMoments, kMeans, kCount };

// Adds up q q^T and q for every key/value head.
class QueryObserver final : public PromptObserver {
 public:
  QueryObserver(Engine& engine, SampleSums& sums)
      : engine_(engine), shape_(engine.model().config().shape), sums_(sums) {}

  bool wants_tensors(int) const override { return true; }

  void attended(int layer, const DenseAttention& job) override {
    const int64_t dim = shape_.dim;
    if (layer == 0) sums_.at(kCount)[0] += static_cast<float>(job.q.dim[0] * shape_.group());
    engine_.backend().threads().for_each(shape_.heads, [&](int64_t head, int) {
      const int64_t at = layer * shape_.heads + head;
      float* const moment = sums_.at(kMoments).data() + at * dim * dim;
      float* const mean = sums_.at(kMeans).data() + at * dim;
      for (int64_t i = 0; i < job.q.dim[0]; ++i)
        for (int64_t g = head * shape_.group(); g < (head + 1) * shape_.group(); ++g) {
          const float* const q = job.q[i].row(g).data();
          for (int64_t a = 0; a < dim; ++a) {
            mean[a] += q[a];
            for (int64_t b = 0; b < dim; ++b) moment[a * dim + b] += q[a] * q[b];
          }
        }
    });
  }

 private:
  Engine& engine_;
  const KvShape& shape_;
  SampleSums& sums_;
};

// The eigenvector of the largest eigenvalue of a positive matrix, and that eigenvalue. Powers of
// the matrix by squaring, so that close eigenvalues come apart too.
double main_direction(std::span<const float> matrix, std::span<float> direction) {
  const size_t n = direction.size();
  double trace = 0;
  for (size_t i = 0; i < n; ++i) trace += matrix[i * n + i];
  std::vector<double> power(n * n), next(n * n);
  for (size_t i = 0; i < power.size(); ++i) power[i] = trace > 0 ? matrix[i] / trace : 0;
  for (int squaring = 0; squaring < 24; ++squaring) {
    double sum = 0;
    for (size_t r = 0; r < n; ++r)
      for (size_t c = 0; c < n; ++c) {
        double x = 0;
        for (size_t i = 0; i < n; ++i) x += power[r * n + i] * power[i * n + c];
        next[r * n + c] = x;
        if (r == c) sum += x;
      }
    if (!(sum > 0)) break;
    for (size_t i = 0; i < power.size(); ++i) power[i] = next[i] / sum;
  }
  // Every column is the direction by now; the longest one says it best.
  size_t longest = 0;
  for (size_t i = 0; i < n; ++i)
    if (power[i * n + i] > power[longest * n + longest]) longest = i;
  double length = 0, value = 0;
  for (size_t i = 0; i < n; ++i) length += power[i * n + longest] * power[i * n + longest];
  length = std::sqrt(length);
  for (size_t i = 0; i < n; ++i)
    direction[i] = length > 0 ? static_cast<float>(power[i * n + longest] / length) : 0.0f;
  for (size_t r = 0; r < n; ++r)
    for (size_t c = 0; c < n; ++c)
      value += double{direction[r]} * double{matrix[r * n + c]} * double{direction[c]};
  return trace > 0 ? value / trace : 0;
}

}  // namespace

QueryFinding find_queries(Engine& engine, std::span<const std::vector<int32_t>> prompts,
                          const std::string& progress_file, Monitor& monitor) {
  const ModelConfig& config = engine.model().config();
  const KvShape& shape = config.shape;
  const auto heads = static_cast<size_t>(shape.layers) * static_cast<size_t>(shape.heads);
  const auto dim = static_cast<size_t>(shape.dim);
  if (prompts.empty()) throw Error(Errc::bad_request, "the text has no tokens");
  SampleSums sums(
      progress_file, "queries " + config.digest + " " + text_digest(prompts),
      {{"moments",
        {shape.dim, shape.dim, shape.heads, shape.layers},
        std::vector<float>(heads * dim * dim, 0.0f)},
       {"means", {shape.dim, shape.heads, shape.layers}, std::vector<float>(heads * dim, 0.0f)},
       {"count", {1}, {0.0f}}});
  const int64_t samples = static_cast<int64_t>(prompts.size());
  while (sums.done() < samples) {
    monitor.progress("prompts", sums.done(), samples);
    monitor.check();
    QueryObserver observer(engine, sums);
    look_at_prompt(engine, prompts[static_cast<size_t>(sums.done())], observer, monitor);
    sums.finish_sample();
  }
  monitor.progress("prompts", samples, samples);

  QueryFinding finding;
  finding.direction.resize(heads * dim);
  finding.mean.assign(sums.at(kMeans).begin(), sums.at(kMeans).end());
  finding.share.resize(heads);
  for (float& x : finding.mean) x /= std::max(1.0f, sums.at(kCount)[0]);
  engine.backend().threads().for_each(static_cast<int64_t>(heads), [&](int64_t task, int) {
    const auto head = static_cast<size_t>(task);
    const std::span<float> direction = std::span(finding.direction).subspan(head * dim, dim);
    finding.share[head] = static_cast<float>(main_direction(
        std::as_const(sums).at(kMoments).subspan(head * dim * dim, dim * dim), direction));
    double towards = 0;
    for (size_t d = 0; d < dim; ++d) towards += direction[d] * finding.mean[head * dim + d];
    if (towards < 0)
      for (float& x : direction) x = -x;
  });
  return finding;
}

std::vector<CalibrationTensor> query_tensors(const QueryFinding& finding, const KvShape& shape) {
  const std::vector<int64_t> vectors = {shape.dim, shape.heads, shape.layers};
  return {{"queries.direction", vectors, finding.direction},
          {"queries.mean", vectors, finding.mean},
          {"queries.share", {shape.heads, shape.layers}, finding.share}};
}

}  // namespace pith

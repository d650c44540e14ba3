#include "calibrate/entropy.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/parallel.h"
#include "policy/entropy.h"
#include "policy/observer.h"
#include "runtime/engine.h"

namespace pith {
namespace {

enum Sum : size_t { kHeads, kVotes };

// Sizes of the groups that `heads` fall into, as even as can be.
int group_size(int heads, int groups, int group) {
  return heads / groups + (group < heads % groups ? 1 : 0);
}

// Keeps the queries of one layer until all are there.
class EntropyObserver final : public PromptObserver {
 public:
  EntropyObserver(Engine& engine, int64_t rows, const EntropyOptions& options, int groups,
                  SampleSums& sums)
      : engine_(engine),
        shape_(engine.model().config().shape),
        rows_(rows),
        options_(options),
        groups_(groups),
        sums_(sums),
        queries_(static_cast<size_t>(rows * shape_.query_heads * shape_.dim)) {}

  bool wants_tensors(int) const override { return true; }

  void attended(int layer, const DenseAttention& job) override {
    const int64_t width = int64_t{shape_.query_heads} * shape_.dim;
    for (int64_t i = 0; i < job.q.dim[0]; ++i)
      std::copy_n(job.q[i].data, width, queries_.begin() + (job.first_row + i) * width);
    if (job.first_row + job.q.dim[0] == rows_) finish(layer);
  }

 private:
  void finish(int layer) {
    const int64_t width = int64_t{shape_.query_heads} * shape_.dim;
    std::vector<double> entropy(static_cast<size_t>(shape_.query_heads));
    engine_.backend().threads().for_each(shape_.query_heads, [&](int64_t head, int) {
      const ConstMat rows{queries_.data() + head * shape_.dim, {rows_, shape_.dim}, {width, 1}};
      entropy[static_cast<size_t>(head)] = truncated_entropy(spectrum(rows), options_.keep);
    });
    std::vector<double> of_group(static_cast<size_t>(shape_.heads));
    for (int h = 0; h < shape_.query_heads; ++h) {
      sums_.at(kHeads)[static_cast<size_t>(layer * shape_.query_heads + h)] +=
          static_cast<float>(entropy[static_cast<size_t>(h)]);
      of_group[static_cast<size_t>(h / shape_.group())] += entropy[static_cast<size_t>(h)];
    }
    std::vector<int> order(static_cast<size_t>(shape_.heads));
    std::iota(order.begin(), order.end(), 0);
    std::ranges::stable_sort(order, std::greater(),
                             [&](int h) { return of_group[static_cast<size_t>(h)]; });
    int next = 0;
    for (int group = 0; group < groups_; ++group)
      for (int i = 0; i < group_size(shape_.heads, groups_, group); ++i)
        ++sums_.at(kVotes)[static_cast<size_t>(
            (layer * shape_.heads + order[static_cast<size_t>(next++)]) * groups_ + group)];
  }

  Engine& engine_;
  const KvShape& shape_;
  int64_t rows_;
  EntropyOptions options_;
  int groups_;
  SampleSums& sums_;
  std::vector<float> queries_;  // [rows, query_heads, dim]
};

}  // namespace

std::vector<int> layer_stages(std::span<const float> rank, double fall) {
  std::vector<int> stages;
  for (size_t l = 0; l < rank.size(); ++l)
    stages.push_back(l == 0 ? 0 : stages.back() + (rank[l] - rank[l - 1] < -fall ? 1 : 0));
  return stages;
}

std::vector<int> vote_groups(std::span<const float> votes, int heads, int groups) {
  std::vector<int> chosen(static_cast<size_t>(heads), -1);
  for (int turn = 0; turn < groups; ++turn) {
    const int group = turn % 2 == 0 ? turn / 2 : groups - 1 - turn / 2;  // 0, last, 1, ...
    std::vector<int> left;
    for (int h = 0; h < heads; ++h)
      if (chosen[static_cast<size_t>(h)] < 0) left.push_back(h);
    std::ranges::stable_sort(left, std::greater(),
                             [&](int h) { return votes[static_cast<size_t>(h * groups + group)]; });
    left.resize(static_cast<size_t>(group_size(heads, groups, group)));
    for (const int h : left) chosen[static_cast<size_t>(h)] = group;
  }
  return chosen;
}

EntropyFinding find_entropy(Engine& engine, std::span<const std::vector<int32_t>> prompts,
                            const EntropyOptions& options, const std::string& progress_file,
                            Monitor& monitor) {
  const ModelConfig& config = engine.model().config();
  const KvShape& shape = config.shape;
  const int groups = std::clamp(options.groups, 1, shape.heads);
  std::vector<CalibrationTensor> zero = {
      {"heads",
       {shape.query_heads, shape.layers},
       std::vector<float>(static_cast<size_t>(shape.query_heads * shape.layers), 0.0f)},
      {"votes",
       {groups, shape.heads, shape.layers},
       std::vector<float>(static_cast<size_t>(groups * shape.heads * shape.layers), 0.0f)}};
  SampleSums sums(progress_file,
                  "entropy " + config.digest + " " + std::to_string(options.keep) + " " +
                      std::to_string(groups) + " " + text_digest(prompts),
                  std::move(zero));
  const int64_t samples = static_cast<int64_t>(prompts.size());
  for (const std::vector<int32_t>& prompt : prompts)
    if (prompt.size() < 2)
      throw Error(Errc::bad_request, "an entropy needs prompts of two tokens at least");
  if (samples == 0) throw Error(Errc::bad_request, "the text has no tokens");
  while (sums.done() < samples) {
    monitor.progress("prompts", sums.done(), samples);
    monitor.check();
    const std::vector<int32_t>& prompt = prompts[static_cast<size_t>(sums.done())];
    EntropyObserver observer(engine, static_cast<int64_t>(prompt.size()), options, groups, sums);
    look_at_prompt(engine, prompt, observer, monitor);
    sums.finish_sample();
  }
  monitor.progress("prompts", samples, samples);

  EntropyFinding finding;
  for (const float sum : sums.at(kHeads))
    finding.heads.push_back(sum / static_cast<float>(samples));
  for (int l = 0; l < shape.layers; ++l) {
    double mean = 0, rank = 0;
    for (int h = 0; h < shape.query_heads; ++h) {
      const double entropy = finding.heads[static_cast<size_t>(l * shape.query_heads + h)];
      mean += entropy / shape.query_heads;
      rank += std::exp(entropy * std::log(shape.dim)) / shape.query_heads;
    }
    finding.layers.push_back(static_cast<float>(mean));
    finding.rank.push_back(static_cast<float>(rank));
    const auto votes = std::as_const(sums).at(kVotes).subspan(
        static_cast<size_t>(l * shape.heads * groups), static_cast<size_t>(shape.heads * groups));
    const std::vector<int> chosen = vote_groups(votes, shape.heads, groups);
    finding.group.insert(finding.group.end(), chosen.begin(), chosen.end());
  }
  finding.stage = layer_stages(finding.rank, options.fall);
  return finding;
}

std::vector<CalibrationTensor> entropy_tensors(const EntropyFinding& finding,
                                               const KvShape& shape) {
  return {
      {"entropy.heads", {shape.query_heads, shape.layers}, finding.heads},
      {"entropy.layers", {shape.layers}, finding.layers},
      {"entropy.rank", {shape.layers}, finding.rank},
      {"entropy.stage", {shape.layers}, {finding.stage.begin(), finding.stage.end()}},
      {"entropy.group", {shape.heads, shape.layers}, {finding.group.begin(), finding.group.end()}}};
}

}  // namespace pith

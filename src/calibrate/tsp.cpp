#include "calibrate/tsp.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>

#include "base/error.h"
#include "calibrate/calibration_file.h"
#include "policy/defaults.h"
#include "policy/select.h"
#include "runtime/engine.h"

namespace pith {
namespace {

// Scores like FastKV and writes down the sum over the heads, for the rows a router chooses among.
class Recorder final : public Scorer {
 public:
  Recorder(const TspOptions& options, LayerScores& into)
      : vote_(window_vote({.window = options.window, .width = options.width, .pool = Pool::max})),
        window_(options.window),
        into_(into) {}

  Demand demand() const override { return vote_->demand(); }

  void score_prompt(const LayerTap& tap, Mat scores) const override {
    vote_->score_prompt(tap, scores);
    std::vector<float> total(static_cast<size_t>(std::max<int64_t>(0, scores.dim[1] - window_)));
    for (int h = 0; h < tap.shape.heads; ++h)
      for (size_t r = 0; r < total.size(); ++r) total[r] += scores.row(h)[r];
    into_.push_back(std::move(total));
  }

 private:
  std::unique_ptr<const Scorer> vote_;
  int window_;
  LayerScores& into_;
};

// Prompts are only looked at: nothing needs to stay in the cache.
std::shared_ptr<const Policy> recording_policy(const TspOptions& options, LayerScores& into) {
  auto policy = std::make_shared<Policy>();
  policy->spec = "the search for FastKV's layer";
  policy->scorer = std::make_unique<Recorder>(options, into);
  policy->budget = even_budget({.rows = 1}, 0);
  policy->reducer = keep_best();
  return policy;
}

}  // namespace

std::vector<double> overlap_with_later_layers(const LayerScores& scores, double rate) {
  const size_t layers = scores.size();
  if (layers < 2) return {};
  const size_t tokens = scores[0].size();
  const int count = std::max(1, static_cast<int>(std::lround(rate * static_cast<double>(tokens))));
  std::vector<std::vector<int32_t>> best(layers);
  for (size_t l = 0; l < layers; ++l) {
    PITH_CHECK(scores[l].size() == tokens, "all layers score the same tokens");
    top_rows(scores[l], count, best[l]);
  }
  std::vector<double> overlap(layers - 1);
  std::vector<int32_t> common;
  for (size_t l = 0; l + 1 < layers; ++l) {
    size_t shared = 0;
    for (size_t later = l + 1; later < layers; ++later) {
      common.clear();
      std::ranges::set_intersection(best[l], best[later], std::back_inserter(common));
      shared += common.size();
    }
    const size_t pairs = (layers - 1 - l) * std::max<size_t>(1, best[l].size());
    overlap[l] = static_cast<double>(shared) / static_cast<double>(pairs);
  }
  return overlap;
}

int first_settled_layer(std::span<const double> overlap, double slack) {
  if (overlap.empty()) return 0;
  const double enough = *std::ranges::max_element(overlap) - slack;
  const auto first = std::ranges::find_if(overlap, [&](double o) { return o >= enough; });
  return static_cast<int>(first - overlap.begin());
}

TspFinding find_tsp_layer(Engine& engine, std::span<const std::vector<int32_t>> prompts,
                          const TspOptions& options, Monitor& monitor) {
  const KvShape& shape = engine.model().config().shape;
  std::vector<size_t> asked;  // layers
  for (int l = 0; l < shape.layers; ++l)
    if (shape.window(l) == 0) asked.push_back(static_cast<size_t>(l));
  if (asked.empty()) {
    asked.resize(static_cast<size_t>(shape.layers));
    std::iota(asked.begin(), asked.end(), size_t{0});
  }
  TspFinding finding;
  finding.overlap.resize(static_cast<size_t>(std::max(0, shape.layers - 1)));
  OnlyStops stops(monitor);
  int64_t done = 0;
  for (const std::vector<int32_t>& prompt : prompts) {
    monitor.progress("prompts", done++, static_cast<int64_t>(prompts.size()));
    if (prompt.size() <= static_cast<size_t>(options.window)) continue;
    LayerScores scores;
    const auto session = engine.open(recording_policy(options, scores));
    engine.prefill(*session, prompt, stops);
    LayerScores answers;
    for (const size_t l : asked) answers.push_back(std::move(scores[l]));
    const std::vector<double> overlap = overlap_with_later_layers(answers, options.rate);
    for (size_t i = 0; i < overlap.size(); ++i) finding.overlap[asked[i]] += overlap[i];
    ++finding.prompts;
  }
  monitor.progress("prompts", done, static_cast<int64_t>(prompts.size()));
  if (finding.prompts == 0)
    throw Error(Errc::bad_request, "none of the " + std::to_string(prompts.size()) +
                                       " prompts is longer than the window of " +
                                       std::to_string(options.window) + " tokens");
  for (double& o : finding.overlap) o /= finding.prompts;
  finding.layer = first_settled_layer(finding.overlap);
  if (asked.size() == 1) finding.layer = static_cast<int>(asked[0]);
  return finding;
}

void save_tsp_layer(const std::string& path, std::string_view model_digest,
                    const TspFinding& finding, std::string_view text_digest) {
  std::vector<CalibrationTensor> tensors = {
      {"tsp.layer", {1}, {static_cast<float>(finding.layer)}}};
  if (!finding.overlap.empty())
    tensors.push_back({"tsp.overlap",
                       {static_cast<int64_t>(finding.overlap.size())},
                       {finding.overlap.begin(), finding.overlap.end()}});
  add_calibration(path, model_digest,
                  {.kind = "tsp",
                   .made_by = "pith calibrate tsp",
                   .text_digest = std::string(text_digest),
                   .seed = 0},
                  tensors);
}

}  // namespace pith

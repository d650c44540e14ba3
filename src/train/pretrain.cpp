#include "train/pretrain.h"

#include <algorithm>
#include <chrono>
#include <filesystem>

#include "base/error.h"
#include "base/output_file.h"
#include "train/checkpoint.h"
#include "train/materials.h"

namespace pith {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr uint64_t kHeldOutRows = uint64_t{1}
                                  << 42;  // numbers of rows that training never comes to
constexpr int kMeasuredRows = 32;         // a multiple of a step's parts
constexpr int64_t kStepsPerRow = 20;      // of loss.csv

class Run {
 public:
  Run(const TrainConfig& config, const PretrainOptions& options, Monitor& monitor,
      const std::function<void(const CurvePoint&)>& report)
      : config_(config),
        options_(options),
        monitor_(monitor),
        report_(report),
        folder_(make_folder(options.folder)),
        materials_(prepare_materials(config, folder_, monitor)),
        learner_(config.shape, learner_options()) {
    if (fs::exists(path("checkpoint.gguf"))) {
      Progressed progress = read_checkpoint(path("checkpoint.gguf"), config.shape);
      learner_.set_state(progress.state);
      steps_ = progress.state.steps;
      tokens_ = progress.tokens;
      seconds_ = progress.seconds;
    } else {
      learner_.set_parameters(
          first_weights(config.shape, config.beginning, materials_.learnt->shares(), config.seed));
    }
    next_measure_ = (tokens_ / config.measure_tokens + 1) * config.measure_tokens;
  }

  void go() {
    CurveFile curve(path("loss.csv"), steps_);
    curve_ = &curve;
    started_ = Clock::now();
    auto saved = started_;
    if (steps_ == 0) measure();
    const int64_t last = options_.stop_after > 0 ? steps_ + options_.stop_after : INT64_MAX;
    std::vector<CurvePoint> row;
    while (tokens_ < config_.total_tokens() && steps_ < last) {
      if (monitor_.stopped()) {
        save();
        monitor_.check();
      }
      row.push_back(step());
      report_(row.back());
      const bool whole = steps_ % kStepsPerRow == 0;
      if (whole || steps_ == last) {
        curve.add(mean_of(row));
        row.clear();
      }
      if (tokens_ >= next_measure_) measure();
      // Only between rows of the curve, so that a run that was killed writes the same rows again.
      if (whole && Clock::now() - saved > std::chrono::seconds(config_.checkpoint_seconds)) {
        save();
        saved = Clock::now();
      }
      monitor_.progress("training", tokens_, config_.total_tokens());
    }
    save();
    if (tokens_ >= config_.total_tokens()) finish();
  }

 private:
  static std::string make_folder(const std::string& folder) {
    std::error_code error;
    fs::create_directories(folder, error);
    if (error) throw Error(Errc::io, folder + ": cannot be made: " + error.message());
    return folder;
  }
  std::string path(const std::string& name) const { return (fs::path(folder_) / name).string(); }

  LearnerOptions learner_options() const {
    LearnerOptions o;
    o.device = options_.device;
    o.bf16 = options_.bf16;
    o.threads = options_.threads;
    o.recompute_from = config_.recompute_from;
    o.weights = {static_cast<float>(config_.context_weight), 1, 1,
                 static_cast<float>(config_.answer_weight)};
    o.beta1 = config_.beta1;
    o.beta2 = config_.beta2;
    o.decay = config_.decay;
    o.clip = config_.clip;
    return o;
  }

  Batch rows_of(const Stage& stage, const Corpus& corpus, uint64_t number, int first,
                int last) const {
    return make_rows(config_, stage, *materials_.tokenizer, corpus, number, first, last);
  }

  // How a step's rows are cut: no part holds more tokens than 4,096, so that threads share the work
  // and memory stays small.
  int parts_of(int rows, int length) const {
    constexpr int kTokensPerPart = 4096;
    const int needed = (rows * length + kTokensPerPart - 1) / kTokensPerPart;
    const int rounded = (needed + config_.parts - 1) / config_.parts * config_.parts;
    return std::clamp(rounded, 1, rows);
  }

  CurvePoint step() {
    const Stage& stage = stage_at(config_, tokens_);
    const double rate = rate_at(config_, tokens_);
    const int parts = parts_of(stage.rows, stage.length);
    const uint64_t counter = static_cast<uint64_t>(steps_) << 16;
    const StepResult result = learner_.step(
        parts,
        [&](int part) {
          return rows_of(stage, *materials_.learnt, counter, stage.rows * part / parts,
                         stage.rows * (part + 1) / parts);
        },
        rate);
    ++steps_;
    tokens_ += int64_t{stage.rows} * stage.length;
    CurvePoint point;
    point.step = steps_;
    point.tokens = tokens_;
    point.length = stage.length;
    point.rate = rate;
    point.seconds = elapsed();
    point.loss = result.loss;
    point.score = result.score;
    return point;
  }

  // The last of the points, with the mean loss and all targets.
  static CurvePoint mean_of(const std::vector<CurvePoint>& points) {
    CurvePoint mean = points.back();
    mean.loss = 0;
    mean.score = {};
    for (const CurvePoint& point : points) {
      mean.loss += point.loss / static_cast<double>(points.size());
      mean.score += point.score;
    }
    return mean;
  }

  void measure() {
    const Stage& stage = stage_at(config_, tokens_);
    const int rows = std::max(2, std::min(kMeasuredRows, 32768 / stage.length));
    const int parts = parts_of(rows, stage.length);
    CurvePoint point;
    point.step = steps_;
    point.tokens = tokens_;
    point.held_out = true;
    point.length = stage.length;
    point.rate = rate_at(config_, tokens_);
    point.score = learner_.measure(parts, [&](int part) {
      return rows_of(stage, *materials_.held_out, kHeldOutRows, rows * part / parts,
                     rows * (part + 1) / parts);
    });
    double targets = 0;
    for (const RoleScore& role : point.score.roles) {
      point.loss += role.loss;
      targets += static_cast<double>(role.targets);
    }
    if (targets > 0) point.loss /= targets;
    point.seconds = elapsed();
    curve_->add(point);
    report_(point);
    next_measure_ = (tokens_ / config_.measure_tokens + 1) * config_.measure_tokens;
  }

  double elapsed() const {
    return seconds_ + std::chrono::duration<double>(Clock::now() - started_).count();
  }

  ModelFacts facts() const {
    ModelFacts facts;
    facts.name = config_.name;
    facts.description = config_.description;
    facts.seed = config_.seed;
    facts.tokens = tokens_;
    facts.shape = config_.shape;
    facts.vocabulary = &materials_.vocabulary;
    return facts;
  }

  void save() {
    write_checkpoint(path("checkpoint.gguf"), facts(), {learner_.state(), tokens_, elapsed()});
    write_file(path("loss.svg"), curve_svg(curve_->points(), config_.name));
  }

  void finish() {
    measure();
    const std::vector<float> parameters = learner_.parameters();
    export_model(path(config_.name + "-f16.gguf"), facts(), parameters, DType::f16);
    export_model(path(config_.name + "-q8_0.gguf"), facts(), parameters, DType::q8_0);
  }

  const TrainConfig& config_;
  const PretrainOptions& options_;
  Monitor& monitor_;
  const std::function<void(const CurvePoint&)>& report_;
  const std::string folder_;
  Materials materials_;
  Learner learner_;
  CurveFile* curve_ = nullptr;
  int64_t steps_ = 0, tokens_ = 0, next_measure_ = 0;
  double seconds_ = 0;
  Clock::time_point started_;
};

}  // namespace

void pretrain(const TrainConfig& config, const PretrainOptions& options, Monitor& monitor,
              const std::function<void(const CurvePoint&)>& report) {
  Run(config, options, monitor, report).go();
}

}  // namespace pith

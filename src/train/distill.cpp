#include "train/distill.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>

#include "base/error.h"
#include "base/output_file.h"
#include "gguf/gguf.h"
#include "model/model.h"
#include "train/adapter_file.h"
#include "train/checkpoint.h"
#include "train/corpus.h"
#include "train/distill_samples.h"
#include "train/materials.h"

namespace pith {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

// Numbers of samples that training never comes to.
constexpr uint64_t kHeldOut = uint64_t{1} << 40;
constexpr uint64_t kMeasured = 12;
constexpr double kBudgets[] = {0.25, 0.1, 0.05};
constexpr int64_t kStepsPerRow = 10;  // of loss.csv

AdapterFacts facts_of(const DistillConfig& config, const GgufFile& file) {
  AdapterFacts facts;
  facts.name = config.name;
  facts.seed = config.seed;
  facts.network = read_shape(file);
  if (facts.network.vocab > 65536)
    throw Error(Errc::unsupported,
                file.path() + ": the trainer takes vocabularies of up to 65536 tokens");
  if (config.length > facts.network.context)
    throw Error(Errc::bad_option, "'length' is " + std::to_string(config.length) +
                                      " and the model's context " +
                                      std::to_string(facts.network.context));
  facts.network.context = config.length;
  facts.adapter = config.adapter;
  constexpr int kLayer = 6;  // the paper's
  facts.adapter.layer =
      config.layer >= 0 ? config.layer : std::min(kLayer, std::max(0, facts.network.layers - 2));
  facts.adapter.hidden = config.scorer_width >= 0 ? config.scorer_width : facts.network.width;
  check_adapter(facts.adapter, facts.network);
  return facts;
}

class Run {
 public:
  Run(const DistillConfig& config, const DistillOptions& options, Monitor& monitor,
      const std::function<void(const CurvePoint&)>& report)
      : config_(config),
        options_(options),
        monitor_(monitor),
        report_(report),
        file_(GgufFile::open(config.model)),
        facts_(facts_of(config, *file_)),
        tokenizer_(Tokenizer::load(*file_)),
        texts_(read_split(config.texts, config.held_out)),
        learnt_(texts_.learnt, *tokenizer_, monitor),
        held_out_(texts_.held_out.empty() ? texts_.learnt : texts_.held_out, *tokenizer_, monitor),
        distiller_(facts_.network, read_parameters(*file_, facts_.network), facts_.adapter,
                   learner_options()) {
    facts_.model_digest = Model::load(file_)->config().digest;
    std::error_code error;
    fs::create_directories(options.folder, error);
    if (error) throw Error(Errc::io, options.folder + ": cannot be made: " + error.message());
    if (fs::exists(path("checkpoint.gguf"))) {
      const DistillProgress progress = read_distill_checkpoint(path("checkpoint.gguf"), facts_);
      distiller_.set_state(progress.state);
      steps_ = progress.state.steps;
      tokens_ = progress.tokens;
      seconds_ = progress.seconds;
    } else {
      const AdapterLayout layout(facts_.network, facts_.adapter);
      distiller_.set_state({first_adapter(layout, config.seed), {}, {}, 0});
    }
  }

  void go() {
    CurveFile curve(path("loss.csv"), steps_);
    curve_ = &curve;
    started_ = Clock::now();
    auto saved = started_;
    if (steps_ == 0) measure();
    const int64_t last = options_.stop_after > 0 ? steps_ + options_.stop_after : INT64_MAX;
    std::vector<CurvePoint> row;
    while (steps_ < config_.steps && steps_ < last) {
      if (monitor_.stopped()) {
        save();
        monitor_.check();
      }
      row.push_back(step());
      report_(row.back());
      const bool whole = steps_ % kStepsPerRow == 0;
      if (whole || steps_ == last || steps_ == config_.steps) {
        curve.add(mean_of(row));
        row.clear();
      }
      if (steps_ % config_.measure_steps == 0 || steps_ == config_.steps) measure();
      // Only between rows of the curve, so that a run that was killed writes the same rows again.
      if (whole && Clock::now() - saved > std::chrono::seconds(config_.checkpoint_seconds)) {
        save();
        saved = Clock::now();
      }
      monitor_.progress("distilling", steps_, config_.steps);
    }
    save();
  }

 private:
  std::string path(const std::string& name) const {
    return (fs::path(options_.folder) / name).string();
  }

  DistillerOptions learner_options() const {
    DistillerOptions options = config_.learner;
    options.threads = options_.threads;
    return options;
  }

  DistillSample sample(const Corpus& corpus, uint64_t number) const {
    return make_distill_sample(config_, {*tokenizer_, corpus}, number);
  }

  CurvePoint point(const DistillScore& score) const {
    CurvePoint point;
    point.step = steps_;
    point.tokens = tokens_;
    point.length = config_.length;
    point.rate = rate_at(config_, std::max<int64_t>(0, steps_ - 1));
    point.seconds = elapsed();
    point.score.roles[static_cast<size_t>(TokenRole::answer)] = {score.forward, score.targets,
                                                                 score.agree};
    return point;
  }

  CurvePoint step() {
    const auto first = static_cast<uint64_t>(steps_) * static_cast<uint64_t>(config_.rows);
    std::vector<int64_t> tokens(static_cast<size_t>(config_.rows));
    const DistillStep result = distiller_.step(
        config_.rows,
        [&](int i) {
          DistillSample made = sample(learnt_, first + static_cast<uint64_t>(i));
          tokens[static_cast<size_t>(i)] = static_cast<int64_t>(made.tokens.size());
          return made;
        },
        rate_at(config_, steps_));
    ++steps_;
    for (const int64_t count : tokens) tokens_ += count;
    CurvePoint out = point(result.score);
    out.loss = result.loss;
    return out;
  }

  // The last of the points, with the mean loss and all targets.
  static CurvePoint mean_of(const std::vector<CurvePoint>& points) {
    CurvePoint mean = points.back();
    mean.loss = 0;
    mean.score = {};
    for (const CurvePoint& p : points) {
      mean.loss += p.loss / static_cast<double>(points.size());
      mean.score += p.score;
    }
    return mean;
  }

  void measure() {
    DistillScore sum;
    for (uint64_t i = 0; i < kMeasured; ++i) {
      DistillSample made = sample(held_out_, kHeldOut + i);
      made.retention = kBudgets[i % std::size(kBudgets)];
      sum += distiller_.measure(made);
    }
    CurvePoint out = point(sum);
    out.held_out = true;
    const double forward = config_.learner.forward;
    out.loss = (forward * sum.forward + (1 - forward) * sum.reverse) /
               static_cast<double>(std::max<int64_t>(1, sum.targets));
    curve_->add(out);
    report_(out);
  }

  double elapsed() const {
    return seconds_ + std::chrono::duration<double>(Clock::now() - started_).count();
  }

  void save() {
    const LearnerState state = distiller_.state();
    write_distill_checkpoint(path("checkpoint.gguf"), facts_, {state, tokens_, elapsed()});
    write_adapter(path(config_.name + ".adapter.gguf"), facts_, state.parameters, DType::f32);
    const std::string svg = curve_svg(curve_->points(), config_.name);
    OutputFile out(path("loss.svg"));
    out.write(svg.data(), svg.size());
    out.commit();
  }

  const DistillConfig& config_;
  const DistillOptions& options_;
  Monitor& monitor_;
  const std::function<void(const CurvePoint&)>& report_;
  std::shared_ptr<const GgufFile> file_;
  AdapterFacts facts_;
  std::unique_ptr<Tokenizer> tokenizer_;
  SplitTexts texts_;
  Corpus learnt_, held_out_;
  Distiller distiller_;
  CurveFile* curve_ = nullptr;
  int64_t steps_ = 0, tokens_ = 0;
  double seconds_ = 0;
  Clock::time_point started_;
};

}  // namespace

void distill(const DistillConfig& config, const DistillOptions& options, Monitor& monitor,
             const std::function<void(const CurvePoint&)>& report) {
  Run(config, options, monitor, report).go();
}

}  // namespace pith

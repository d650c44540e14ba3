#include "train/distill.h"

#include <algorithm>
#include <filesystem>
#include <memory>

#include "base/error.h"
#include "gguf/gguf.h"
#include "model/model.h"
#include "train/adapter_file.h"
#include "train/checkpoint.h"
#include "train/corpus.h"
#include "train/distill_samples.h"
#include "train/materials.h"
#include "train/training_run.h"

namespace pith {
namespace {

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

class DistillRun final : public TrainingRun {
 public:
  DistillRun(const DistillConfig& config, const DistillOptions& options, Monitor& monitor,
             const std::function<void(const CurvePoint&)>& report)
      : TrainingRun({.name = config.name,
                     .folder = options.folder,
                     .work = "distilling",
                     .steps_per_row = kStepsPerRow,
                     .last_step = config.steps,
                     .stop_after = options.stop_after,
                     .checkpoint_seconds = config.checkpoint_seconds},
                    monitor, report),
        config_(config),
        options_(options),
        file_(GgufFile::open(config.model)),
        facts_(facts_of(config, *file_)),
        tokenizer_(Tokenizer::load(*file_)),
        texts_(read_split(config.texts, config.held_out)),
        learnt_(texts_.learnt, *tokenizer_, monitor),
        held_out_(texts_.held_out.empty() ? texts_.learnt : texts_.held_out, *tokenizer_, monitor),
        distiller_(facts_.network, read_parameters(*file_, facts_.network), facts_.adapter,
                   learner_options()) {
    facts_.model_digest = Model::load(file_)->config().digest;
    make_folder();
    if (std::filesystem::exists(checkpoint())) {
      const DistillProgress progress = read_distill_checkpoint(checkpoint(), facts_);
      distiller_.set_state(progress.state);
      go_on(progress.state.steps, progress.tokens, progress.seconds);
    } else {
      const AdapterLayout layout(facts_.network, facts_.adapter);
      distiller_.set_state({config.beginning.empty() ? first_adapter(layout, config.seed)
                                                     : read_adapter(config.beginning, facts_),
                            {},
                            {},
                            0});
    }
  }

 private:
  DistillerOptions learner_options() const {
    DistillerOptions options = config_.learner;
    options.threads = options_.threads;
    return options;
  }

  DistillSample sample(const Corpus& corpus, uint64_t number) const {
    return make_distill_sample(config_, {*tokenizer_, corpus}, number);
  }

  Progress progress() const override { return {steps(), config_.steps}; }

  CurvePoint point(const DistillScore& score, double rate) const {
    CurvePoint point;
    point.length = config_.length;
    point.rate = rate;
    point.score.roles[static_cast<size_t>(TokenRole::answer)] = {score.forward, score.targets,
                                                                 score.agree};
    return point;
  }

  CurvePoint learn(int64_t& learnt) override {
    const auto first = static_cast<uint64_t>(steps()) * static_cast<uint64_t>(config_.rows);
    const double rate = rate_at(config_, steps());
    std::vector<int64_t> counts(static_cast<size_t>(config_.rows));
    const DistillStep result = distiller_.step(
        config_.rows,
        [&](int i) {
          DistillSample made = sample(learnt_, first + static_cast<uint64_t>(i));
          counts[static_cast<size_t>(i)] = static_cast<int64_t>(made.tokens.size());
          return made;
        },
        rate);
    for (const int64_t count : counts) learnt += count;
    CurvePoint out = point(result.score, rate);
    out.loss = result.loss;
    return out;
  }

  bool measures_now() const override {
    return steps() % config_.measure_steps == 0 || steps() == config_.steps;
  }

  CurvePoint measured() override {
    DistillScore sum;
    for (uint64_t i = 0; i < kMeasured; ++i) {
      DistillSample made = sample(held_out_, kHeldOut + i);
      made.retention = kBudgets[i % std::size(kBudgets)];
      sum += distiller_.measure(made);
    }
    // The rate of the step before.
    CurvePoint out = point(sum, rate_at(config_, std::max<int64_t>(0, steps() - 1)));
    const double forward = config_.learner.forward;
    out.loss = (forward * sum.forward + (1 - forward) * sum.reverse) /
               static_cast<double>(std::max<int64_t>(1, sum.targets));
    return out;
  }

  void save_state() override {
    const LearnerState state = distiller_.state();
    write_distill_checkpoint(checkpoint(), facts_, {state, tokens(), elapsed()});
    write_adapter(path(config_.name + ".adapter.gguf"), facts_, state.parameters, DType::f32);
  }

  const DistillConfig& config_;
  const DistillOptions& options_;
  std::shared_ptr<const GgufFile> file_;
  AdapterFacts facts_;
  std::unique_ptr<Tokenizer> tokenizer_;
  SplitTexts texts_;
  Corpus learnt_, held_out_;
  Distiller distiller_;
};

}  // namespace

void distill(const DistillConfig& config, const DistillOptions& options, Monitor& monitor,
             const std::function<void(const CurvePoint&)>& report) {
  DistillRun(config, options, monitor, report).go();
}

}  // namespace pith

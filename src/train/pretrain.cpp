#include "train/pretrain.h"

#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "gguf/gguf.h"
#include "train/checkpoint.h"
#include "train/materials.h"
#include "train/training_run.h"

namespace pith {
namespace {

constexpr uint64_t kHeldOutRows = uint64_t{1}
                                  << 42;  // numbers of rows that training never comes to
constexpr int kMeasuredRows = 32;         // a multiple of a step's parts
constexpr int64_t kStepsPerRow = 20;      // of loss.csv

// The model a run begins with must be the configuration's network.
void check_first_model(const TrainConfig& config) {
  const auto file = GgufFile::open(config.first_model);
  const NetworkShape has = read_shape(*file), says = config.shape;
  const auto require = [&](bool same, const char* field) {
    if (!same)
      throw Error(Errc::bad_option, "beginning: " + file->path() + " has another '" + field +
                                        "' than the configuration");
  };
  require(has.vocab == says.vocab, "vocabulary_tokens");
  require(has.layers == says.layers, "layers");
  require(has.width == says.width, "width");
  require(has.query_heads == says.query_heads, "query_heads");
  require(has.heads == says.heads, "heads");
  require(has.dim == says.dim, "head_dim");
  require(has.ffn_width == says.ffn_width, "feed_forward");
  require(has.context == says.context, "context");
  require(static_cast<float>(has.rope_base) == static_cast<float>(says.rope_base), "rope_base");
  require(has.norm_eps == says.norm_eps, "norm_eps");
}

std::vector<float> weights_of_first_model(const TrainConfig& config, const Materials& materials) {
  const auto file = GgufFile::open(config.first_model);
  if (read_vocabulary_of(*file).tokens != materials.vocabulary.tokens)
    throw Error(Errc::bad_option, "beginning: " + file->path() +
                                      " has another vocabulary than the run's folder; train in "
                                      "another one");
  return read_parameters(*file, config.shape);
}

class PretrainRun final : public TrainingRun {
 public:
  PretrainRun(const TrainConfig& config, const PretrainOptions& options, Monitor& monitor,
              const std::function<void(const CurvePoint&)>& report)
      : TrainingRun({.name = config.name,
                     .folder = options.folder,
                     .work = "training",
                     .steps_per_row = kStepsPerRow,
                     .stop_after = options.stop_after,
                     .checkpoint_seconds = config.checkpoint_seconds},
                    monitor, report),
        config_(config),
        options_(options),
        materials_(prepare_materials(config, ready_folder(), monitor)),
        learner_(config.shape, learner_options()) {
    if (std::filesystem::exists(checkpoint())) {
      const Progressed progress = read_checkpoint(checkpoint(), config.shape);
      learner_.set_state(progress.state);
      go_on(progress.state.steps, progress.tokens, progress.seconds);
    } else {
      learner_.set_parameters(config.first_model.empty()
                                  ? first_weights(config.shape, config.beginning,
                                                  materials_.learnt->shares(), config.seed)
                                  : weights_of_first_model(config, materials_));
    }
    set_next_measure();
  }

 private:
  LearnerOptions learner_options() const {
    LearnerOptions o;
    o.device = options_.device;
    o.bf16 = options_.bf16;
    o.threads = options_.threads;
    o.recompute_from = config_.recompute_from;
    o.weights = {static_cast<float>(config_.context_weight), 1,
                 static_cast<float>(config_.copy_weight),
                 static_cast<float>(config_.answer_weight)};
    o.beta1 = config_.beta1;
    o.beta2 = config_.beta2;
    o.decay = config_.decay;
    o.clip = config_.clip;
    return o;
  }

  const std::string& ready_folder() const {
    const std::string& folder = make_folder();
    if (!config_.first_model.empty() && !std::filesystem::exists(checkpoint()))
      check_first_model(config_);
    return folder;
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

  Progress progress() const override { return {tokens(), config_.total_tokens()}; }

  CurvePoint learn(int64_t& learnt) override {
    const Stage& stage = stage_at(config_, tokens());
    CurvePoint point;
    point.length = stage.length;
    point.rate = rate_at(config_, tokens());
    const int parts = parts_of(stage.rows, stage.length);
    const uint64_t counter = static_cast<uint64_t>(steps()) << 16;
    const StepResult result = learner_.step(
        parts,
        [&](int part) {
          return rows_of(stage, *materials_.learnt, counter, stage.rows * part / parts,
                         stage.rows * (part + 1) / parts);
        },
        point.rate);
    learnt += int64_t{stage.rows} * stage.length;
    point.loss = result.loss;
    point.score = result.score;
    return point;
  }

  bool measures_now() const override { return tokens() >= next_measure_; }
  void set_next_measure() {
    next_measure_ = (tokens() / config_.measure_tokens + 1) * config_.measure_tokens;
  }

  CurvePoint measured() override {
    const Stage& stage = stage_at(config_, tokens());
    const int rows = std::max(2, std::min(kMeasuredRows, 32768 / stage.length));
    const int parts = parts_of(rows, stage.length);
    CurvePoint point;
    point.length = stage.length;
    point.rate = rate_at(config_, tokens());
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
    set_next_measure();
    return point;
  }

  ModelFacts facts() const {
    ModelFacts facts;
    facts.name = config_.name;
    facts.description = config_.description;
    facts.seed = config_.seed;
    facts.tokens = tokens();
    facts.shape = config_.shape;
    facts.vocabulary = &materials_.vocabulary;
    return facts;
  }

  void save_state() override {
    write_checkpoint(checkpoint(), facts(), {learner_.state(), tokens(), elapsed()});
  }

  void finish() override {
    measure();
    const std::vector<float> parameters = learner_.parameters();
    export_model(path(config_.name + "-f16.gguf"), facts(), parameters, DType::f16);
    export_model(path(config_.name + "-q8_0.gguf"), facts(), parameters, DType::q8_0);
  }

  const TrainConfig& config_;
  const PretrainOptions& options_;
  Materials materials_;
  Learner learner_;
  int64_t next_measure_ = 0;
};

}  // namespace

void pretrain(const TrainConfig& config, const PretrainOptions& options, Monitor& monitor,
              const std::function<void(const CurvePoint&)>& report) {
  PretrainRun(config, options, monitor, report).go();
}

}  // namespace pith

// KV-Distill's training: gradients against finite differences, whole runs, and students that the
// engine answers like.
#include "train/distill.h"

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <map>
#include <torch/autograd.h>

#include "base/error.h"
#include "gguf/gguf.h"
#include "policy/adapter.h"
#include "runtime/engine.h"
#include "support/network_shapes.h"
#include "support/small_texts.h"
#include "train/adapter_file.h"
#include "train/beginning.h"
#include "train/checkpoint.h"
#include "train/distill_samples.h"
#include "train/materials.h"
#include "train/student.h"

namespace pith {
namespace {

namespace fs = std::filesystem;
using torch::Tensor;

Tensor random_values(int64_t size, int seed) {
  const at::Generator generator = at::detail::createCPUGenerator(static_cast<uint64_t>(seed));
  return torch::randn({size}, generator, torch::kFloat64);
}

DistillSample small_sample(int context, int tokens) {
  DistillSample sample;
  for (int i = 0; i < tokens; ++i) sample.tokens.push_back((i * i + 7 * i) % 40);
  sample.context = context;
  for (int i = context + 1; i < tokens; i += 2) sample.rows.push_back(i);
  sample.retention = 0.3;
  return sample;
}

struct GradientCase {
  Damping damping;
  int hidden, fold;
};

class DistillGradient : public ::testing::TestWithParam<GradientCase> {};

TEST_P(DistillGradient, IsTheSlopeOfTheLossForEveryTensor) {
  const NetworkShape shape = test::small_shape(3, 256);
  AdapterShape adapter;
  adapter.layer = 1;
  adapter.rank = 3;
  adapter.alpha = 2;
  adapter.hidden = GetParam().hidden;
  adapter.fold = GetParam().fold;
  const Tensor weights = random_values(ParameterLayout(shape).size(), 5) * 0.3;
  const Network network(shape, weights, Tensor(), torch::kFloat32);
  const AdapterLayout layout(shape, adapter);
  Tensor parameters = random_values(layout.size(), 6) * 0.3;
  Tensor gradients = torch::zeros_like(parameters);
  const Student student(network, shape, adapter, parameters, gradients);
  const DistillSample sample = small_sample(150, 162);
  const auto loss = [&] {
    const Divergence d = divergence(student.logits(sample, GetParam().damping));
    return 0.6 * d.forward.sum() + 0.4 * d.reverse.sum();
  };
  loss().backward();
  const torch::NoGradGuard guard;
  int moved = 0;
  for (const Parameter& p : layout.all()) {
    const Tensor direction = random_values(p.size(), static_cast<int>(p.offset));
    const double slope = (gradients.narrow(0, p.offset, p.size()) * direction).sum().item<double>();
    const auto at = [&](double step) {
      parameters.narrow(0, p.offset, p.size()).add_(direction, step);
      const double value = loss().item<double>();
      parameters.narrow(0, p.offset, p.size()).add_(direction, -step);
      return value;
    };
    constexpr double kStep = 1e-6;
    const double measured = (at(kStep) - at(-kStep)) / (2 * kStep);
    EXPECT_NEAR(slope, measured, 1e-5 * std::max(1.0, std::fabs(measured))) << p.name;
    moved += std::fabs(slope) > 1e-9;
  }
  // All but queries and outputs of the last layer, which nobody reads.
  EXPECT_EQ(moved, static_cast<int>(layout.all().size()) - 4);
}

INSTANTIATE_TEST_SUITE_P(TrainerDistill, DistillGradient,
                         ::testing::Values(GradientCase{Damping::multiply, 6, 0},
                                           GradientCase{Damping::add, 0, 128}));

// The student is the engine's, undamped; only the scorer hears of more.
TEST(TrainerDistill, GradientDampingIsInTheDerivativeOnly) {
  const NetworkShape shape = test::small_shape(3, 256);
  AdapterShape adapter;
  adapter.layer = 1;
  adapter.rank = 3;
  adapter.alpha = 2;
  const Tensor weights = random_values(ParameterLayout(shape).size(), 5) * 0.3;
  const Network network(shape, weights, Tensor(), torch::kFloat32);
  const AdapterLayout layout(shape, adapter);
  const Tensor parameters = random_values(layout.size(), 6) * 0.3;
  const DistillSample sample = small_sample(150, 162);
  const auto learnt = [&](Damping damping) {
    const Tensor gradients = torch::zeros_like(parameters);
    const Student student(network, shape, adapter, parameters, gradients);
    const Student::Logits logits = student.logits(sample, damping);
    divergence(logits).forward.sum().backward();
    return std::pair(logits.student.detach(), gradients);
  };
  const auto [undamped, without] = learnt(Damping::none);
  const auto [student, with] = learnt(Damping::gradient);
  EXPECT_TRUE(torch::equal(student, undamped));
  EXPECT_FALSE(torch::equal(student, learnt(Damping::add).first));
  for (const Parameter& p : layout.all()) {
    const Tensor here = with.narrow(0, p.offset, p.size()),
                 there = without.narrow(0, p.offset, p.size());
    if (p.name.starts_with("scorer.")) {
      EXPECT_EQ(there.abs().max().item<double>(), 0) << p.name;
      EXPECT_GT(here.abs().max().item<double>(), 0) << p.name;
    } else {
      EXPECT_TRUE(torch::allclose(here, there)) << p.name;
    }
  }
}

// Random tokens; what follows says some of them again.
DistillSample repeated(const NetworkShape& shape, uint64_t seed, double retention) {
  Random random(seed);
  DistillSample sample;
  for (int i = 0; i < 60; ++i)
    sample.tokens.push_back(static_cast<int32_t>(random.below(static_cast<uint64_t>(shape.vocab))));
  sample.context = 60;
  const size_t from = 5 + random.below(30);
  for (size_t i = 0; i < 20; ++i) sample.tokens.push_back(sample.tokens[from + i]);
  for (int64_t i = 64; i < 79; ++i) sample.rows.push_back(i);
  sample.retention = retention;
  return sample;
}

TEST(TrainerDistill, TeachesAStudentWithFewRowsToAnswerLikeTheTeacher) {
  const NetworkShape shape = test::recall_shape(400, 256);
  const std::vector<float> model = first_weights(shape, Beginning::recall, {}, 3);
  AdapterShape adapter;
  adapter.layer = 1;
  adapter.rank = 16;
  adapter.alpha = 32;
  adapter.hidden = 32;
  DistillerOptions options;
  options.threads = 2;
  Distiller distiller(shape, model, adapter, options);
  distiller.set_state({first_adapter(AdapterLayout(shape, adapter), 1), {}, {}, 0});
  const DistillScore all = distiller.measure(repeated(shape, 1, 1.0));
  EXPECT_LT(all.forward / static_cast<double>(all.targets), 1e-4) << "all rows, nothing added";
  const auto loss = [&] {
    DistillScore sum;
    for (uint64_t i = 0; i < 4; ++i) sum += distiller.measure(repeated(shape, i, 0.3));
    return sum.forward / static_cast<double>(sum.targets);
  };
  const double before = loss();
  for (int step = 0; step < 30; ++step)
    distiller.step(
        4, [&](int i) { return repeated(shape, static_cast<uint64_t>(i), 0.3); }, 1e-3);
  EXPECT_LT(loss(), 0.3 * before) << "before: " << before;
}

// A folder of this test's own, with texts, a model that copies, and a configuration.
class DistillRun : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::path(::testing::TempDir()) / "pith_distill" / test->name();
    fs::remove_all(folder_);
    test::write_small_texts(folder_ / "texts");
    fs::create_directories(folder_ / "run");
    std::ofstream(folder_ / "model.json") << R"({
      "name": "small", "texts": ["texts"], "seed": 5, "vocabulary_tokens": 400,
      "model": {"layers": 3, "width": 224, "query_heads": 4, "heads": 2, "head_dim": 32,
                "feed_forward": 64, "context": 320, "rope_base": 1e10},
      "stages": [{"tokens": 1, "length": 32, "rows": 1, "mix": {"text": 1}}]})";
    const TrainConfig model = read_train_config(path("model.json"));
    const Materials materials = prepare_materials(model, path("run"), Monitor::silent());
    ModelFacts facts;
    facts.name = "small";
    facts.shape = model.shape;
    facts.vocabulary = &materials.vocabulary;
    export_model(path("model.gguf"), facts,
                 first_weights(model.shape, Beginning::recall, materials.learnt->shares(), 5),
                 DType::f32);
    write_config("");
  }
  void TearDown() override { fs::remove_all(folder_); }

  void write_config(const std::string& more) {
    std::ofstream(folder_ / "distill.json")
        << R"({"name": "tiny", "model": "model.gguf", "texts": ["texts"], "held_out": ["apart"],
               "seed": 7, "layer": 1, "rank": 8, "scorer_width": 24, "fold": 128, "rate": 2e-3,
               "warm_up_steps": 3, "steps": 24, "rows": 2, "length": 300, "shortest": 140,
               "least_retention": 0.05, "mix": {"repeat": 1, "needles": 1}, "measure_steps": 8,
               "checkpoint_seconds": 0)" +
               more + "}";
  }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  DistillConfig config() const { return read_distill_config(path("distill.json")); }

  std::map<int64_t, double> run(const std::string& name, int64_t stop_after = 0,
                                int64_t die_at = 0) {
    DistillOptions options;
    options.folder = path(name);
    options.threads = 2;
    options.stop_after = stop_after;
    std::map<int64_t, double> losses;
    distill(config(), options, Monitor::silent(), [&](const CurvePoint& point) {
      if (!point.held_out) losses[point.step] = point.loss;
      if (die_at > 0 && point.step == die_at) std::_Exit(9);
    });
    return losses;
  }
  static std::string content(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }

  fs::path folder_;
};
using DistillRunDeathTest = DistillRun;

TEST_F(DistillRunDeathTest, ARunThatWasKilledGoesOnToTheSameLosses) {
  const std::map<int64_t, double> whole = run("whole");
  ASSERT_EQ(whole.size(), 24u);
  EXPECT_EXIT(run("killed", 0, 14), ::testing::ExitedWithCode(9), "");
  const std::map<int64_t, double> rest = run("killed");
  EXPECT_EQ(rest.begin()->first, 11) << "it goes on from the checkpoint of step 10";
  for (const auto& [step, loss] : rest) EXPECT_EQ(loss, whole.at(step)) << "step " << step;
  EXPECT_EQ(content(path("killed/tiny.adapter.gguf")), content(path("whole/tiny.adapter.gguf")));
}

TEST_F(DistillRun, TheEngineAnswersLikeTheStudentAtEveryBudget) {
  run("run", 12);
  const auto file = GgufFile::open(path("model.gguf"));
  const auto model = Model::load(file);
  const DistillConfig settings = config();
  AdapterFacts facts;
  facts.network = read_shape(*file);
  facts.adapter = settings.adapter;
  facts.adapter.layer = settings.layer;
  facts.adapter.hidden = settings.scorer_width;
  facts.model_digest = model->config().digest;
  Distiller distiller(facts.network, read_parameters(*file, facts.network), facts.adapter, {});
  LearnerState state = read_distill_checkpoint(path("run/checkpoint.gguf"), facts).state;
  // Further from the model than a short run comes.
  const AdapterLayout layout(facts.network, facts.adapter);
  Random random(3);
  for (const Parameter& p : layout.all())
    if (p.name.ends_with("lora_b"))
      for (int64_t i = 0; i < p.size(); ++i)
        state.parameters[static_cast<size_t>(p.offset + i)] += 0.03f * random.normal();
  distiller.set_state(state);
  const std::string adapter = path("further.gguf");
  write_adapter(adapter, facts, state.parameters, DType::f32);

  const auto tokenizer = Tokenizer::load(*file);
  const SplitTexts texts = read_split(settings.texts, {});
  const Corpus corpus(texts.learnt, *tokenizer, Monitor::silent());
  EngineOptions options;
  options.threads = 1;
  Engine engine(model, options);
  const auto vocab = static_cast<size_t>(facts.network.vocab);
  double changed = 0;
  for (const double budget : {1.0, 0.4, 0.1, 0.05}) {
    DistillSample sample;
    for (uint64_t number = 0; sample.context <= 160; ++number)  // more than a fold
      sample = make_distill_sample(settings, {*tokenizer, corpus}, number);
    sample.retention = budget;
    const std::vector<float> expected = distiller.logits(sample);
    const auto session = engine.open("kvdistill:cache=f32,adapter=" + adapter +
                                     ",budget=" + (budget == 1 ? "1.0" : std::to_string(budget)));
    const std::span<const int32_t> tokens = sample.tokens;
    const auto context = static_cast<size_t>(sample.context);
    engine.prefill(*session, tokens.first(context));
    const auto kept = session->store->at(0, 0).positions();
    EXPECT_EQ(std::vector<int32_t>(kept.begin(), kept.end()), distiller.chosen(sample));
    double worst = 0, largest = 0;
    size_t next = 0;
    engine.prefill_all(
        *session, tokens.subspan(context), [&](int row, std::span<const float> logits) {
          if (next == sample.rows.size() || sample.rows[next] != sample.context + row) return;
          for (size_t i = 0; i < vocab; ++i) {
            const double wanted = expected[next * vocab + i];
            largest = std::max(largest, std::fabs(wanted));
            worst = std::max(worst, std::fabs(wanted - logits[i]));
          }
          ++next;
        });
    EXPECT_EQ(next, sample.rows.size());
    EXPECT_GT(largest, 1);
    EXPECT_LE(worst, 1e-3) << "at a budget of " << budget;
    const DistillScore score = distiller.measure(sample);
    changed = std::max(changed, score.forward / static_cast<double>(score.targets));
  }
  EXPECT_GT(changed, 1e-3) << "compression changes what the model says";
}

// A rate that changes no float: what comes out is what went in.
TEST_F(DistillRun, GoesOnFromAnAdapter) {
  run("run", 12);
  write_config(R"(, "beginning": "run/tiny.adapter.gguf", "rate": 1e-50)");
  run("again", 1);
  const auto first = GgufFile::open(path("run/tiny.adapter.gguf")),
             second = GgufFile::open(path("again/tiny.adapter.gguf"));
  ASSERT_FALSE(first->tensors().empty());
  for (const GgufTensor& tensor : first->tensors()) {
    const auto before = first->floats(tensor.name, tensor.elements()),
               after = second->floats(tensor.name, tensor.elements());
    for (size_t i = 0; i < before.size(); ++i)
      ASSERT_FLOAT_EQ(after[i], before[i]) << tensor.name;  // scaled once more
  }
  write_config(R"(, "beginning": "run/tiny.adapter.gguf", "rank": 4)");
  try {
    run("other", 1);
    FAIL() << "it takes an adapter of another rank";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("lora_a' has another shape"), std::string::npos)
        << error.what();
  }
}

TEST_F(DistillRun, SaysWhichFieldIsWrong) {
  const auto refusal = [&](const std::string& more) -> std::string {
    write_config(more);
    try {
      run("run", 1);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Errc::bad_option);
      return error.what();
    }
    return "";
  };
  const std::pair<const char*, const char*> cases[] = {
      {R"(, "lambda": 2)", "'lambda'"},
      {R"(, "damping": "none")", "'damping'"},
      {R"(, "layer": 2)", "'layer'"},
      {R"(, "fold": 100)", "'fold'"},
      {R"(, "rank": 0)", "'rank'"},
      {R"(, "colour": 1)", "'colour'"},
      {R"(, "length": 9000)", "'length'"},
      {R"(, "least_retention": 0)", "'least_retention'"},
      {R"(, "mix": {"songs": 1})", "'songs'"},
      {R"(, "shortest": 301)", "'shortest'"}};
  for (const auto& [more, field] : cases)
    EXPECT_NE(refusal(more).find(field), std::string::npos) << more << ": " << refusal(more);
}

}  // namespace
}  // namespace pith

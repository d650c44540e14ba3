// Calibrations against their definitions in float64, on tiny models and on the recall model, whose
// heads are known.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <gtest/gtest.h>
#include <numeric>

#include "base/error.h"
#include "calibrate/entropy.h"
#include "calibrate/heads.h"
#include "calibrate/queries.h"
#include "calibrate/spans.h"
#include "convert/synthesize.h"
#include "gguf/gguf.h"
#include "policy/observer.h"
#include "policy/registry.h"
#include "runtime/engine.h"
#include "support/refusals.h"
#include "support/tiny_model.h"

namespace pith::test {
namespace {

std::shared_ptr<const Model> recall_model() {
  static const std::vector<std::byte> bytes = recall_model_bytes();
  static const auto model = Model::load(GgufFile::parse(bytes, "recall.gguf"));
  return model;
}

std::shared_ptr<const Model> tiny(const char* name) {
  return Model::load(write_tiny_model(tiny_model(name)));
}

EngineOptions options() {
  return {.threads = 2, .cache_bytes = size_t{512} << 20, .tile_rows = 50};
}

// Queries and keys of every layer.
struct Recorder final : PromptObserver {
  struct Layer {
    std::vector<float> q, k;  // [rows, query_heads, dim], [heads, rows, dim]
    AttentionRule rule;
  };
  std::vector<Layer> layers;
  int64_t rows = 0, query_heads = 0, heads = 0, dim = 0;

  bool wants_tensors(int) const override { return true; }
  void attended(int layer, const DenseAttention& job) override {
    layers.resize(std::max(layers.size(), static_cast<size_t>(layer) + 1));
    Layer& into = layers[static_cast<size_t>(layer)];
    query_heads = job.q.dim[1];
    dim = job.q.dim[2];
    heads = job.k.dim[0];
    rows = job.k.dim[1];
    for (int64_t i = 0; i < job.q.dim[0]; ++i)
      into.q.insert(into.q.end(), job.q[i].data, job.q[i].data + query_heads * dim);
    into.k.assign(job.k.data, job.k.data + heads * rows * dim);
    into.rule = job.rule;
  }
  // Softmax of one query over the rows before it and itself.
  std::vector<double> shares(size_t layer, int64_t head, int64_t row) const {
    const Layer& l = layers[layer];
    std::vector<double> p;
    double sum = 0;
    for (int64_t j = 0; j <= row; ++j) {
      double z = 0;
      for (int64_t d = 0; d < dim; ++d)
        z += double{l.q[static_cast<size_t>((row * query_heads + head) * dim + d)]} *
             double{l.k[static_cast<size_t>((head * heads / query_heads * rows + j) * dim + d)]};
      p.push_back(std::exp(z * double{l.rule.scale}));
      sum += p.back();
    }
    for (double& x : p) x /= sum;
    return p;
  }
};

class Quitter final : public Monitor {
 public:
  explicit Quitter(int after) : after_(after) {}
  void progress(std::string_view, int64_t done, int64_t) override {
    if (first < 0) first = done;
    last_ = done;
  }
  bool stopped() const override { return last_ >= after_; }
  int64_t first = -1;

 private:
  int64_t last_ = 0, after_;
};

class Calibrations : public ::testing::Test {
 protected:
  std::string path(const char* name) const { return folder_ + name; }
  std::string folder_ = fresh_folder();
};

// ---- heads

TEST_F(Calibrations, FindExactlyTheHeadsOfTheRecallModelThatRetrieve) {
  Engine engine(recall_model(), options());
  const HeadOptions small{.repeated = 120, .needles = 2, .tokens = 300};
  const HeadFinding found = find_heads(engine, {}, small);
  EXPECT_EQ(found.retrieving, recall_retrieval_heads());
  for (size_t l = 0; l < 4; ++l)
    for (size_t h = 0; h < 4; ++h) {
      const bool retrieves = (l == 1 && h < 2) || (l == 2 && h >= 2);
      EXPECT_EQ(found.induction[l * 4 + h] > 0.5f, retrieves) << l << ", " << h;
      EXPECT_EQ(found.copy[l * 4 + h] > 0.5f, retrieves) << l << ", " << h;
      EXPECT_EQ(found.retrieval[l * 4 + h] > 0.1f, retrieves) << l << ", " << h;
    }
}

TEST_F(Calibrations, MeasureEchoAndInductionByTheirDefinition) {
  for (const char* name : {"llama", "qwen3"}) {
    Engine engine(tiny(name), options());
    const HeadOptions small{.repeated = 40, .needles = 0};
    const HeadFinding found = find_heads(engine, {}, small);
    const std::vector<int32_t> tokens = repeated_sequence(engine, small, 0);
    Recorder recorder;
    look_at_prompt(engine, tokens, recorder, Monitor::silent());
    for (size_t l = 0; l < recorder.layers.size(); ++l)
      for (int64_t h = 0; h < recorder.query_heads; ++h) {
        double echo = 0, induction = 0;
        for (size_t row = tokens.size() - 120; row < tokens.size(); ++row) {
          const std::vector<double> p = recorder.shares(l, h, static_cast<int64_t>(row));
          for (size_t j = 0; j < row; ++j)
            if (tokens[j] == tokens[row]) {
              echo += p[j];
              induction += p[j + 1];
            }
        }
        const size_t at = l * static_cast<size_t>(recorder.query_heads) + static_cast<size_t>(h);
        EXPECT_NEAR(found.echo[at], echo / 120, 1e-5) << name;
        EXPECT_NEAR(found.induction[at], induction / 120, 1e-5) << name;
      }
  }
}

TEST_F(Calibrations, MeasureTheLargestLogitWhereSlopesDecideHowFarHeadsLook) {
  Engine engine(tiny("mpt"), options());
  const HeadOptions small{.repeated = 30, .needles = 0};
  const HeadFinding found = find_heads(engine, {}, small);
  Recorder recorder;
  look_at_prompt(engine, repeated_sequence(engine, small, 0), recorder, Monitor::silent());
  for (size_t l = 0; l < recorder.layers.size(); ++l)
    for (int64_t h = 0; h < recorder.query_heads; ++h) {
      double most = 0;
      const auto& layer = recorder.layers[l];
      const int64_t kv = h * recorder.heads / recorder.query_heads;
      for (int64_t i = 0; i < recorder.rows; ++i)
        for (int64_t j = 0; j <= i; ++j) {
          double z = 0;
          for (int64_t d = 0; d < recorder.dim; ++d)
            z += double{layer.q[static_cast<size_t>((i * recorder.query_heads + h) * recorder.dim +
                                                    d)]} *
                 double{layer.k[static_cast<size_t>((kv * recorder.rows + j) * recorder.dim + d)]};
          most = std::max(most, std::abs(z) * double{layer.rule.scale});
        }
      EXPECT_NEAR(
          found.logit[l * static_cast<size_t>(recorder.query_heads) + static_cast<size_t>(h)], most,
          1e-4 * (1 + most));
    }
}

TEST_F(Calibrations, ThatWereStoppedGoOnBehindTheirLastSample) {
  Engine engine(tiny("llama"), options());
  const HeadOptions small{.repeated = 30, .sequences = 2, .needles = 3, .tokens = 100, .seed = 5};
  const HeadFinding whole = find_heads(engine, {}, small);
  const std::string part = path("a.part");
  Quitter quitter(3);
  EXPECT_THROW(find_heads(engine, {}, small, part, quitter), Error);
  Quitter patient(1000);
  const HeadFinding resumed = find_heads(engine, {}, small, part, patient);
  EXPECT_EQ(patient.first, 3);
  EXPECT_EQ(resumed.echo, whole.echo);
  EXPECT_EQ(resumed.retrieval, whole.retrieval);
  EXPECT_EQ(resumed.copy, whole.copy);
  // Another seed is another calibration.
  HeadOptions other = small;
  other.seed = 6;
  Quitter again(1000);
  find_heads(engine, {}, other, part, again);
  EXPECT_EQ(again.first, 0);
}

// ---- entropy

// Eigenvalues by Jacobi's rotations, descending.
std::vector<double> eigenvalues(std::vector<double> a, size_t n) {
  for (int sweep = 0; sweep < 60; ++sweep)
    for (size_t p = 0; p < n; ++p)
      for (size_t q = p + 1; q < n; ++q) {
        if (std::abs(a[p * n + q]) < 1e-18) continue;
        const double theta = 0.5 * std::atan2(2 * a[p * n + q], a[q * n + q] - a[p * n + p]);
        const double c = std::cos(theta), s = std::sin(theta);
        for (size_t i = 0; i < n; ++i) {
          const double x = a[i * n + p], y = a[i * n + q];
          a[i * n + p] = c * x - s * y;
          a[i * n + q] = s * x + c * y;
        }
        for (size_t i = 0; i < n; ++i) {
          const double x = a[p * n + i], y = a[q * n + i];
          a[p * n + i] = c * x - s * y;
          a[q * n + i] = s * x + c * y;
        }
      }
  std::vector<double> values;
  for (size_t i = 0; i < n; ++i) values.push_back(a[i * n + i]);
  std::ranges::sort(values, std::greater());
  return values;
}

TEST_F(Calibrations, MeasureTheTruncatedEntropyOfQueries) {
  Engine engine(tiny("llama"), options());
  std::vector<std::vector<int32_t>> prompts = {tiny_tokens(tiny_model("llama"), 90, 1),
                                               tiny_tokens(tiny_model("llama"), 60, 2)};
  const EntropyFinding found = find_entropy(engine, prompts, {.keep = 5});
  std::vector<double> expected(found.heads.size(), 0.0);
  for (const auto& prompt : prompts) {
    Recorder r;
    look_at_prompt(engine, prompt, r, Monitor::silent());
    const auto dim = static_cast<size_t>(r.dim), rows = static_cast<size_t>(r.rows);
    for (size_t l = 0; l < r.layers.size(); ++l)
      for (size_t h = 0; h < static_cast<size_t>(r.query_heads); ++h) {
        const auto at = [&](size_t row, size_t d) {
          return double{r.layers[l].q[(row * static_cast<size_t>(r.query_heads) + h) * dim + d]};
        };
        std::vector<double> mean(dim, 0.0), moment(dim * dim, 0.0);
        for (size_t row = 0; row < rows; ++row)
          for (size_t d = 0; d < dim; ++d) mean[d] += at(row, d) / static_cast<double>(rows);
        for (size_t row = 0; row < rows; ++row) {
          double squares = 0;
          for (size_t d = 0; d < dim; ++d) squares += std::pow(at(row, d) - mean[d], 2);
          for (size_t a = 0; a < dim; ++a)
            for (size_t b = 0; b < dim; ++b)
              moment[a * dim + b] += (at(row, a) - mean[a]) * (at(row, b) - mean[b]) / squares /
                                     static_cast<double>(rows);
        }
        const std::vector<double> values = eigenvalues(moment, dim);
        double entropy = 0;
        for (size_t i = 0; i < 5; ++i) entropy -= values[i] * std::log(values[i]);
        expected[l * static_cast<size_t>(r.query_heads) + h] +=
            entropy / std::log(static_cast<double>(dim)) / 2;
      }
  }
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(found.heads[i], expected[i], 1e-6);
  EXPECT_EQ(found.stage.size(), found.layers.size());
}

TEST(LayerStages, BeginWhereTheRankFalls) {
  EXPECT_EQ(layer_stages(std::vector<float>{70, 71, 69.5f, 69, 67, 68, 66.5f}, 1),
            (std::vector<int>{0, 0, 1, 1, 2, 2, 3}));
  EXPECT_EQ(layer_stages(std::vector<float>{70}, 1), (std::vector<int>{0}));
}

TEST(HeadGroups, AreVotedFor) {
  // Five heads, votes for high and low.
  EXPECT_EQ(vote_groups(std::vector<float>{1, 4, 5, 0, 3, 2, 2, 3, 4, 1}, 5, 2),
            (std::vector<int>{1, 0, 0, 1, 0}));
  // Three groups: the extremes choose first.
  EXPECT_EQ(vote_groups(std::vector<float>{0, 5, 0, 0, 3, 2, 3, 2, 0}, 3, 3),
            (std::vector<int>{1, 2, 0}));
}

// ---- spans and queries

TEST_F(Calibrations, GiveTheHighestSpansToTheHeadsThatRetrieve) {
  Engine engine(recall_model(), options());
  const RecallPrompt text = make_recall_prompt(500, 5, 4);
  const std::vector<std::vector<int32_t>> prompts = {text.tokens};
  const std::vector<float> scores = find_spans(engine, prompts, 2000, 4);
  std::vector<size_t> order(scores.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::sort(order, std::greater(), [&](size_t i) { return scores[i]; });
  std::vector<size_t> best(order.begin(), order.begin() + 2);
  std::ranges::sort(best);
  EXPECT_EQ(best, (std::vector<size_t>{2, 5})) << "heads (1, 0) and (2, 1)";
  add_calibration(path("a.gguf"), recall_model()->config().digest,
                  {.kind = "spans", .made_by = "a test"},
                  span_tensors(scores, recall_model()->config().shape));
  // Three quarters of the heads stream; the answers come all the same.
  const auto session =
      engine.open("spans:sparsity=0.75,sink=4,recent=64,calibration=" + path("a.gguf"));
  engine.prefill(*session, text.tokens);
  const auto best_token = std::ranges::max_element(session->logits) - session->logits.begin();
  EXPECT_EQ(best_token, text.needles.back().value);
}

TEST_F(Calibrations, FindTheMainDirectionOfQueries) {
  Engine engine(tiny("llama"), options());
  const std::vector<std::vector<int32_t>> prompts = {tiny_tokens(tiny_model("llama"), 80, 1)};
  const QueryFinding found = find_queries(engine, prompts);
  Recorder r;
  look_at_prompt(engine, prompts[0], r, Monitor::silent());
  const auto dim = static_cast<size_t>(r.dim), group = static_cast<size_t>(r.query_heads / r.heads);
  for (size_t l = 0; l < r.layers.size(); ++l)
    for (size_t h = 0; h < static_cast<size_t>(r.heads); ++h) {
      std::vector<double> moment(dim * dim, 0.0);
      for (size_t row = 0; row < 80; ++row)
        for (size_t g = h * group; g < (h + 1) * group; ++g)
          for (size_t a = 0; a < dim; ++a)
            for (size_t b = 0; b < dim; ++b) {
              const float* q = &r.layers[l].q[(row * static_cast<size_t>(r.query_heads) + g) * dim];
              moment[a * dim + b] += double{q[a]} * double{q[b]};
            }
      const std::vector<double> values = eigenvalues(moment, dim);
      const double trace = std::accumulate(values.begin(), values.end(), 0.0);
      const size_t head = l * static_cast<size_t>(r.heads) + h;
      EXPECT_NEAR(found.share[head], values[0] / trace, 1e-5);
      // It is the direction if the matrix stretches it by the largest eigenvalue.
      const float* u = &found.direction[head * dim];
      double towards = 0;
      for (size_t a = 0; a < dim; ++a) {
        double stretched = 0;
        for (size_t b = 0; b < dim; ++b) stretched += moment[a * dim + b] * double{u[b]};
        EXPECT_NEAR(stretched / trace, values[0] / trace * double{u[a]}, 1e-4);
        towards += double{u[a]} * double{found.mean[head * dim + a]};
      }
      EXPECT_GE(towards, 0);
    }
}

// ---- the file

TEST_F(Calibrations, JoinOthersInOneFileWithTheirOrigins) {
  const std::string file = path("all.gguf");
  const auto add = [&](const std::string& kind, float value, uint64_t seed) {
    add_calibration(
        file, "the-model",
        {.kind = kind, .made_by = "pith calibrate " + kind, .text_digest = "0123", .seed = seed},
        std::vector<CalibrationTensor>{{kind + ".x", {2}, {value, value + 1}}});
  };
  add("heads", 1, 7);
  add("entropy", 3, 0);
  add("heads", 5, 8);
  const auto read = Calibration::load(file, "the-model");
  EXPECT_EQ(read->tensor("heads.x", 2)[0], 5);
  EXPECT_EQ(read->tensor("entropy.x", 2)[1], 4);
  const auto raw = GgufFile::open(file);
  EXPECT_EQ(raw->text("pith.calibration.heads.made_by"), "pith calibrate heads");
  EXPECT_EQ(raw->integer("pith.calibration.heads.seed"), 8);
  EXPECT_EQ(raw->text("pith.calibration.entropy.text_digest"), "0123");
  EXPECT_EQ(raw->text("pith.calibration.model"), "the-model");
  EXPECT_EQ(raw->tensors().size(), 2u);
}

TEST_F(Calibrations, LeaveFilesOfOtherModelsAndOtherThingsAlone) {
  const std::string file = path("other.gguf");
  const std::vector<CalibrationTensor> tensors = {{"heads.x", {1}, {1}}};
  const CalibrationOrigin origin{.kind = "heads", .made_by = "a test"};
  add_calibration(file, "one-model", origin, tensors);
  EXPECT_NE(refusal([&] {
              add_calibration(file, "another", origin, tensors);
            }).find("made for another model"),
            std::string::npos);
  const std::string model = write_tiny_model(tiny_model("llama"));
  EXPECT_NE(refusal([&] {
              add_calibration(model, "one-model", origin, tensors);
            }).find("not a calibration file"),
            std::string::npos);
  EXPECT_EQ(Calibration::load(file, "one-model")->tensor("heads.x", 1)[0], 1);
}

}  // namespace
}  // namespace pith::test

// Calibrated bases against their definition in float64, and what they are worth on a trained model.
#include "calibrate/basis.h"

#include <algorithm>
#include <cmath>
#include <gtest/gtest.h>
#include <numeric>

#include "base/error.h"
#include "convert/convert.h"
#include "policy/observer.h"
#include "runtime/engine.h"
#include "support/golden.h"
#include "support/rotation.h"
#include "support/test_data.h"
#include "support/tiny_model.h"
#include "tensor/codec.h"

namespace pith::test {
namespace {

using Doubles = std::vector<double>;

EngineOptions options() {
  return {.threads = 2, .cache_bytes = size_t{512} << 20, .tile_rows = 50};
}

// Second moments of the queries of a group, of keys and of values, a product at a time; and of keys
// and queries turned back to position 0.
struct Moments final : PromptObserver {
  std::vector<Doubles> q, k, v, unturned_q, unturned_k;  // [layers * heads][dim * dim]
  explicit Moments(const KvShape& shape) : shape_(shape) {
    const Doubles zero(static_cast<size_t>(shape.dim * shape.dim), 0.0);
    q.assign(static_cast<size_t>(shape.layers * shape.heads), zero);
    k = v = unturned_q = unturned_k = q;
  }
  bool wants_tensors(int) const override { return true; }
  void attended(int layer, const DenseAttention& job) override {
    const Rope rope = shape_.rope(layer);
    for (int64_t i = 0; i < job.q.dim[0]; ++i)
      for (int h = 0; h < shape_.heads; ++h) {
        const int at = job.positions[static_cast<size_t>(job.first_row + i)];
        const auto back = [&](std::span<const float> x) {
          Doubles before(x.begin(), x.end());
          turn(rope, at, -1, before);
          return std::vector<float>(before.begin(), before.end());
        };
        const auto head = static_cast<size_t>(layer * shape_.heads + h);
        for (int g = h * shape_.group(); g < (h + 1) * shape_.group(); ++g) {
          add(q[head], job.q[i].row(g));
          add(unturned_q[head], back(job.q[i].row(g)));
        }
        add(k[head], job.k[h].row(job.first_row + i));
        add(unturned_k[head], back(job.k[h].row(job.first_row + i)));
        add(v[head], job.v[h].row(job.first_row + i));
      }
  }

 private:
  static void add(Doubles& sum, std::span<const float> x) {
    for (size_t a = 0; a < x.size(); ++a)
      for (size_t b = 0; b < x.size(); ++b) sum[a * x.size() + b] += double{x[a]} * double{x[b]};
  }
  KvShape shape_;
};

double trace(const Doubles& m, size_t dim) {
  double sum = 0;
  for (size_t d = 0; d < dim; ++d) sum += m[d * dim + d];
  return sum;
}

double form(const Doubles& m, const float* x, const float* y, size_t dim) {
  double sum = 0;
  for (size_t a = 0; a < dim; ++a)
    for (size_t b = 0; b < dim; ++b) sum += double{x[a]} * m[a * dim + b] * double{y[b]};
  return sum;
}

// Moments of queries as keys meet them that were `distance` rows before, in the mean over all pairs
// of a prompt of so many rows.
Doubles over_distances(const Doubles& queries, const Rope& rope, int rows, size_t dim) {
  Doubles sum(dim * dim, 0.0);
  double weights = 0;
  for (int distance = 0; distance < rows; ++distance) {
    Doubles turned = queries;
    for (int side = 0; side < 2; ++side) {  // the rows, then the columns
      Doubles flipped(dim * dim);
      for (size_t a = 0; a < dim; ++a) {
        Doubles row(dim);
        for (size_t b = 0; b < dim; ++b) row[b] = turned[a * dim + b];
        turn(rope, distance, 1, row);
        for (size_t b = 0; b < dim; ++b) flipped[b * dim + a] = row[b];
      }
      turned = flipped;
    }
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += (rows - distance) * turned[i];
    weights += rows - distance;
  }
  for (double& x : sum) x /= weights;
  return sum;
}

// The output projection's share of a head: sum over its query heads of W^T W.
Doubles projection(const Model& model, int layer, int head) {
  const KvShape& s = model.config().shape;
  const WeightMatrix& wo = model.weights().layers[static_cast<size_t>(layer)].wo;
  const auto dim = static_cast<size_t>(s.dim);
  Doubles sum(dim * dim, 0.0);
  std::vector<float> row(static_cast<size_t>(wo.cols));
  for (int64_t r = 0; r < wo.rows; ++r) {
    decode_row(wo.dtype, wo.data + static_cast<size_t>(r) * row_bytes(wo.dtype, wo.cols), wo.cols,
               row.data());
    for (int g = head * s.group(); g < (head + 1) * s.group(); ++g) {
      const float* x = row.data() + g * s.dim;
      for (size_t a = 0; a < dim; ++a)
        for (size_t b = 0; b < dim; ++b) sum[a * dim + b] += double{x[a]} * double{x[b]};
    }
  }
  return sum;
}

void expect_side(const Doubles& a, const Doubles& b, const float* directions, const float* harm,
                 size_t dim) {
  Doubles both(dim * dim);
  for (size_t i = 0; i < both.size(); ++i) both[i] = a[i] / trace(a, dim) + b[i] / trace(b, dim);
  double unit = 0;
  for (size_t i = 0; i < dim; ++i) {
    const float* u = directions + i * dim;
    for (size_t j = 0; j < dim; ++j) {
      double dot = 0;
      for (size_t d = 0; d < dim; ++d) dot += double{u[d]} * double{directions[j * dim + d]};
      EXPECT_NEAR(dot, i == j ? 1 : 0, 1e-5);
    }
    const double value = form(both, u, u, dim);  // an eigenvector, if the matrix only stretches it
    for (size_t r = 0; r < dim; ++r) {
      double stretched = 0;
      for (size_t d = 0; d < dim; ++d) stretched += both[r * dim + d] * double{u[d]};
      EXPECT_NEAR(stretched, value * double{u[r]}, 1e-5);
    }
    const double worth = form(a, u, u, dim) * form(b, u, u, dim);
    if (i == 0) unit = double{harm[0]} / worth;
    EXPECT_NEAR(harm[i], unit * worth, 1e-4 * double{harm[0]}) << "one unit for a side of a layer";
    EXPECT_LE(harm[i], harm[i == 0 ? 0 : i - 1]);
  }
}

TEST(Basis, HoldsTheDirectionsWhereKeysMeetQueriesAndValuesMeetTheProjection) {
  for (const char* name : {"llama", "qwen3", "mpt"}) {
    SCOPED_TRACE(name);
    const auto model = Model::load(write_tiny_model(tiny_model(name)));
    Engine engine(model, options());
    const KvShape& s = model->config().shape;
    const auto dim = static_cast<size_t>(s.dim);
    const std::vector<std::vector<int32_t>> prompts = {tiny_tokens(tiny_model(name), 90, 1),
                                                       tiny_tokens(tiny_model(name), 60, 2)};
    const HeadBases bases = find_bases(engine, prompts, {.step = 2, .judged = 4});
    Moments moments(s);
    for (const auto& prompt : prompts) look_at_prompt(engine, prompt, moments, Monitor::silent());
    for (int l = 0; l < s.layers; ++l)
      for (int h = 0; h < s.heads; ++h) {
        const auto k = static_cast<size_t>(l * s.heads + h), v = bases.sides() / 2 + k;
        expect_side(moments.q[k], moments.k[k], &bases.directions[k * dim * dim],
                    &bases.harm[k * dim], dim);
        expect_side(projection(*model, l, h), moments.v[k], &bases.directions[v * dim * dim],
                    &bases.harm[v * dim], dim);
        // Of the two prompts, 75 rows in the mean.
        expect_side(over_distances(moments.unturned_q[k], s.rope(l), 75, dim),
                    moments.unturned_k[k], &bases.unturned[k * dim * dim],
                    &bases.unturned_harm[k * dim], dim);
        // Channels: every one once, those that turn together side by side.
        std::vector<int> channels(
            bases.channels.begin() + static_cast<std::ptrdiff_t>(k * dim),
            bases.channels.begin() + static_cast<std::ptrdiff_t>((k + 1) * dim));
        const Rope& rope = model->config().shape.ropes[static_cast<size_t>(l)];
        for (size_t i = 0; i < dim; i += 2)
          EXPECT_EQ(channels[i + 1] - channels[i],
                    rope.half_split ? static_cast<int>(rope.inv_freq.size()) : 1);
        // Each pair is turned to where it matters most: no other angle gives its first more.
        const Doubles &a = moments.q[k], &b = moments.k[k];
        Doubles both(dim * dim);
        for (size_t i = 0; i < both.size(); ++i)
          both[i] = a[i] / trace(a, dim) + b[i] / trace(b, dim);
        for (size_t i = 0; i < dim; i += 2) {
          const auto matters = [&](double cosine, double sine) {
            std::vector<float> u(dim);
            u[static_cast<size_t>(channels[i])] = static_cast<float>(cosine);
            u[static_cast<size_t>(channels[i + 1])] = static_cast<float>(sine);
            return form(both, u.data(), u.data(), dim);
          };
          const double cosine = double{bases.turns[k * dim + i]},
                       sine = double{bases.turns[k * dim + i + 1]};
          EXPECT_NEAR(cosine * cosine + sine * sine, 1, 1e-6);
          for (int step = 0; step < 16; ++step)
            EXPECT_GE(matters(cosine, sine) * (1 + 1e-5) + 1e-9,
                      matters(std::cos(0.2 * step), std::sin(0.2 * step)));
        }
        std::ranges::sort(channels);
        for (size_t i = 0; i < dim; ++i) EXPECT_EQ(channels[i], static_cast<int>(i));
      }
  }
}

TEST(Basis, GoesOnBehindItsLastPrompt) {
  class Quitter final : public Monitor {
   public:
    void progress(std::string_view, int64_t done, int64_t) override { last_ = done; }
    bool stopped() const override { return last_ >= 2; }

   private:
    int64_t last_ = 0;
  } quitter;
  Engine engine(Model::load(write_tiny_model(tiny_model("llama"))), options());
  std::vector<std::vector<int32_t>> prompts;
  for (uint64_t seed = 1; seed <= 4; ++seed)
    prompts.push_back(tiny_tokens(tiny_model("llama"), 60, seed));
  const BasisOptions small{.target = 0.8, .step = 2, .judged = 6};
  const BasisFinding whole = find_basis(engine, prompts, small);
  const std::string part = fresh_folder() + "basis.part";
  EXPECT_THROW(find_basis(engine, prompts, small, part, quitter), Error);
  const BasisFinding resumed = find_basis(engine, prompts, small, part);
  EXPECT_EQ(resumed.bases.directions, whole.bases.directions);
  EXPECT_EQ(resumed.bases.harm, whole.bases.harm);
  EXPECT_EQ(resumed.ranks, whole.ranks);
  EXPECT_GE(whole.agreement, 0.8);
}

TEST(Basis, IsOneAgainWhenItWasWrittenAndRead) {
  Engine engine(Model::load(write_tiny_model(tiny_model("llama"))), options());
  const std::vector<std::vector<int32_t>> prompts = {tiny_tokens(tiny_model("llama"), 80, 1)};
  const BasisFinding found = find_basis(engine, prompts, {.step = 2, .judged = 6});
  const std::string path = fresh_folder() + "basis.gguf";
  const ModelConfig& config = engine.model().config();
  add_calibration(path, config.digest, {.kind = "basis", .made_by = "a test"},
                  basis_tensors(found.bases, found.ranks, found.unturned_ranks));
  const auto file = Calibration::load(path, config.digest);
  const HeadBases read = read_bases(*file, config.shape);
  EXPECT_EQ(read.directions, found.bases.directions);
  EXPECT_EQ(read.harm, found.bases.harm);
  EXPECT_EQ(read.channels, found.bases.channels);
  EXPECT_EQ(read.channel_harm, found.bases.channel_harm);
  EXPECT_EQ(read.turns, found.bases.turns);
  EXPECT_EQ(read.turned_harm, found.bases.turned_harm);
  EXPECT_EQ(read.unturned, found.bases.unturned);
  EXPECT_EQ(read.unturned_harm, found.bases.unturned_harm);
  EXPECT_EQ(read_ranks(*file, config.shape), found.ranks);
  EXPECT_EQ(read_unturned_ranks(*file, config.shape), found.unturned_ranks);
  EXPECT_GE(found.unturned_agreement, 0.99);
  // A method takes the file as it is.
  for (const char* method : {"zack", "palu", "eigen"})
    EXPECT_NE(engine.open(method + (":calibration=" + path))->policy->store.basis, nullptr);
}

TEST(Basis, SpendsWhatATokenMayTakeBetterThanEvenRanksDo) {
  PITH_NEEDS_DATA("stories3m/golden.json");
  const std::string path = fresh_folder() + "stories3m.gguf";
  convert_llama2c(data_path("stories3m/stories3M-q80.bin"), data_path("stories3m/tok4096.bin"),
                  path, DType::f16);
  Engine engine(Model::load(path), options());
  std::vector<std::vector<int32_t>> stories;
  for (const GoldenStory& story : read_golden(data_path("stories3m/golden.json")).stories)
    if (story.ids.size() >= 160) stories.push_back({story.ids.begin(), story.ids.begin() + 160});
  ASSERT_GE(stories.size(), 2u);
  const auto learnt = std::span(stories).first(1), others = std::span(stories).subspan(1, 1);
  const HeadBases bases = find_bases(engine, learnt, {.step = 4, .judged = 40});
  std::vector<std::vector<int>> candidates;
  for (const double share : {0.5, 0.75}) {
    const auto size = static_cast<int64_t>(share * static_cast<double>(bases.coordinates()));
    candidates.push_back(ranks_of_size(bases, size, 4));
    candidates.push_back(even_ranks(bases, size, 4));
    EXPECT_EQ(std::accumulate(candidates[candidates.size() - 2].begin(),
                              candidates[candidates.size() - 2].end(), int64_t{0}),
              std::accumulate(candidates.back().begin(), candidates.back().end(), int64_t{0}));
  }
  const auto judged = judge_ranks(engine, others, 60, bases, candidates);
  EXPECT_LT(judged[0].divergence, 0.9 * judged[1].divergence);
  EXPECT_LT(judged[2].divergence, 0.9 * judged[3].divergence);
}

}  // namespace
}  // namespace pith::test

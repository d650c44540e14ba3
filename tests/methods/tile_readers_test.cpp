// FlexPrefill and XAttention against their definitions in float64, on planted patterns.
#include <algorithm>
#include <cmath>
#include <functional>
#include <gtest/gtest.h>
#include <numeric>

#include "backend/cpu_backend.h"
#include "convert/synthesize.h"
#include "policy/registry.h"
#include "runtime/engine.h"
#include "support/attention_oracle.h"

namespace pith::test {
namespace {

constexpr int kDim = 16, kGroup = 2, kBlock = 128;

// One layer with two key/value heads of two query heads each.
struct Layer {
  int rows;
  KvShape shape{.layers = 1, .query_heads = 4, .heads = 2, .dim = kDim, .width = 64};
  std::vector<float> q, k;  // [rows, query_heads, dim], [heads, rows, dim]
  std::vector<int32_t> positions;
  AttentionRule rule{.scale = 0.25f};

  explicit Layer(int rows) : rows(rows) {
    q = normal_numbers(static_cast<size_t>(rows * 4 * kDim), 11);
    k = normal_numbers(static_cast<size_t>(rows * 2 * kDim), 12);
    positions.resize(static_cast<size_t>(rows));
    std::iota(positions.begin(), positions.end(), 0);
  }
  float* query(int row, int head) { return &q[static_cast<size_t>((row * 4 + head) * kDim)]; }
  float* key(int head, int row) { return &k[static_cast<size_t>((head * rows + row) * kDim)]; }
  const float* query(int row, int head) const {
    return &q[static_cast<size_t>((row * 4 + head) * kDim)];
  }
  const float* key(int head, int row) const {
    return &k[static_cast<size_t>((head * rows + row) * kDim)];
  }
  int blocks() const { return (rows + kBlock - 1) / kBlock; }
  double logit(int query_row, int query_head, int row) const {
    double z = 0;
    for (int d = 0; d < kDim; ++d)
      z += double{query(query_row, query_head)[d]} * double{key(query_head / kGroup, row)[d]};
    return z * 0.25;
  }
};

using Map = std::vector<std::vector<bool>>;  // [blocks][blocks] what a block of queries reads

ReadPlan plan_of(const std::string& spec, const Layer& layer, int threads = 1) {
  const auto policy = make_policy(spec, layer.shape);
  const auto ops = make_cpu_backend(threads);
  ReadPlan plan;
  plan.begin(2, layer.rows);
  policy->tile_reader->choose({.ops = *ops,
                               .shape = layer.shape,
                               .rule = layer.rule,
                               .layer = 0,
                               .q = ConstCube::packed(layer.q.data(), {layer.rows, 4, kDim}),
                               .k = ConstCube::packed(layer.k.data(), {2, layer.rows, kDim}),
                               .positions = layer.positions},
                              plan);
  return plan;
}

Map map_of(const ReadPlan& plan, int head) {
  const auto blocks = static_cast<size_t>(plan.blocks());
  Map map(blocks, std::vector<bool>(blocks));
  for (size_t b = 0; b < blocks; ++b)
    for (const RowRange& range : plan.at(head, static_cast<int64_t>(b)))
      for (int64_t row = range.first; row < range.last; ++row)
        map[b][static_cast<size_t>(row / kBlock)] = true;
  return map;
}

void unite(Map& into, const Map& other) {
  for (size_t i = 0; i < into.size(); ++i)
    for (size_t j = 0; j < into.size(); ++j)
      if (other[i][j]) into[i][j] = true;
}

std::vector<int> best_first(const std::vector<double>& x) {
  std::vector<int> order(x.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, std::greater(), [&](int i) { return x[static_cast<size_t>(i)]; });
  return order;
}

void softmax(std::vector<double>& x, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; ++i) sum += x[i] = std::exp(x[i]);
  for (size_t i = 0; i < count; ++i) x[i] /= sum;
  for (size_t i = count; i < x.size(); ++i) x[i] = 0;
}

// ---- xattention

Map antidiagonal_oracle(const Layer& layer, int query_head, int stride, double threshold) {
  const int blocks = layer.blocks(), slices = (layer.rows + stride - 1) / stride,
            each = kBlock / stride;
  Map map(static_cast<size_t>(blocks), std::vector<bool>(static_cast<size_t>(blocks)));
  for (int block = 0; block < blocks; ++block) {
    std::vector<double> mass(static_cast<size_t>(blocks), 0.0);
    int queries = 0;
    for (int a = block * each; a < std::min(slices, (block + 1) * each); ++a, ++queries) {
      std::vector<double> z(static_cast<size_t>(slices), 0.0);
      for (int b = 0; b <= a; ++b)
        for (int s = 0; s < stride; ++s) {
          const int row = a * stride + stride - 1 - s, key = b * stride + s;
          if (row < layer.rows && key < layer.rows)
            z[static_cast<size_t>(b)] += layer.logit(row, query_head, key) / stride;
        }
      softmax(z, static_cast<size_t>(a + 1));
      for (int b = 0; b <= a; ++b) mass[static_cast<size_t>(b / each)] += z[static_cast<size_t>(b)];
    }
    std::vector<bool>& read = map[static_cast<size_t>(block)];
    read[0] = read[static_cast<size_t>(block)] = true;
    double covered = mass[0] + (block ? mass[static_cast<size_t>(block)] : 0);
    for (const int b : best_first(mass)) {
      if (b > block || read[static_cast<size_t>(b)]) continue;
      if (covered >= threshold * queries) break;
      covered += mass[static_cast<size_t>(b)];
      read[static_cast<size_t>(b)] = true;
    }
  }
  return map;
}

// Every query of head 2 is drawn to blocks 1 and 4; the others look anywhere.
Layer with_loud_blocks(int rows) {
  Layer layer(rows);
  for (int row = 0; row < rows; ++row) {
    for (int d = 0; d < kDim; ++d) layer.query(row, 2)[d] = layer.query(row, 2)[d] * 0.3f + 1;
    if (row / kBlock == 1 || row / kBlock == 4)
      for (int d = 0; d < kDim; ++d) layer.key(1, row)[d] = layer.key(1, row)[d] * 0.3f + 1.2f;
  }
  return layer;
}

TEST(Xattention, ReadsTheBlocksWhoseAntidiagonalsHoldTheAttention) {
  for (const int rows : {1000, 1024, 300, 60}) {
    const Layer layer = with_loud_blocks(rows);
    for (const int stride : {8, 16})
      for (const double threshold : {0.5, 0.9}) {
        const ReadPlan plan = plan_of("xattention:stride=" + std::to_string(stride) +
                                          ",threshold=" + std::to_string(threshold),
                                      layer);
        for (int head = 0; head < 2; ++head) {
          Map expected = antidiagonal_oracle(layer, 2 * head, stride, threshold);
          unite(expected, antidiagonal_oracle(layer, 2 * head + 1, stride, threshold));
          EXPECT_EQ(map_of(plan, head), expected) << rows << " rows, head " << head;
        }
      }
  }
}

TEST(Xattention, FindsPlantedBlocksAndLeavesOthers) {
  Layer layer = with_loud_blocks(1024);
  for (int row = 0; row < 1024; ++row)  // both query heads of the group look alike
    std::copy_n(layer.query(row, 2), kDim, layer.query(row, 3));
  const Map map = map_of(plan_of("xattention:threshold=0.8", layer), 1);
  EXPECT_EQ(map[7], (std::vector<bool>{true, true, false, false, true, false, false, true}));
}

// ---- flexprefill

struct Looks {
  std::vector<double> vertical, slash, predicted;
};

Looks last_queries(const Layer& layer, int query_head) {
  const int queries = std::min(kBlock, layer.rows), first = layer.rows - queries;
  const auto blocks = static_cast<size_t>(layer.blocks());
  Looks looks;
  looks.vertical.assign(static_cast<size_t>(layer.rows), 0.0);
  looks.slash = looks.vertical;
  for (int i = first; i < layer.rows; ++i) {
    std::vector<double> p(static_cast<size_t>(layer.rows), 0.0);
    for (int j = 0; j <= i; ++j) p[static_cast<size_t>(j)] = layer.logit(i, query_head, j);
    softmax(p, static_cast<size_t>(i + 1));
    for (int j = 0; j <= i; ++j) {
      looks.vertical[static_cast<size_t>(j)] += p[static_cast<size_t>(j)] / queries;
      looks.slash[static_cast<size_t>(i - j)] += p[static_cast<size_t>(j)] / queries;
    }
  }
  // The mean of logits is the logit of means.
  looks.predicted.assign(blocks, 0.0);
  for (int j = 0; j < layer.rows; ++j) {
    const int size = std::min(kBlock, layer.rows - j / kBlock * kBlock);
    for (int i = first; i < layer.rows; ++i)
      looks.predicted[static_cast<size_t>(j / kBlock)] +=
          layer.logit(i, query_head, j) / queries / size;
  }
  softmax(looks.predicted, blocks);
  return looks;
}

std::vector<double> sums_of_blocks(const std::vector<double>& x) {
  std::vector<double> sums((x.size() + kBlock - 1) / kBlock, 0.0);
  for (size_t i = 0; i < x.size(); ++i) sums[i / kBlock] += x[i];
  return sums;
}

int blocks_to_cover(std::vector<double> x, double gamma) {
  std::ranges::sort(x, std::greater());
  std::partial_sum(x.begin(), x.end(), x.begin());
  const auto within = std::ranges::count_if(x, [&](double sum) { return sum <= gamma; });
  return static_cast<int>(within + 1) / kBlock + 1;
}

Map flexible_oracle(const Layer& layer, int query_head, double gamma, double tau, int least,
                    bool* by_means = nullptr) {
  const int blocks = layer.blocks();
  const Looks looks = last_queries(layer, query_head);
  std::vector<double> vertical = sums_of_blocks(looks.vertical),
                      slash = sums_of_blocks(looks.slash);
  double divergence = 0;
  for (size_t b = 0; b < vertical.size(); ++b) {
    const double p = looks.predicted[b], a = vertical[b], m = (p + a) / 2;
    divergence += 0.5 * p * std::log(p / m) + (a > 0 ? 0.5 * a * std::log(a / m) : 0);
  }
  const bool means = std::sqrt(divergence) < tau;
  if (by_means) *by_means = means;
  const int floor = std::min(blocks, least);
  const int columns =
      means ? floor : std::clamp(blocks_to_cover(looks.vertical, gamma), floor, blocks);
  const int distances =
      means ? floor : std::clamp(blocks_to_cover(looks.slash, gamma), floor, blocks);
  vertical[0] = slash[0] = 1e9;
  Map map(static_cast<size_t>(blocks), std::vector<bool>(static_cast<size_t>(blocks)));
  for (int b = 0; b < blocks; ++b) {
    for (int n = 0; n < columns; ++n)
      if (best_first(vertical)[static_cast<size_t>(n)] <= b)
        map[static_cast<size_t>(b)]
           [static_cast<size_t>(best_first(vertical)[static_cast<size_t>(n)])] = true;
    for (int n = 0; n < distances; ++n)
      if (const int d = best_first(slash)[static_cast<size_t>(n)]; d <= b)
        map[static_cast<size_t>(b)][static_cast<size_t>(b - d)] = true;
  }
  if (!means) return map;
  std::vector<double> entries(static_cast<size_t>(blocks * blocks), 0.0);
  for (int b = 0; b < blocks; ++b) {
    std::vector<double> row(static_cast<size_t>(b + 1), 0.0);
    const int rows = std::min(kBlock, layer.rows - b * kBlock);
    for (int c = 0; c <= b; ++c) {
      const int keys = std::min(kBlock, layer.rows - c * kBlock);
      for (int i = 0; i < rows; ++i)
        for (int j = 0; j < keys; ++j)
          row[static_cast<size_t>(c)] +=
              layer.logit(b * kBlock + i, query_head, c * kBlock + j) / rows / keys;
    }
    softmax(row, row.size());
    std::ranges::copy(row, entries.begin() + b * blocks);
  }
  double covered = 0;
  for (const int entry : best_first(entries)) {
    covered += entries[static_cast<size_t>(entry)];
    if (covered > gamma * blocks) break;
    map[static_cast<size_t>(entry / blocks)][static_cast<size_t>(entry % blocks)] = true;
  }
  return map;
}

// Query head 0 looks at row 300, head 1 at its own neighbourhood, heads 2 and 3 at everything
// alike.
Layer with_patterns(int rows) {
  Layer layer(rows);
  for (int row = 0; row < rows; ++row)
    for (int d = 0; d < kDim; ++d) {
      layer.query(row, 0)[d] = layer.query(row, 0)[d] * 0.2f + (d < 8 ? 2.0f : 0.0f);
      if (row == 300) layer.key(0, row)[d] = d < 8 ? 3.0f : 0.0f;
      layer.query(row, 1)[d] = d < 8 ? 0.0f : layer.query(row, 1)[d];
      if (d >= 8 && d < 10) {
        const float angle = 0.0015f * static_cast<float>(row);
        layer.query(row, 1)[d] = 40 * (d == 8 ? std::cos(angle) : std::sin(angle));
        layer.key(0, row)[d] = 3 * (d == 8 ? std::cos(angle) : std::sin(angle));
      }
      for (const int head : {2, 3}) layer.query(row, head)[d] *= 0.1f;
    }
  return layer;
}

TEST(Flexprefill, ReadsWhatCoversTheAttentionOfTheLastQueries) {
  bool seen[2] = {false, false};
  for (const int rows : {1024, 900, 200}) {
    const Layer layer = with_patterns(rows);
    for (const double gamma : {0.6, 0.95}) {
      const ReadPlan plan = plan_of("flexprefill:least=200,gamma=" + std::to_string(gamma), layer);
      for (int head = 0; head < 2; ++head) {
        bool means = false;
        Map expected = flexible_oracle(layer, 2 * head, gamma, 0.1, 2, &means);
        seen[means] = true;
        unite(expected, flexible_oracle(layer, 2 * head + 1, gamma, 0.1, 2, &means));
        seen[means] = true;
        EXPECT_EQ(map_of(plan, head), expected) << rows << " rows, head " << head;
      }
    }
  }
  EXPECT_TRUE(seen[0] && seen[1]) << "both kinds of heads are met";
}

TEST(Flexprefill, ReadsColumnsAndNeighbourhoodsOnly) {
  const Layer layer = with_patterns(2048);
  const Map map = map_of(plan_of("flexprefill:least=256,tau=0,gamma=0.8", layer), 0);
  for (size_t block = 6; block < 16; ++block) {
    EXPECT_TRUE(map[block][2]) << "row 300";
    EXPECT_TRUE(map[block][block]);
    EXPECT_LT(std::ranges::count(map[block], true), 8);
  }
}

// ---- both

TEST(TileReaderMethods, ReadEverythingWhenTheyAreToldTo) {
  const Layer layer(700);
  EXPECT_TRUE(plan_of("flexprefill:gamma=1", layer).reads_all());
  EXPECT_TRUE(plan_of("xattention:threshold=1", layer).reads_all());
}

TEST(TileReaderMethods, ChooseTheSameOnAnyNumberOfThreads) {
  const Layer layer = with_patterns(900);
  for (const char* spec : {"flexprefill", "xattention"})
    EXPECT_EQ(plan_of(spec, layer, 1).ranges, plan_of(spec, layer, 3).ranges) << spec;
}

TEST(TileReaderMethods, HoldTheBudgetsOfTheMethodsTheyStandBeside) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "takes minutes with sanitizers; the toy prompts have the same specs";
#endif
  static const std::vector<std::byte> bytes = recall_model_bytes();
  const auto model = Model::load(GgufFile::parse(bytes, "recall.gguf"));
  const RecallPrompt prompt = make_recall_prompt(1500, 5, 3);
  for (const std::string reader :
       {"flexprefill", "flexprefill:gamma=1", "xattention:threshold=1"}) {
    Engine engine(model, {.threads = 2, .cache_bytes = size_t{512} << 20});
    const auto session = engine.open(reader + "+snapkv:budget=0.2");
    engine.prefill(*session, prompt.tokens);
    for (int l = 0; l < 4; ++l)
      for (int h = 0; h < 2; ++h)
        EXPECT_EQ(std::as_const(*session->store).at(l, h).rows(), 300) << reader;
    if (reader == "flexprefill") continue;
    // The last key of the list is the one the prompt ends with.
    const auto best = std::ranges::max_element(session->logits) - session->logits.begin();
    EXPECT_EQ(best, prompt.needles.back().value) << reader;
  }
}

}  // namespace
}  // namespace pith::test

// FlexPrefill (arXiv:2502.20766): the last 128 queries of a prompt show what a head looks at. If
// means of blocks predict it well, every block of queries chooses its blocks by means; otherwise
// columns
// ("vertical") and distances ("slash") that hold `gamma` of the attention are read by all.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/parallel.h"
#include "kernels/kernels.h"
#include "policy/ranges.h"
#include "policy/registry.h"

namespace pith {
namespace {

constexpr int64_t kBlock = ReadPlan::kBlock;
constexpr int64_t kKeys = 1024;  // of one pass over them

struct Pattern {
  std::vector<double> vertical, slash;  // [rows] mean mass of a row, of a distance
};

// How many of the largest entries hold `share` of the sum of 1, and one more.
int64_t covering(std::vector<double> x, double share) {
  std::ranges::sort(x, std::greater());
  double sum = 0;
  int64_t count = 0;
  for (const double value : x) {
    sum += value;
    if (sum > share) break;
    ++count;
  }
  return count + 1;
}

std::vector<double> block_sums(const std::vector<double>& x) {
  std::vector<double> sums((x.size() + kBlock - 1) / kBlock, 0.0);
  for (size_t i = 0; i < x.size(); ++i) sums[i / kBlock] += x[i];
  return sums;
}

void softmax(std::span<double> x) {
  const double most = *std::ranges::max_element(x);
  double sum = 0;
  for (double& value : x) sum += value = std::exp(value - most);
  for (double& value : x) value /= sum;
}

double root_of_divergence(std::span<const double> p, std::span<const double> q) {
  double sum = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const double middle = (p[i] + q[i]) / 2;
    if (p[i] > 0) sum += 0.5 * p[i] * std::log(p[i] / middle);
    if (q[i] > 0) sum += 0.5 * q[i] * std::log(q[i] / middle);
  }
  return std::sqrt(std::max(0.0, sum));
}

// Indices of the `count` largest, ties to the lower.
std::vector<int64_t> largest(const std::vector<double>& x, int64_t count) {
  std::vector<int64_t> order(x.size());
  std::iota(order.begin(), order.end(), int64_t{0});
  std::ranges::stable_sort(order, std::greater(), [&](int64_t i) { return x[i]; });
  order.resize(static_cast<size_t>(std::min<int64_t>(count, static_cast<int64_t>(x.size()))));
  return order;
}

std::vector<double> mean_rows(ConstMat x, int64_t first, int64_t last) {
  std::vector<double> mean(static_cast<size_t>(x.dim[1]), 0.0);
  for (int64_t r = first; r < last; ++r)
    for (size_t d = 0; d < mean.size(); ++d) mean[d] += x.row(r)[d];
  for (double& value : mean) value /= static_cast<double>(last - first);
  return mean;
}

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

class Flexible final : public TileReader {
 public:
  Flexible(double gamma, double tau, int least) : gamma_(gamma), tau_(tau), least_(least) {}

  void choose(const TileTap& tap, ReadPlan& plan) const override {
    if (gamma_ >= 1) {
      plan.clear();
      return;
    }
    const int64_t blocks = plan.blocks(), heads = tap.shape.query_heads;
    std::vector<std::vector<uint8_t>> read(static_cast<size_t>(heads));  // [blocks * blocks]
    tap.ops.threads().for_each(heads, [&](int64_t head, int) {
      read[static_cast<size_t>(head)].assign(static_cast<size_t>(blocks * blocks), 0);
      mark(tap, head, blocks, read[static_cast<size_t>(head)]);
    });
    std::vector<uint8_t> all(static_cast<size_t>(blocks));
    for (int64_t head = 0; head < plan.heads; ++head)
      for (int64_t block = 0; block < blocks; ++block) {
        std::ranges::fill(all, uint8_t{0});
        for (int64_t g = 0; g < tap.shape.group(); ++g)
          for (int64_t b = 0; b <= block; ++b)
            all[static_cast<size_t>(b)] |= read[static_cast<size_t>(head * tap.shape.group() + g)]
                                               [static_cast<size_t>(block * blocks + b)];
        plan.at(head, block) = marked_ranges(all, std::min(plan.rows, (block + 1) * kBlock));
      }
  }

 private:
  // Attention of the last queries, in two passes over the keys: sums first, then shares.
  static Pattern look(const TileTap& tap, int64_t query_head) {
    const int64_t rows = tap.k.dim[1], dim = tap.k.dim[2], queries = std::min(kBlock, rows);
    const int64_t head = query_head / tap.shape.group(), first = rows - queries;
    const AttentionRule& rule = tap.rule;
    std::vector<float> q(static_cast<size_t>(queries * dim));
    for (int64_t i = 0; i < queries; ++i)
      std::ranges::copy(tap.q[first + i].row(query_head), q.begin() + i * dim);
    std::vector<float> logits(static_cast<size_t>(queries * kKeys));
    std::vector<double> most(static_cast<size_t>(queries), -INFINITY), sum(most.size(), 0.0);
    const PageKernels& plain = active_kernels().page[static_cast<size_t>(Quant::f32)];
    const auto visit = [&](const auto& each) {
      for (int64_t key = 0; key < rows; key += kKeys) {
        const int64_t count = std::min(kKeys, rows - key);
        plain.score(reinterpret_cast<const std::byte*>(tap.k[head].row(key).data()),
                    static_cast<int>(count), static_cast<int>(dim), q.data(),
                    static_cast<int>(queries), logits.data(), kKeys);
        for (int64_t i = 0; i < queries; ++i)
          for (int64_t c = 0; c < count && key + c <= first + i; ++c) {
            const int64_t distance = int64_t{tap.positions[first + i]} - tap.positions[key + c];
            if (rule.window > 0 && distance >= rule.window) continue;
            double z = double{logits[static_cast<size_t>(i * kKeys + c)]} * rule.scale;
            if (rule.softcap > 0) z = rule.softcap * std::tanh(z / rule.softcap);
            if (!rule.alibi.empty())
              z -= double{rule.alibi[static_cast<size_t>(query_head)]} *
                   static_cast<double>(distance);
            each(static_cast<size_t>(i), key + c, z);
          }
      }
    };
    visit([&](size_t i, int64_t, double z) {
      if (z > most[i]) {
        sum[i] *= std::exp(most[i] - z);
        most[i] = z;
      }
      sum[i] += std::exp(z - most[i]);
    });
    Pattern pattern{std::vector<double>(static_cast<size_t>(rows), 0.0),
                    std::vector<double>(static_cast<size_t>(rows), 0.0)};
    visit([&](size_t i, int64_t row, double z) {
      const double p = std::exp(z - most[i]) / sum[i] / static_cast<double>(queries);
      pattern.vertical[static_cast<size_t>(row)] += p;
      pattern.slash[static_cast<size_t>(first + static_cast<int64_t>(i) - row)] += p;
    });
    return pattern;
  }

  void mark(const TileTap& tap, int64_t query_head, int64_t blocks,
            std::vector<uint8_t>& read) const {
    const int64_t rows = tap.k.dim[1], group = tap.shape.group();
    const double scale = tap.rule.scale;
    const Pattern pattern = look(tap, query_head);
    std::vector<double> vertical = block_sums(pattern.vertical);
    std::vector<double> slash = block_sums(pattern.slash);
    int64_t columns =
        std::clamp(covering(pattern.vertical, gamma_) / kBlock + 1, least(blocks), blocks);
    int64_t distances =
        std::clamp(covering(pattern.slash, gamma_) / kBlock + 1, least(blocks), blocks);

    // Whether means of blocks predict where the last queries look.
    const ConstMat queries{
        tap.q.data + query_head * tap.q.stride[1], {rows, tap.q.dim[2]}, {tap.q.stride[0], 1}};
    std::vector<std::vector<double>> keys;
    for (int64_t b = 0; b < blocks; ++b)
      keys.push_back(
          mean_rows(tap.k[query_head / group], b * kBlock, std::min(rows, (b + 1) * kBlock)));
    std::vector<double> predicted;
    predicted.reserve(keys.size());
    const std::vector<double> last = mean_rows(queries, std::max<int64_t>(0, rows - kBlock), rows);
    for (const std::vector<double>& key : keys) predicted.push_back(dot(last, key) * scale);
    softmax(predicted);
    const bool by_means = root_of_divergence(predicted, vertical) < tau_;
    if (by_means) columns = distances = least(blocks);

    vertical[0] = slash[0] = INFINITY;  // the first block and the queries' own
    const std::vector<int64_t> best_columns = largest(vertical, columns);
    for (int64_t block = 0; block < blocks; ++block) {
      uint8_t* const row = read.data() + block * blocks;
      for (const int64_t b : best_columns)
        if (b <= block) row[b] = 1;
      for (const int64_t d : largest(slash, distances))
        if (d <= block) row[block - d] = 1;
    }
    if (!by_means) return;

    // The largest entries of the whole map of block means, up to gamma of it.
    std::vector<double> map(static_cast<size_t>(blocks * blocks), 0.0);
    for (int64_t block = 0; block < blocks; ++block) {
      const std::vector<double> query =
          mean_rows(queries, block * kBlock, std::min(rows, (block + 1) * kBlock));
      const std::span<double> row = std::span(map).subspan(static_cast<size_t>(block * blocks),
                                                           static_cast<size_t>(block + 1));
      for (int64_t b = 0; b <= block; ++b) row[b] = dot(query, keys[b]) * scale;
      softmax(row);
    }
    double covered = 0;
    for (const int64_t entry : largest(map, static_cast<int64_t>(map.size()))) {
      covered += map[static_cast<size_t>(entry)];
      if (covered > gamma_ * static_cast<double>(blocks)) break;
      read[static_cast<size_t>(entry)] = 1;
    }
  }

  int64_t least(int64_t blocks) const { return std::min<int64_t>(blocks, least_); }

  double gamma_, tau_;
  int64_t least_;  // blocks
};

const RegisterMethod flexprefill{{
    .name = "flexprefill",
    .summary = "read as much of a prompt as each head's last queries need",
    .source = "arXiv:2502.20766",
    .family = "attention: sparse reading",
    .build =
        [](Options& o, const KvShape& /*shape*/, Policy& p) {
          const double gamma =
              o.ratio("gamma", 0.9, "share of the attention that is read; 1: all of it");
          const double tau = o.ratio(
              "tau", 0.1, "largest divergence at which means of blocks choose; 0: they never do");
          const int least = o.count("least", 512, "rows that each pattern reads at least", 1);
          p.tile_reader = std::make_unique<Flexible>(
              gamma, tau, static_cast<int>((least + kBlock - 1) / kBlock));
        },
    .cost = "a prompt: two passes of 128 queries over the keys and a map of block means per layer, "
            "to save most of attention where it is sparse; the queries of one layer are held; "
            "a token: nothing",
    .departures =
        {"Blocks are chosen for each query head and read by its whole group: the union.",
         "As in the reference, the first block is one of the columns that are counted, and "
         "columns are counted as if the rows that cover gamma lay side by side: attention to "
         "scattered rows needs a larger `least`.",
         "gamma=1 reads every row, bit for bit the full prompt.",
         "Distances are gathered into blocks from the diagonal outwards; the reference counts from "
         "the far end, the same where the prompt is whole blocks.",
         "The divergence of blocks without attention counts as 0; the reference's logarithm of 0 "
         "makes it undefined and the head vertical-slash."},
}};

}  // namespace
}  // namespace pith

// Expected attention (arXiv:2510.00636; kvpress ExpectedAttentionPress, methods.md 9.9): queries to
// come are taken to be drawn from the distribution of those of the prompt, before rotation, and
// turned by the average rotation of the positions ahead. With a normal distribution the expected
// exp(q.k) has a closed form:
//   e = scale k.m' + scale^2 / 2 k^T C' k,  m' = R m, C' = R C R^T,  R the mean rotation
// and a row's score is softmax(e), averaged over the group, times the norm of its value.
#include <algorithm>
#include <cmath>
#include <vector>

#include "base/parallel.h"
#include "policy/defaults.h"
#include "policy/registry.h"

namespace pith {
namespace {

struct MeanRotation {
  std::vector<double> cos, sin;  // of each pair
};

MeanRotation mean_rotation(const Rope& rope, int first, int positions) {
  MeanRotation mean;
  for (const float frequency : rope.inv_freq) {
    double c = 0, s = 0;
    for (int p = 0; p < positions; ++p) {
      const double angle = double{frequency} * (first + p);
      c += std::cos(angle);
      s += std::sin(angle);
    }
    mean.cos.push_back(c / positions);
    mean.sin.push_back(s / positions);
  }
  return mean;
}

// Turns x in place; element i is x[i * step].
void turn(const MeanRotation& by, bool half_split, double* x, int64_t step) {
  const int64_t pairs = static_cast<int64_t>(by.cos.size());
  for (int64_t i = 0; i < pairs; ++i) {
    double& a = x[(half_split ? i : 2 * i) * step];
    double& b = x[(half_split ? i + pairs : 2 * i + 1) * step];
    const double c = by.cos[static_cast<size_t>(i)], s = by.sin[static_cast<size_t>(i)], old = a;
    a = old * c - b * s;
    b = old * s + b * c;
  }
}

class ExpectedAttention final : public Scorer {
 public:
  struct Settings {
    int queries = 4096, sinks = 4, future = 512;
    bool covariance = true, values = true;
    double epsilon = 0;
  };
  explicit ExpectedAttention(const Settings& settings) : s_(settings) {}
  Demand demand() const override { return {.window_queries = s_.queries}; }

  void score_prompt(const LayerTap& tap, Mat scores) const override {
    const int64_t rows = scores.dim[1], dim = tap.shape.dim;
    const int query_heads = tap.shape.query_heads, group = tap.shape.group();
    const std::unique_ptr<Buffer> before = queries_before_rotation(tap);
    const int64_t window = std::min<int64_t>(tap.window_q.dim[0], s_.queries);
    // Sinks attract every query whatever it asks, and the first queries are like no other.
    const std::span<const int32_t> positions = tap.rows.positions;
    const int64_t sinks = std::ranges::lower_bound(positions, s_.sinks) - positions.begin();
    const int64_t skip = std::clamp<int64_t>(sinks - (rows - window), 0, window - 1);
    const MeanRotation ahead = mean_rotation(tap.rope, positions.back() + 1, s_.future);

    std::vector<float> means(static_cast<size_t>(query_heads * dim)),
        covariances(static_cast<size_t>(query_heads * dim * dim));
    const float* const all = static_cast<const float*>(before->data());
    tap.ops.threads().for_each(query_heads, [&](int64_t h, int) {
      moments(all + skip * query_heads * dim + h * dim, window - skip, query_heads * dim, ahead,
              tap.rope.half_split, means.data() + h * dim, covariances.data() + h * dim * dim, dim);
    });

    std::vector<double> logits(static_cast<size_t>(rows));
    const std::unique_ptr<Buffer> product =
        tap.ops.allocate(static_cast<size_t>(rows * dim) * sizeof(float));
    const Mat turned = Mat::packed(static_cast<float*>(product->data()), {rows, dim});
    for (int h = 0; h < tap.shape.heads; ++h) std::ranges::fill(scores.row(h), 0.0f);
    for (int h = 0; h < query_heads; ++h) {
      const ConstMat k = tap.ops.to_host(tap.rows.k[h / group]);
      if (s_.covariance) {
        const float* const c = covariances.data() + h * dim * dim;
        tap.ops.matmul(tap.rows.k[h / group],
                       {DType::f32, reinterpret_cast<const std::byte*>(c), dim, dim}, turned);
      }
      const ConstMat ck = tap.ops.to_host(turned);
      const float* const mean = means.data() + h * dim;
      const double scale = tap.rule.scale;
      tap.ops.threads().for_each(rows, [&](int64_t r, int) {
        double first = 0, second = 0;
        for (int64_t d = 0; d < dim; ++d) {
          first += double{k.row(r)[static_cast<size_t>(d)]} * mean[d];
          if (s_.covariance)
            second += double{k.row(r)[static_cast<size_t>(d)]} * ck.row(r)[static_cast<size_t>(d)];
        }
        logits[static_cast<size_t>(r)] = scale * first + scale * scale / 2 * second;
      });
      add_softmax(logits, std::min(sinks, rows), 1.0 / group, scores.row(h / group));
    }
    finish(tap, std::min(sinks, rows), scores);
  }

 private:
  std::unique_ptr<Buffer> queries_before_rotation(const LayerTap& tap) const {
    ConstCube q = tap.window_q;  // other roles may have asked for more queries
    const int64_t window = std::min<int64_t>(q.dim[0], s_.queries);
    q.data += (q.dim[0] - window) * q.stride[0];
    const int64_t width = q.dim[1] * q.dim[2];
    auto copy = tap.ops.allocate(static_cast<size_t>(window * width) * sizeof(float));
    const Cube own = Cube::packed(static_cast<float*>(copy->data()), {window, q.dim[1], q.dim[2]});
    std::vector<int32_t> all(static_cast<size_t>(window));
    for (int64_t r = 0; r < window; ++r) all[static_cast<size_t>(r)] = static_cast<int32_t>(r);
    tap.ops.gather({q.data, {window, width}, {q.stride[0], 1}}, all,
                   Mat::packed(own.data, {window, width}));
    tap.ops.rope(own, tap.rows.positions.last(static_cast<size_t>(window)), tap.rope, -1);
    return copy;
  }

  // Mean and covariance of one head's queries, turned by the rotation ahead.
  void moments(const float* q, int64_t count, int64_t stride, const MeanRotation& ahead,
               bool half_split, float* mean_out, float* covariance_out, int64_t dim) const {
    std::vector<double> mean(static_cast<size_t>(dim)), c(static_cast<size_t>(dim * dim));
    for (int64_t i = 0; i < count; ++i)
      for (int64_t d = 0; d < dim; ++d) mean[static_cast<size_t>(d)] += q[i * stride + d];
    for (double& x : mean) x /= static_cast<double>(count);
    if (s_.covariance) {
      std::vector<double> x(static_cast<size_t>(dim));
      for (int64_t i = 0; i < count; ++i) {
        for (int64_t d = 0; d < dim; ++d)
          x[static_cast<size_t>(d)] = q[i * stride + d] - mean[static_cast<size_t>(d)];
        for (int64_t a = 0; a < dim; ++a)
          for (int64_t b = 0; b < dim; ++b)
            c[static_cast<size_t>(a * dim + b)] +=
                x[static_cast<size_t>(a)] * x[static_cast<size_t>(b)];
      }
      for (double& value : c) value /= static_cast<double>(count);
      for (int64_t a = 0; a < dim; ++a)
        turn(ahead, half_split, &c[static_cast<size_t>(a * dim)], 1);
      for (int64_t b = 0; b < dim; ++b) turn(ahead, half_split, &c[static_cast<size_t>(b)], dim);
    }
    turn(ahead, half_split, mean.data(), 1);
    std::ranges::transform(mean, mean_out, [](double x) { return static_cast<float>(x); });
    std::ranges::transform(c, covariance_out, [](double x) { return static_cast<float>(x); });
  }

  // Adds `share` of the softmax over the rows behind the sinks.
  static void add_softmax(std::vector<double>& logits, int64_t sinks, double share,
                          std::span<float> into) {
    const auto first = logits.begin() + sinks;
    if (first == logits.end()) return;
    const double most = *std::max_element(first, logits.end());
    double sum = 0;
    for (auto x = first; x != logits.end(); ++x) sum += * x = std::exp(*x - most);
    for (size_t r = static_cast<size_t>(sinks); r < logits.size(); ++r)
      into[r] += static_cast<float>(share * logits[r] / sum);
  }

  // Values, and sinks above all others.
  void finish(const LayerTap& tap, int64_t sinks, Mat scores) const {
    std::vector<float> memory(static_cast<size_t>(scores.dim[0] * scores.dim[1]));
    const Mat norms = Mat::packed(memory.data(), scores.dim);
    if (s_.values) tap.ops.row_norms(tap.rows.v, norms);
    for (int h = 0; h < tap.shape.heads; ++h) {
      const std::span<float> score = scores.row(h);
      if (s_.values)
        for (size_t r = 0; r < score.size(); ++r)
          score[r] = (score[r] + static_cast<float>(s_.epsilon)) * norms.row(h)[r];
      const float most = *std::ranges::max_element(score);
      std::ranges::fill(score.first(static_cast<size_t>(sinks)), most);
    }
  }

  Settings s_;
};

const RegisterMethod expected{{
    .name = "expected",
    .summary = "keep what queries to come are expected to attend to",
    .source = "arXiv:2510.00636",
    .family = "selection: attention scores",
    .build =
        [](Options& o, const KvShape& /*shape*/, Policy& p) {
          protect_options(o, p, {.sink = 4, .recent = 1});
          ExpectedAttention::Settings s;
          s.sinks = p.protect.sink;
          s.queries = o.count("queries", 4096, "last prompt queries that stand for those to come",
                              1, 1 << 20);
          s.future = o.count("future", 512, "positions ahead that are averaged over", 1, 1 << 20);
          s.covariance = o.flag("covariance", true, "use the covariance of the queries too");
          s.values = o.flag("values", true, "multiply by the norms of the values");
          s.epsilon = o.number("epsilon", 0, "added to the attention before that", 0, 1);
          p.scorer = std::make_unique<ExpectedAttention>(s);
        },
    .cost = "a prompt: dim^2 products per row and query head, and as many per query; memory for "
            "`queries` queries; a token: nothing",
    .departures =
        {"The distribution is that of the last 4096 queries; the paper takes all of the prompt but "
         "its first 4. queries=1048576 takes them all, and holds them for a layer.",
         "Rows are kept per key/value head, by the mean over its query heads, as the reference "
         "does.",
         "Soft caps of logits and sliding windows are not part of the closed form.",
         "It scores the prompt only: the reference keeps hidden states to go on while generating."},
}};

}  // namespace
}  // namespace pith

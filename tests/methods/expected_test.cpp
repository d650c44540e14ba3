#include <algorithm>
#include <cmath>

#include "gtest/gtest.h"
#include "support/recorded_rows.h"
#include "support/score_oracles.h"
#include "support/toy_prompt.h"

namespace pith::test {
namespace {

constexpr size_t kDim = 16;
using Matrix = std::vector<Doubles>;

// The rotation of RoPE by an angle per pair, as a matrix: row vector x turns into M x.
Matrix mean_rotation(const std::vector<float>& inv_freq, int first, int count) {
  Matrix m(kDim, Doubles(kDim));
  for (size_t i = 0; i < kDim / 2; ++i)
    for (int p = first; p < first + count; ++p) {
      const double angle = double{inv_freq[i]} * p;
      m[i][i] += std::cos(angle) / count;
      m[i][i + kDim / 2] -= std::sin(angle) / count;
      m[i + kDim / 2][i] += std::sin(angle) / count;
      m[i + kDim / 2][i + kDim / 2] += std::cos(angle) / count;
    }
  return m;
}

Doubles times(const Matrix& m, const Doubles& x) {
  Doubles y(kDim);
  for (size_t a = 0; a < kDim; ++a)
    for (size_t b = 0; b < kDim; ++b) y[a] += m[a][b] * x[b];
  return y;
}

Doubles oracle_scores(const ToyPrompt& prompt, const RecordedLayer& layer, int head, int from) {
  const size_t rows = static_cast<size_t>(layer.k_dim[1]);
  const Matrix ahead = mean_rotation(prompt.inv_freq(), static_cast<int>(rows), 512);
  Doubles attention(rows);
  for (int64_t g = 2 * head; g < 2 * head + 2; ++g) {
    std::vector<Doubles> queries;  // before rotation
    for (size_t i = static_cast<size_t>(from); i < rows; ++i) {
      const auto q = layer.queries()[static_cast<int64_t>(i)].row(g);
      const Matrix back = mean_rotation(prompt.inv_freq(), -static_cast<int>(i), 1);
      queries.push_back(times(back, {q.begin(), q.end()}));
    }
    Doubles mean(kDim);
    const double n = static_cast<double>(queries.size());
    for (const Doubles& q : queries)
      for (size_t d = 0; d < kDim; ++d) mean[d] += q[d] / n;
    Matrix c(kDim, Doubles(kDim));
    for (const Doubles& q : queries)
      for (size_t a = 0; a < kDim; ++a)
        for (size_t b = 0; b < kDim; ++b) c[a][b] += (q[a] - mean[a]) * (q[b] - mean[b]) / n;
    const Doubles turned = times(ahead, mean);
    Doubles e;
    double sum = 0;
    for (size_t r = 4; r < rows; ++r) {
      const auto k = layer.keys()[head].row(static_cast<int64_t>(r));
      // k^T R C R^T k = (R^T k)^T C (R^T k)
      Doubles seen(kDim);
      for (size_t a = 0; a < kDim; ++a)
        for (size_t b = 0; b < kDim; ++b) seen[b] += ahead[a][b] * k[a];
      double first = 0, second = 0;
      for (size_t a = 0; a < kDim; ++a) {
        first += k[a] * turned[a];
        for (size_t b = 0; b < kDim; ++b) second += seen[a] * c[a][b] * seen[b];
      }
      e.push_back(std::exp(first / std::sqrt(16.0) + second / (2 * 16.0)));
      sum += e.back();
    }
    for (size_t r = 4; r < rows; ++r) attention[r] += e[r - 4] / sum / 2;
  }
  for (size_t r = 0; r < rows; ++r) {
    double norm = 0;
    for (const float x : layer.values()[head].row(static_cast<int64_t>(r))) norm += double{x} * x;
    attention[r] *= std::sqrt(norm);
  }
  return attention;
}

TEST(Expected, KeepsWhatANormalDistributionOfQueriesWouldAttendTo) {
  ToyPrompt prompt("expected:budget=50");
  std::vector<RecordedLayer> seen;
  record_layers(prompt, seen);
  prompt.prefill(160);
  for (int l = 0; l < 4; ++l)
    for (int h = 0; h < 2; ++h)
      EXPECT_EQ(prompt.kept(l, h),
                oracle_rows(oracle_scores(prompt, seen[static_cast<size_t>(l)], h, 4), 50, 4, 1));
}

TEST(Expected, TakesTheDistributionFromTheLastQueriesIfAskedTo) {
  ToyPrompt prompt("expected:budget=50,queries=40");
  std::vector<RecordedLayer> seen;
  record_layers(prompt, seen);
  prompt.prefill(160);
  EXPECT_EQ(prompt.kept(1, 1), oracle_rows(oracle_scores(prompt, seen[1], 1, 120), 50, 4, 1));
}

// The closed form is the mean of exp(q.k) over normal q: draws must agree with it.
TEST(Expected, AgreesWithDrawnQueries) {
  ToyPrompt prompt("expected:budget=40,values=false,future=1");
  std::vector<RecordedLayer> seen;
  record_layers(prompt, seen);
  prompt.prefill(300);
  const RecordedLayer& layer = seen[0];
  // Queries of the prompt, turned to the next position: what "from the same distribution" means.
  Doubles attention(300);
  for (int64_t g = 0; g < 2; ++g) {
    Doubles weight(300);
    for (int64_t i = 4; i < 300; ++i) {
      const auto q = layer.queries()[i].row(g);
      const Doubles turned = times(mean_rotation(prompt.inv_freq(), 300 - static_cast<int>(i), 1),
                                   {q.begin(), q.end()});
      for (size_t r = 4; r < 300; ++r) {
        double z = 0;
        for (size_t d = 0; d < kDim; ++d)
          z += turned[d] * layer.keys()[0].row(static_cast<int64_t>(r))[d];
        weight[r] += std::exp(z / 4);
      }
    }
    double sum = 0;
    for (const double w : weight) sum += w;
    for (size_t r = 0; r < 300; ++r) attention[r] += weight[r] / sum;
  }
  const auto drawn = oracle_rows(attention, 40, 4, 1), kept = prompt.kept(0, 0);
  std::vector<int32_t> both;
  std::ranges::set_intersection(drawn, kept, std::back_inserter(both));
  EXPECT_GE(both.size(), 28u);  // 40 of 300 by chance: 9
}

}  // namespace
}  // namespace pith::test

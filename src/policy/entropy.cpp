#include "policy/entropy.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "base/error.h"

namespace pith {
namespace {

// Householder reflections take the matrix to a tridiagonal one with the same eigenvalues: diagonal
// and, from index 1 on, what stands beside it.
void tridiagonalise(std::vector<double>& a, int n, std::vector<double>& diagonal,
                    std::vector<double>& beside) {
  const auto at = [&](int r, int c) -> double& { return a[static_cast<size_t>(r * n + c)]; };
  std::vector<double> v(static_cast<size_t>(n)), w(static_cast<size_t>(n));
  for (int k = 0; k + 2 < n; ++k) {
    double norm = 0;
    for (int i = k + 1; i < n; ++i) norm += at(i, k) * at(i, k);
    norm = std::sqrt(norm);
    if (norm == 0) continue;
    const double alpha = at(k + 1, k) > 0 ? -norm : norm;
    double length = 0;
    for (int i = k + 1; i < n; ++i) {
      v[i] = at(i, k) - (i == k + 1 ? alpha : 0);
      length += v[i] * v[i];
    }
    if (length == 0) continue;
    // A <- H A H with H = I - 2 v v^T / v^T v, on the block behind k.
    double vw = 0;
    for (int i = k + 1; i < n; ++i) {
      w[i] = 0;
      for (int j = k + 1; j < n; ++j) w[i] += at(i, j) * v[j];
      w[i] *= 2 / length;
      vw += v[i] * w[i];
    }
    for (int i = k + 1; i < n; ++i) w[i] -= vw / length * v[i];
    for (int i = k + 1; i < n; ++i)
      for (int j = k + 1; j < n; ++j) at(i, j) -= v[i] * w[j] + w[i] * v[j];
    at(k + 1, k) = at(k, k + 1) = alpha;
  }
  for (int i = 0; i < n; ++i) {
    diagonal.push_back(at(i, i));
    beside.push_back(i > 0 ? at(i, i - 1) : 0);
  }
}

// How many eigenvalues of the tridiagonal matrix lie below x (Sturm's sequence).
int below(const std::vector<double>& d, const std::vector<double>& e, double x) {
  int count = 0;
  double q = 1;
  for (size_t i = 0; i < d.size(); ++i) {
    const double off = i > 0 ? e[i] * e[i] : 0;
    q = d[i] - x - (i > 0 ? off / q : 0);
    if (q == 0) q = std::numeric_limits<double>::min();
    count += q < 0;
  }
  return count;
}

}  // namespace

std::vector<double> symmetric_eigenvalues(std::vector<double> matrix, int n) {
  PITH_CHECK(matrix.size() == static_cast<size_t>(n) * static_cast<size_t>(n), "a square matrix");
  std::vector<double> d, e;
  tridiagonalise(matrix, n, d, e);
  double low = 0, high = 0;  // Gershgorin's discs
  for (int i = 0; i < n; ++i) {
    const double radius = std::abs(e[i]) + (i + 1 < n ? std::abs(e[i + 1]) : 0);
    low = i == 0 ? d[i] - radius : std::min(low, d[i] - radius);
    high = i == 0 ? d[i] + radius : std::max(high, d[i] + radius);
  }
  std::vector<double> values;
  for (int k = n - 1; k >= 0; --k) {  // bisection cannot fail to converge
    double a = low, b = values.empty() ? high : values.back();
    b = std::max(a, b + 1e-15 * std::abs(b));
    for (int i = 0; i < 60 && b - a > 1e-14 * (std::abs(a) + std::abs(b)); ++i) {
      const double middle = (a + b) / 2;
      (below(d, e, middle) <= k ? a : b) = middle;
    }
    values.push_back((a + b) / 2);
  }
  return values;
}

std::vector<double> spectrum(ConstMat rows) {
  const int64_t n = rows.dim[0], dim = rows.dim[1];
  std::vector<double> mean(static_cast<size_t>(dim)), moment(static_cast<size_t>(dim * dim)),
      x(static_cast<size_t>(dim));
  for (int64_t r = 0; r < n; ++r)
    for (int64_t d = 0; d < dim; ++d) mean[d] += rows.row(r)[d] / static_cast<double>(n);
  for (int64_t r = 0; r < n; ++r) {
    double length = 0;
    for (int64_t d = 0; d < dim; ++d) {
      x[d] = rows.row(r)[d] - mean[d];
      length += x[d] * x[d];
    }
    if (length == 0) continue;
    for (int64_t a = 0; a < dim; ++a)
      for (int64_t b = 0; b <= a; ++b) moment[a * dim + b] += x[a] * x[b] / length;
  }
  double trace = 0;
  for (int64_t d = 0; d < dim; ++d) trace += moment[d * dim + d];
  for (int64_t a = 0; a < dim; ++a)
    for (int64_t b = 0; b <= a; ++b) {
      double value = trace > 0 ? moment[a * dim + b] / trace : 0;
      if (a == b) value += 1e-10;
      moment[a * dim + b] = moment[b * dim + a] = value;
    }
  return symmetric_eigenvalues(std::move(moment), static_cast<int>(dim));
}

double truncated_entropy(const std::vector<double>& spectrum, int keep) {
  const size_t n = spectrum.size();
  size_t last = std::min(static_cast<size_t>(std::max(0, keep)), n);
  if (keep == 0) {
    last = std::max<size_t>(1, n / 4);
    double farthest = 0;
    const double span = spectrum.front() - spectrum.back();
    for (size_t i = 0; i < n && span > 0 && n > 1; ++i) {
      const double along = static_cast<double>(i) / static_cast<double>(n - 1);
      const double under = 1 - along - (spectrum[i] - spectrum.back()) / span;
      if (under > farthest) {
        farthest = under;
        last = i + 1;
      }
    }
  }
  double entropy = 0;
  for (size_t i = 0; i < last; ++i)
    if (spectrum[i] > 0) entropy -= spectrum[i] * std::log(spectrum[i]);
  return n > 1 ? entropy / std::log(static_cast<double>(n)) : 0;
}

}  // namespace pith

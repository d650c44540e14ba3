#include "runtime/sampler.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <numeric>
#include <string>
#include <utility>

#include "base/error.h"

namespace pith {
namespace {

constexpr float kForbidden = -std::numeric_limits<float>::infinity();
// Stands for plus infinity, so that differences of logits stay numbers.
constexpr float kCertain = std::numeric_limits<float>::max();

void require(bool holds, const char* name, double value, const char* range) {
  if (holds) return;
  char number[32];
  std::snprintf(number, sizeof number, "%g", value);
  std::string what = name;
  what.append(" is ").append(number).append("; it must be ").append(range);
  throw Error(Errc::bad_option, what);
}

void check(const SamplingOptions& o) {
  // Written so that NaN fails.
  require(o.temperature >= 0 && std::isfinite(o.temperature), "temperature", o.temperature,
          "0 or more");
  require(o.top_k >= 0, "top_k", o.top_k, "0 or more");
  require(o.top_p >= 0 && o.top_p <= 1, "top_p", o.top_p, "0 to 1");
  require(o.min_p >= 0 && o.min_p <= 1, "min_p", o.min_p, "0 to 1");
  require(o.typical_p >= 0 && o.typical_p <= 1, "typical_p", o.typical_p, "0 to 1");
  require(o.min_keep >= 1, "min_keep", o.min_keep, "1 or more");
  require(o.penalty_last >= -1, "penalty_last", o.penalty_last, "-1 or more");
  require(o.repeat_penalty > 0 && std::isfinite(o.repeat_penalty), "repeat_penalty",
          o.repeat_penalty, "more than 0");
  require(std::isfinite(o.frequency_penalty), "frequency_penalty", o.frequency_penalty, "finite");
  require(std::isfinite(o.presence_penalty), "presence_penalty", o.presence_penalty, "finite");
  require(o.mirostat == 0 || o.mirostat == 2, "mirostat", o.mirostat, "0 or 2");
  require(o.mirostat_tau >= 0 && std::isfinite(o.mirostat_tau), "mirostat_tau", o.mirostat_tau,
          "0 or more");
  require(o.mirostat_eta >= 0 && std::isfinite(o.mirostat_eta), "mirostat_eta", o.mirostat_eta,
          "0 or more");
  for (const auto& [token, bias] : o.logit_bias)
    require(!std::isnan(bias), "the bias of a logit", bias, "a number or an infinity");
}

}  // namespace

// A total order, so that any way of sorting gives one result.
bool Sampler::likelier(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

Sampler::Sampler(const SamplingOptions& options)
    : options_(options), random_(options.seed), mu_(2.0 * options.mirostat_tau) {
  check(options_);
}

int32_t Sampler::sample(std::span<float> logits, std::span<const int32_t> history) {
  for (const auto& [token, bias] : options_.logit_bias) {
    if (token < 0 || static_cast<size_t>(token) >= logits.size())
      throw Error(Errc::bad_option, "a logit bias is on token " + std::to_string(token) +
                                        ", but there are " + std::to_string(logits.size()) +
                                        " tokens");
    // What is forbidden stays so, whichever side forbids it.
    float& logit = logits[static_cast<size_t>(token)];
    logit = bias == kForbidden ? kForbidden : logit + bias;
  }
  penalise(logits, history);
  if (options_.temperature == 0) {
    const auto best = std::ranges::max_element(
        logits, {}, [](float logit) { return std::isnan(logit) ? kForbidden : logit; });
    if (best != logits.end() && *best > kForbidden)
      return static_cast<int32_t>(best - logits.begin());
  }
  collect(logits);
  if (candidates_.empty())
    throw Error(Errc::bad_request,
                "no token is left to choose: every logit is forbidden or not a number");
  if (options_.mirostat == 2) return draw_mirostat();
  if (options_.top_k > 0) keep_top_k();
  if (options_.typical_p < 1) keep_typical();
  if (options_.top_p < 1) keep_top_p();
  if (options_.min_p > 0) keep_min_p();
  return draw();
}

void Sampler::penalise(std::span<float> logits, std::span<const int32_t> history) {
  const SamplingOptions& o = options_;
  if (o.repeat_penalty == 1 && o.frequency_penalty == 0 && o.presence_penalty == 0) return;
  if (o.penalty_last >= 0 && static_cast<size_t>(o.penalty_last) < history.size())
    history = history.last(static_cast<size_t>(o.penalty_last));
  counts_.resize(logits.size());
  const auto known = [&](int32_t token) {
    return token >= 0 && static_cast<size_t>(token) < counts_.size();
  };
  for (const int32_t token : history)
    if (known(token)) ++counts_[static_cast<size_t>(token)];
  for (const int32_t token : history) {
    if (!known(token)) continue;
    const int32_t count = std::exchange(counts_[static_cast<size_t>(token)], 0);
    if (count == 0) continue;  // seen already
    float& logit = logits[static_cast<size_t>(token)];
    logit = logit > 0 ? logit / o.repeat_penalty : logit * o.repeat_penalty;
    logit -= static_cast<float>(count) * o.frequency_penalty + o.presence_penalty;
  }
}

void Sampler::collect(std::span<const float> logits) {
  candidates_.clear();
  sorted_ = 0;
  for (size_t token = 0; token < logits.size(); ++token)
    if (logits[token] > kForbidden)  // false for NaN
      candidates_.push_back({std::min(logits[token], kCertain), static_cast<int32_t>(token)});
}

// Makes the first `count` candidates the likeliest, in order. Sorting all of a vocabulary of
// 150,000 takes ten times longer than finding its best forty.
void Sampler::sort_first(size_t count) {
  count = std::min(count, candidates_.size());
  if (count <= sorted_) return;
  const auto begin = candidates_.begin() + static_cast<std::ptrdiff_t>(sorted_);
  const auto end = candidates_.begin() + static_cast<std::ptrdiff_t>(count);
  if (count - sorted_ > 1024) {  // a heap of many is slower than cutting first
    std::nth_element(begin, end - 1, candidates_.end(), likelier);
    std::sort(begin, end, likelier);
  } else {
    std::partial_sort(begin, end, candidates_.end(), likelier);
  }
  sorted_ = count;
}

void Sampler::keep_top_k() {
  const size_t count = std::max(static_cast<size_t>(options_.top_k), at_least());
  if (count >= candidates_.size()) return;
  sort_first(count);
  candidates_.resize(count);
}

// Those whose surprise is nearest to the expected one, until they reach typical_p.
void Sampler::keep_typical() {
  sort_first(1);
  const double best = candidates_.front().logit;
  double sum = 0, weighted = 0;
  for (const Candidate& candidate : candidates_) {
    const double below = candidate.logit - best, weight = std::exp(below);
    sum += weight;
    if (weight > 0) weighted += weight * below;
  }
  // -ln p = ln(sum) - below; the mean of it is the entropy, so ln(sum) drops out of the distance.
  const double mean = weighted / sum;
  weights_.clear();
  for (const Candidate& candidate : candidates_)
    weights_.push_back(std::abs(candidate.logit - best - mean));
  std::vector<uint32_t> order(candidates_.size());
  std::iota(order.begin(), order.end(), 0u);
  const auto nearer = [&](uint32_t a, uint32_t b) {
    return weights_[a] != weights_[b] ? weights_[a] < weights_[b]
                                      : candidates_[a].token < candidates_[b].token;
  };
  std::vector<Candidate> kept;
  double reached = 0;
  size_t sorted = 0;
  while (kept.size() < order.size() &&
         (reached < options_.typical_p * sum || kept.size() < at_least())) {
    if (kept.size() == sorted) {
      sorted = std::min(order.size(), std::max<size_t>(256, 4 * sorted));
      std::partial_sort(order.begin() + static_cast<std::ptrdiff_t>(kept.size()),
                        order.begin() + static_cast<std::ptrdiff_t>(sorted), order.end(), nearer);
    }
    const Candidate& candidate = candidates_[order[kept.size()]];
    reached += std::exp(candidate.logit - best);
    kept.push_back(candidate);
  }
  candidates_.swap(kept);
  sorted_ = 0;
}

// The likeliest, up to and with the one that reaches top_p.
void Sampler::keep_top_p() {
  sort_first(1);
  const double best = candidates_.front().logit;
  double sum = 0;
  for (const Candidate& candidate : candidates_) sum += std::exp(candidate.logit - best);
  double reached = 0;
  size_t count = 0;
  while (count < candidates_.size() && (reached < options_.top_p * sum || count < at_least())) {
    if (count == sorted_) sort_first(std::max<size_t>(64, 4 * sorted_));
    reached += std::exp(candidates_[count++].logit - best);
  }
  candidates_.resize(count);
  sorted_ = std::min(sorted_, count);
}

void Sampler::keep_min_p() {
  sort_first(at_least());
  const double least = candidates_.front().logit + std::log(static_cast<double>(options_.min_p));
  size_t count = std::min(at_least(), candidates_.size());
  const size_t in_order = std::max(sorted_, count);
  size_t still_sorted = count;
  for (size_t i = count; i < candidates_.size(); ++i) {
    if (candidates_[i].logit < least) continue;
    if (i < in_order) still_sorted = count + 1;
    candidates_[count++] = candidates_[i];
  }
  candidates_.resize(count);
  sorted_ = still_sorted;
}

// Every token with the share its probability has at the temperature.
int32_t Sampler::draw() {
  sort_first(1);
  const double best = candidates_.front().logit;
  weights_.clear();
  double sum = 0;
  for (const Candidate& candidate : candidates_)
    weights_.push_back(sum += std::exp((candidate.logit - best) / options_.temperature));
  const double at = random_.uniform() * sum;
  auto chosen = std::ranges::upper_bound(weights_, at);
  // Rounding may put `at` on the sum itself; the last token of any weight reaches it first.
  if (chosen == weights_.end()) chosen = std::ranges::lower_bound(weights_, sum);
  return candidates_[static_cast<size_t>(chosen - weights_.begin())].token;
}

// Mirostat 2: tokens of more surprise than mu are cut, and mu follows the surprise of what was
// drawn towards tau.
int32_t Sampler::draw_mirostat() {
  sort_first(1);
  const double best = candidates_.front().logit;
  const auto weight = [&](const Candidate& candidate) {
    return std::exp((candidate.logit - best) / options_.temperature);
  };
  double sum = 0;
  for (const Candidate& candidate : candidates_) sum += weight(candidate);
  const double least = std::exp2(-mu_) * sum;
  size_t count = 1;  // the likeliest stays, however surprising
  for (size_t i = 1; i < candidates_.size(); ++i)
    if (weight(candidates_[i]) >= least) candidates_[count++] = candidates_[i];
  candidates_.resize(count);
  double kept = 0;
  for (const Candidate& candidate : candidates_) kept += weight(candidate);
  const int32_t token = draw();
  const auto drawn = std::ranges::find(candidates_, token, &Candidate::token);
  mu_ -= options_.mirostat_eta * (std::log2(kept / weight(*drawn)) - options_.mirostat_tau);
  return token;
}

}  // namespace pith

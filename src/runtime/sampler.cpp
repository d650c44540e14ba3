#include "runtime/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <unordered_map>

namespace pith {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

bool likelier(const std::pair<float, int32_t>& a, const std::pair<float, int32_t>& b) {
  return a.first != b.first ? a.first > b.first : a.second < b.second;
}

// The first of the largest; NaN never wins.
int32_t most_likely(std::span<const float> logits) {
  int32_t best = 0;
  float value = kNever;
  for (size_t t = 0; t < logits.size(); ++t)
    if (logits[t] > value) {
      value = logits[t];
      best = static_cast<int32_t>(t);
    }
  return best;
}

void penalise(std::span<float> logits, std::span<const int32_t> history, const SamplingOptions& o) {
  const bool neutral = o.repeat_penalty == 1 && o.frequency_penalty == 0 && o.presence_penalty == 0;
  if (neutral || o.penalty_last == 0) return;
  const size_t last = o.penalty_last < 0
                          ? history.size()
                          : std::min(history.size(), static_cast<size_t>(o.penalty_last));
  std::unordered_map<int32_t, int> counts;
  for (const int32_t token : history.last(last)) ++counts[token];
  for (const auto& [token, count] : counts) {
    if (token < 0 || static_cast<size_t>(token) >= logits.size()) continue;
    float& logit = logits[static_cast<size_t>(token)];
    logit = logit > 0 ? logit / o.repeat_penalty : logit * o.repeat_penalty;
    logit -= static_cast<float>(count) * o.frequency_penalty + o.presence_penalty;
  }
}

// Logits of sorted candidates to probabilities.
void softmax(std::vector<std::pair<float, int32_t>>& sorted) {
  const float best = sorted.front().first;
  double sum = 0;
  for (auto& [value, token] : sorted) sum += value = std::exp(value - best);
  for (auto& [value, token] : sorted) value = static_cast<float>(value / sum);
}

}  // namespace

Sampler::Sampler(const SamplingOptions& options)
    : options_(options), random_(options.seed), mu_(2 * options.mirostat_tau) {}

// Candidates with their logits, the likeliest first. Sorting a vocabulary of 150,000 costs ten
// times what decoding a small model's token does, so only what can survive the filters is sorted:
// the top k, or those within reach of min-p and of a probability that rounds to nothing.
void Sampler::collect(std::span<const float> logits) {
  candidates_.clear();
  const float best = logits[static_cast<size_t>(most_likely(logits))];
  const float reach = std::max(60.0f, 20 * options_.temperature);  // exp(-60): below any draw
  for (size_t t = 0; t < logits.size(); ++t)
    if (logits[t] >= best - reach) candidates_.emplace_back(logits[t], static_cast<int32_t>(t));
  if (candidates_.empty()) candidates_.emplace_back(0.0f, most_likely(logits));
  const size_t keep = options_.top_k > 0 && options_.mirostat == 0
                          ? std::max<size_t>(static_cast<size_t>(options_.top_k),
                                             static_cast<size_t>(std::max(1, options_.min_keep)))
                          : candidates_.size();
  if (keep < candidates_.size()) {
    std::nth_element(candidates_.begin(), candidates_.begin() + static_cast<ptrdiff_t>(keep),
                     candidates_.end(), likelier);
    candidates_.resize(keep);
  }
  std::ranges::sort(candidates_, likelier);
}

// Keeps the first `count` candidates, at least min_keep of them.
void Sampler::cut(size_t count) {
  count = std::max(count, static_cast<size_t>(std::max(1, options_.min_keep)));
  if (count < candidates_.size()) candidates_.resize(count);
}

// Locally typical sampling (arXiv:2202.00666): the tokens whose surprise is nearest to the expected
// one, until their probabilities add up to typical_p.
void Sampler::keep_typical() {
  std::vector<std::pair<float, int32_t>> p = candidates_;
  softmax(p);
  double entropy = 0;
  for (const auto& [value, token] : p)
    if (value > 0) entropy -= static_cast<double>(value) * std::log(value);
  std::vector<std::pair<double, size_t>> order;
  for (size_t i = 0; i < p.size(); ++i)
    order.emplace_back(p[i].first > 0 ? std::abs(-std::log(p[i].first) - entropy)
                                      : std::numeric_limits<double>::infinity(),
                       i);
  std::ranges::sort(order);
  double sum = 0;
  size_t count = 0;
  while (count < order.size() && sum < options_.typical_p) sum += p[order[count++].second].first;
  count =
      std::min(order.size(), std::max(count, static_cast<size_t>(std::max(1, options_.min_keep))));
  std::vector<std::pair<float, int32_t>> kept;
  for (size_t i = 0; i < count; ++i) kept.push_back(candidates_[order[i].second]);
  std::ranges::sort(kept, likelier);
  candidates_ = std::move(kept);
}

int32_t Sampler::draw(const std::vector<std::pair<float, int32_t>>& probabilities) {
  double at = random_.uniform();
  for (const auto& [p, token] : probabilities) {
    at -= p;
    if (at < 0) return token;
  }
  return probabilities.front().second;  // rounding: the sum fell short of the draw
}

// Mirostat 2 (arXiv:2007.14966): tokens more surprising than mu are cut, and mu follows the
// surprise of what was drawn towards tau, in bits.
int32_t Sampler::mirostat() {
  for (auto& candidate : candidates_) candidate.first /= std::max(1e-6f, options_.temperature);
  softmax(candidates_);
  size_t count = 0;
  while (count < candidates_.size() && -std::log2(candidates_[count].first) <= mu_) ++count;
  candidates_.resize(std::max<size_t>(1, count));
  double sum = 0;
  for (const auto& candidate : candidates_) sum += candidate.first;
  for (auto& candidate : candidates_) candidate.first = static_cast<float>(candidate.first / sum);
  const int32_t token = draw(candidates_);
  for (const auto& candidate : candidates_)
    if (candidate.second == token)
      mu_ -= options_.mirostat_eta * (-std::log2(candidate.first) - options_.mirostat_tau);
  return token;
}

int32_t Sampler::sample(std::span<float> logits, std::span<const int32_t> history) {
  for (float& logit : logits)
    if (std::isnan(logit)) logit = kNever;
  for (const auto& [token, bias] : options_.logit_bias)
    if (token >= 0 && static_cast<size_t>(token) < logits.size())
      logits[static_cast<size_t>(token)] += bias;
  penalise(logits, history, options_);
  if (options_.mirostat == 0 && options_.temperature <= 0) return most_likely(logits);

  collect(logits);
  if (options_.mirostat != 0) return mirostat();
  if (options_.typical_p < 1) keep_typical();
  if (options_.top_p < 1) {
    std::vector<std::pair<float, int32_t>> p = candidates_;
    softmax(p);
    double sum = 0;
    size_t count = 0;
    while (count < p.size() && sum < options_.top_p) sum += p[count++].first;
    cut(count);
  }
  if (options_.min_p > 0) {
    const float least = candidates_.front().first + std::log(options_.min_p);
    size_t count = 0;
    while (count < candidates_.size() && candidates_[count].first >= least) ++count;
    cut(count);
  }
  for (auto& candidate : candidates_) candidate.first /= options_.temperature;
  softmax(candidates_);
  return draw(candidates_);
}

}  // namespace pith

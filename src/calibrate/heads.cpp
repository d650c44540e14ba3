#include "calibrate/heads.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <unordered_map>

#include "base/error.h"
#include "base/random.h"
#include "kernels/kernels.h"
#include "policy/observer.h"
#include "runtime/engine.h"

namespace pith {
namespace {

enum Sum : size_t { kEcho, kInduction, kRetrieval, kCopy, kLogit };

// Probability that a query of a tile pays to a row.
class TileRows {
 public:
  explicit TileRows(const DenseAttention& job)
      : job_(job), group_(job.q.dim[1] / job.k.dim[0]), dim_(job.q.dim[2]) {}

  double logit(int64_t query, int64_t head, int64_t row) const {
    const float* const q = job_.q[query].row(head).data();
    const float* const k = job_.k[head / group_].row(row).data();
    double z = 0;
    for (int64_t d = 0; d < dim_; ++d) z += double{q[d]} * double{k[d]};
    const AttentionRule& rule = job_.rule;
    z *= rule.scale;
    if (rule.softcap > 0) z = rule.softcap * std::tanh(z / rule.softcap);
    const int64_t distance = int64_t{job_.positions[job_.first_row + query]} - job_.positions[row];
    if (rule.window > 0 && distance >= rule.window) return -INFINITY;
    if (!rule.alibi.empty())
      z -= double{rule.alibi[static_cast<size_t>(head)]} * static_cast<double>(distance);
    return z;
  }

  double share(int64_t query, int64_t head, int64_t row) const {
    return std::exp(logit(query, head, row) - job_.lse.row(query)[static_cast<size_t>(head)]);
  }

 private:
  const DenseAttention& job_;
  int64_t group_, dim_;
};

// Ordinary tokens: those of the paper where the vocabulary has them, else its upper half, where
// control and byte tokens do not lie.
struct TokenRange {
  int32_t first, count;
};
TokenRange ordinary_tokens(int vocab) {
  if (vocab >= 12500) return {10000, 2500};
  return {vocab / 2, vocab - vocab / 2};
}

// Adds up echo and induction for every row that has been seen before.
class RepeatObserver final : public PromptObserver {
 public:
  RepeatObserver(std::span<const int32_t> tokens, int first_row, SampleSums& sums)
      : sums_(sums),
        first_row_(first_row),
        counted_(static_cast<double>(tokens.size()) - first_row) {
    std::unordered_map<int32_t, std::vector<int32_t>> seen;
    for (size_t i = 0; i < tokens.size(); ++i) {
      std::vector<int32_t>& rows = seen[tokens[i]];
      earlier_.push_back(rows);
      rows.push_back(static_cast<int32_t>(i));
    }
  }

  bool wants_tensors(int) const override { return true; }

  void attended(int layer, const DenseAttention& job) override {
    if (!job.rule.alibi.empty()) find_largest_logits(layer, job);
    const TileRows rows(job);
    for (int64_t i = 0; i < job.q.dim[0]; ++i) {
      const int64_t row = job.first_row + i;
      if (row < first_row_) continue;
      for (int64_t head = 0; head < job.q.dim[1]; ++head) {
        double echo = 0, induction = 0;
        for (const int32_t before : earlier_[static_cast<size_t>(row)]) {
          echo += rows.share(i, head, before);
          induction += rows.share(i, head, before + 1);
        }
        const auto at = static_cast<size_t>(layer * job.q.dim[1] + head);
        sums_.at(kEcho)[at] += static_cast<float>(echo / counted_);
        sums_.at(kInduction)[at] += static_cast<float>(induction / counted_);
      }
    }
  }

 private:
  // Of all pairs, before slopes: how far a head with slopes can look follows from it.
  void find_largest_logits(int layer, const DenseAttention& job) {
    const int64_t heads = job.k.dim[0], group = job.q.dim[1] / heads;
    const PageKernels& plain = active_kernels().page[static_cast<size_t>(Quant::f32)];
    for (int64_t i = 0; i < job.q.dim[0]; ++i) {
      const int64_t seen = job.first_row + i + 1;
      products_.resize(static_cast<size_t>(group * seen));
      for (int64_t head = 0; head < heads; ++head) {
        plain.score(reinterpret_cast<const std::byte*>(job.k[head].data), static_cast<int>(seen),
                    static_cast<int>(job.q.dim[2]), job.q[i].row(head * group).data(),
                    static_cast<int>(group), products_.data(), seen);
        for (int64_t g = 0; g < group; ++g) {
          float& most =
              sums_.at(kLogit)[static_cast<size_t>(layer * job.q.dim[1] + head * group + g)];
          for (int64_t r = 0; r < seen; ++r)
            most = std::max(
                most, std::abs(products_[static_cast<size_t>(g * seen + r)]) * job.rule.scale);
        }
      }
    }
  }

  SampleSums& sums_;
  std::vector<float> products_;
  int first_row_;
  double counted_;
  std::vector<std::vector<int32_t>> earlier_;  // [rows] rows of the same token
};

struct NeedlePrompt {
  std::vector<int32_t> tokens;  // ends with the key and all of the value but its last token
  int value_row = 0;            // where the value stands in the haystack
};

NeedlePrompt make_needle(Random& random, std::span<const int32_t> haystack, TokenRange range,
                         int32_t begin, const HeadOptions& options) {
  const auto draw = [&](int count) {
    std::vector<int32_t> tokens(static_cast<size_t>(count));
    for (int32_t& t : tokens)
      t = range.first + static_cast<int32_t>(random.below(static_cast<uint64_t>(range.count)));
    return tokens;
  };
  const int around = 3 * options.value + (begin >= 0 ? 1 : 0);
  const int hay = options.tokens - around;
  NeedlePrompt prompt;
  if (begin >= 0) prompt.tokens.push_back(begin);
  std::vector<int32_t> hidden;
  if (haystack.size() >= static_cast<size_t>(hay)) {
    const auto first = random.below(haystack.size() - static_cast<size_t>(hay) + 1);
    hidden.assign(haystack.begin() + static_cast<ptrdiff_t>(first),
                  haystack.begin() + static_cast<ptrdiff_t>(first) + hay);
  } else {
    hidden = draw(hay);
  }
  const std::vector<int32_t> key = draw(options.value), value = draw(options.value);
  // Between 5 % and 90 % of the haystack, so that heads that look nearby do not see it.
  const int depth =
      hay / 20 + static_cast<int>(random.below(static_cast<uint64_t>(std::max(1, hay * 17 / 20))));
  const auto add = [&](auto first, auto last) {
    prompt.tokens.insert(prompt.tokens.end(), first, last);
  };
  add(hidden.begin(), hidden.begin() + depth);
  add(key.begin(), key.end());
  prompt.value_row = static_cast<int>(prompt.tokens.size());
  add(value.begin(), value.end());
  add(hidden.begin() + depth, hidden.end());
  add(key.begin(), key.end());
  add(value.begin(), value.end() - 1);
  return prompt;
}

// Adds up what the rows that copy a needle attend to.
class NeedleObserver final : public PromptObserver {
 public:
  NeedleObserver(const NeedlePrompt& prompt, int value, SampleSums& sums)
      : prompt_(prompt), value_(value), sums_(sums) {}

  bool wants_tensors(int) const override { return true; }

  void attended(int layer, const DenseAttention& job) override {
    const TileRows rows(job);
    const auto end = static_cast<int64_t>(prompt_.tokens.size());
    for (int64_t i = 0; i < job.q.dim[0]; ++i) {
      const int64_t row = job.first_row + i, step = row - (end - value_);
      if (step < 0) continue;
      std::vector<double> shares(static_cast<size_t>(row + 1));
      for (int64_t head = 0; head < job.q.dim[1]; ++head) {
        for (int64_t r = 0; r <= row; ++r) shares[static_cast<size_t>(r)] = rows.share(i, head, r);
        add(static_cast<size_t>(layer * job.q.dim[1] + head), shares, step);
      }
    }
  }

 private:
  // Of the `value` rows attended to most: those that are the needle's count.
  void add(size_t at, const std::vector<double>& shares, int64_t step) {
    std::vector<int32_t> order(shares.size());
    std::iota(order.begin(), order.end(), 0);
    const auto most = std::min<ptrdiff_t>(value_, static_cast<ptrdiff_t>(order.size()));
    std::partial_sort(order.begin(), order.begin() + most, order.end(), [&](int32_t a, int32_t b) {
      return shares[a] != shares[b] ? shares[a] > shares[b] : a < b;
    });
    double found = 0;
    for (auto it = order.begin(); it != order.begin() + most; ++it)
      if (*it >= prompt_.value_row && *it < prompt_.value_row + value_)
        found += shares[static_cast<size_t>(*it)];
    sums_.at(kRetrieval)[at] += static_cast<float>(found / value_);
    if (order[0] == prompt_.value_row + step)
      sums_.at(kCopy)[at] += 1.0f / static_cast<float>(value_);
  }

  const NeedlePrompt& prompt_;
  int value_;
  SampleSums& sums_;
};

int32_t begin_token(const Engine& engine) {
  return engine.model().file().has("tokenizer.ggml.model") ? engine.tokenizer().begin_token() : -1;
}

}  // namespace

std::vector<int32_t> repeated_sequence(const Engine& engine, const HeadOptions& options,
                                       int sample) {
  const TokenRange range = ordinary_tokens(engine.model().config().vocab);
  Random random(options.seed, static_cast<uint64_t>(sample) << 32);
  std::vector<int32_t> once(static_cast<size_t>(options.repeated)), tokens;
  for (int32_t& t : once)
    t = range.first + static_cast<int32_t>(random.below(static_cast<uint64_t>(range.count)));
  if (const int32_t begin = begin_token(engine); begin >= 0) tokens.push_back(begin);
  for (int copy = 0; copy < 4; ++copy) tokens.insert(tokens.end(), once.begin(), once.end());
  return tokens;
}

HeadFinding find_heads(Engine& engine, std::span<const int32_t> haystack,
                       const HeadOptions& options, const std::string& progress_file,
                       Monitor& monitor) {
  const ModelConfig& config = engine.model().config();
  const KvShape& shape = config.shape;
  const TokenRange range = ordinary_tokens(config.vocab);
  const int32_t begin = begin_token(engine);
  if (options.value < 1 || options.tokens < 10 * options.value || options.repeated < 2)
    throw Error(Errc::bad_request, "a needle of " + std::to_string(options.value) +
                                       " tokens needs a prompt of at least " +
                                       std::to_string(10 * options.value) + " tokens");

  const std::vector<int64_t> dims = {shape.query_heads, shape.layers};
  const auto heads = static_cast<size_t>(shape.query_heads) * static_cast<size_t>(shape.layers);
  std::vector<CalibrationTensor> zero;
  for (const char* name : {"echo", "induction", "retrieval", "copy", "logit"})
    zero.push_back({name, dims, std::vector<float>(heads, 0.0f)});
  std::string signature = "heads " + config.digest + " " + std::to_string(options.seed);
  for (const int number : {options.repeated, options.sequences, options.needles, options.tokens,
                           options.value, engine.options().tile_rows})
    signature += " " + std::to_string(number);
  signature += " " + text_digest(std::as_bytes(haystack));
  SampleSums sums(progress_file, signature, std::move(zero));

  const int samples = options.sequences + options.needles;
  while (sums.done() < samples) {
    const int sample = sums.done();
    monitor.progress("samples", sample, samples);
    monitor.check();
    if (sample < options.sequences) {
      const std::vector<int32_t> tokens = repeated_sequence(engine, options, sample);
      RepeatObserver observer(tokens, static_cast<int>(tokens.size()) - 3 * options.repeated, sums);
      look_at_prompt(engine, tokens, observer, monitor);
    } else {
      Random random(options.seed, static_cast<uint64_t>(sample) << 32);
      const NeedlePrompt prompt = make_needle(random, haystack, range, begin, options);
      NeedleObserver observer(prompt, options.value, sums);
      look_at_prompt(engine, prompt.tokens, observer, monitor);
    }
    sums.finish_sample();
  }
  monitor.progress("samples", samples, samples);

  HeadFinding finding;
  const auto mean = [&](Sum what, int count) {
    std::vector<float> values(sums.at(what).begin(), sums.at(what).end());
    for (float& value : values) value /= static_cast<float>(std::max(1, count));
    return values;
  };
  finding.echo = mean(kEcho, options.sequences);
  finding.induction = mean(kInduction, options.sequences);
  finding.retrieval = mean(kRetrieval, options.needles);
  finding.copy = mean(kCopy, options.needles);
  finding.logit = mean(kLogit, 1);
  for (int l = 0; l < shape.layers; ++l)
    for (int h = 0; h < shape.heads; ++h) {
      float most = 0;
      for (int g = 0; g < shape.group(); ++g) {
        const auto at = static_cast<size_t>(l * shape.query_heads + h * shape.group() + g);
        most = std::max({most, finding.induction[at], finding.copy[at]});
      }
      if (most >= options.least) finding.retrieving.emplace_back(l, h);
    }
  return finding;
}

std::vector<CalibrationTensor> head_tensors(const HeadFinding& finding, const KvShape& shape) {
  const std::vector<int64_t> dims = {shape.query_heads, shape.layers};
  return {{"heads.echo", dims, finding.echo},
          {"heads.induction", dims, finding.induction},
          {"heads.retrieval", dims, finding.retrieval},
          {"heads.copy", dims, finding.copy},
          {"heads.logit", dims, finding.logit}};
}

}  // namespace pith

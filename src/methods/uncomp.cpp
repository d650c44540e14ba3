// UNComp (arXiv:2410.03090): the truncated matrix entropy of a head's queries tells how much it
// looks at. Heads with high entropy keep more rows; layers fall into stages, and where a new stage
// begins fewer tokens travel on. methods.md section 4.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "base/error.h"
#include "base/parallel.h"
#include "policy/calibration.h"
#include "policy/defaults.h"
#include "policy/entropy.h"
#include "policy/registry.h"
#include "policy/shares.h"
#include "policy/token_steps.h"

namespace pith {
namespace {

constexpr int kWatched = 8;  // last queries that decide which tokens travel on, as in the code

class ByEntropy final : public Budget {
 public:
  struct Settings {
    int groups = 2, queries = 512, truncate = 32;
    double ratio = 2;
    std::vector<float> entropy;  // [layers, query_heads] of a file; empty: measured in the prompt
  };
  explicit ByEntropy(Settings settings) : s_(std::move(settings)) {}
  bool needs_amount() const override { return true; }
  Demand demand() const override { return {.window_queries = s_.entropy.empty() ? s_.queries : 0}; }

  void assign(const ScoreBoard& board, BudgetTable& table) const override {
    std::vector<int> even;
    if (!even_shares(board, even)) return;
    const int layer = board.newest_layer(), safe = board.protected_rows(), heads = table.heads;
    const std::vector<double> entropy = entropies(board);
    std::vector<int> order(static_cast<size_t>(heads));  // highest entropy first
    std::iota(order.begin(), order.end(), 0);
    std::ranges::stable_sort(order, [&](int a, int b) {
      return entropy[static_cast<size_t>(a)] > entropy[static_cast<size_t>(b)];
    });
    // Budgets fall in a line from the first group to the last.
    const int groups = std::min(s_.groups, heads);
    std::vector<double> weights(static_cast<size_t>(heads));
    for (int i = 0; i < heads; ++i) {
      const int group = i * groups / heads;
      const double down = groups > 1 ? static_cast<double>(group) / (groups - 1) : 0;
      weights[static_cast<size_t>(order[static_cast<size_t>(i)])] =
          s_.ratio + (1 - s_.ratio) * down;
    }
    std::vector<int> caps;
    caps.reserve(static_cast<size_t>(heads));
    for (int h = 0; h < heads; ++h) caps.push_back(std::max(0, board.most_rows(layer, h) - safe));
    const std::vector<int> rows =
        share_rows(weights, caps, even[static_cast<size_t>(layer)] * heads);
    for (int h = 0; h < heads; ++h) table.at(layer, h) = safe + rows[static_cast<size_t>(h)];
  }

 private:
  // Of each key/value head: the mean of its query heads.
  std::vector<double> entropies(const ScoreBoard& board) const {
    const KvShape& shape = board.shape();
    std::vector<double> of_queries(static_cast<size_t>(shape.query_heads));
    const LayerTap* tap = board.tap();
    if (!s_.entropy.empty()) {
      const auto first = s_.entropy.begin() +
                         static_cast<std::ptrdiff_t>(board.newest_layer()) * shape.query_heads;
      std::copy(first, first + shape.query_heads, of_queries.begin());
    } else if (tap) {
      ConstCube q = tap->window_q;  // other roles may have asked for more queries
      const int64_t window = std::min<int64_t>(s_.queries, q.dim[0]);
      q.data += (q.dim[0] - window) * q.stride[0];
      const ConstMat all =
          tap->ops.to_host({q.data, {window, q.dim[1] * q.dim[2]}, {q.stride[0], 1}});
      tap->ops.threads().for_each(shape.query_heads, [&](int64_t h, int) {
        const ConstMat head{all.data + h * shape.dim, {window, shape.dim}, all.stride};
        of_queries[static_cast<size_t>(h)] = truncated_entropy(spectrum(head), s_.truncate);
      });
    }
    std::vector<double> mean(static_cast<size_t>(shape.heads));
    for (size_t h = 0; h < of_queries.size(); ++h)
      mean[h / static_cast<size_t>(shape.group())] += of_queries[h] / shape.group();
    return mean;
  }

  Settings s_;
};

class ShrinkByStage final : public Router {
 public:
  ShrinkByStage(std::vector<int> stage, Amount least) : stage_(std::move(stage)), least_(least) {}
  Demand demand() const override { return {.window_queries = kWatched}; }
  bool needs_scores() const override { return false; }

  void route(const LayerTap& tap, ConstMat /*scores*/, Protect protect,
             StreamPlan& plan) const override {
    const size_t next = static_cast<size_t>(tap.layer) + 1;
    if (next >= stage_.size() || stage_[next] == stage_[next - 1]) return;
    const int least = std::min(least_.of(tap.prompt_tokens), tap.prompt_tokens);
    const int stages = std::max(1, stage_.back());
    const int step = (tap.prompt_tokens - least) / stages;
    protect.recent = std::max(protect.recent, kWatched);
    travel_on(paid_by_last(tap, kWatched), least + step * (stages - stage_[next]), protect, plan);
  }

 private:
  std::vector<int> stage_;  // [layers]
  Amount least_;
};

// What the reference code uses for models of 32 and of 40 layers; nothing for others.
std::vector<int> stages_of(int layers) {
  const auto from = [&](std::vector<int> begins) {
    std::vector<int> stage;
    stage.reserve(static_cast<size_t>(layers));
    for (int l = 0; l < layers; ++l)
      stage.push_back(static_cast<int>(std::ranges::upper_bound(begins, l) - begins.begin()));
    return stage;
  };
  if (layers == 32) return from({2, 15, 26, 31});
  if (layers == 40) return from({1, 3, 15, 23, 31, 35, 37});
  return {};
}

std::vector<int> read_stages(Options& o, const KvShape& shape, const Calibration* file) {
  std::vector<int> stages = stages_of(shape.layers);
  if (file && !o.describes()) {
    stages.clear();
    for (const float s : file->tensor("entropy.stage", static_cast<size_t>(shape.layers)))
      stages.push_back(static_cast<int>(s));
    const bool rise = stages.front() == 0 && std::ranges::is_sorted(stages);
    if (!rise || stages.back() > shape.layers)
      throw Error(Errc::bad_file,
                  "uncomp: the stages of the calibration file do not rise from 0; calibrate again");
  }
  if (stages.empty())
    o.fail("stages=true needs calibration=... for a model of " + std::to_string(shape.layers) +
           " layers; make the file with `pith calibrate entropy`");
  return stages;
}

void build_uncomp(Options& o, const KvShape& shape, Policy& p) {
  ByEntropy::Settings s;
  s.groups = o.count("groups", 2, "groups of heads, by entropy", 1, 64);
  const double ratio = o.number(
      "ratio", 0, "budget of the first group over the last's; 0: 2 for two or three groups, else 5",
      0, 1000);
  if (ratio > 0 && ratio < 1) o.refuse("ratio", "0, or 1 and more");
  s.ratio = ratio > 0 ? ratio : s.groups < 4 ? 2 : 5;
  s.queries = o.count("queries", 512, "last prompt queries whose entropy counts", 2, 1 << 20);
  s.truncate = o.count("truncate", 32, "eigenvalues that count; 0: up to the elbow");
  const Calibration* file = nullptr;
  if (o.given("calibration") || o.describes())
    file =
        &o.calibration("calibration", "entropies; without a file they are measured in each prompt",
                       "pith calibrate entropy");
  if (file && !o.describes()) {
    const std::span<const float> entropy =
        file->tensor("entropy.heads",
                     static_cast<size_t>(shape.layers) * static_cast<size_t>(shape.query_heads));
    s.entropy.assign(entropy.begin(), entropy.end());
  }
  const bool stages = o.flag("stages", false, "fewer tokens travel on from stage to stage");
  const Amount least = o.amount("least", {.rows = 1536}, "tokens that reach the last stage");
  if (least.bytes > 0) o.refuse("least", "a number or a share of the prompt");
  if (stages) p.router = std::make_unique<ShrinkByStage>(read_stages(o, shape, file), least);
  default_vote(p, {.window = 8, .width = 7, .pool = Pool::mean, .fades = true});
  p.reduce_every =
      o.count("reduce_every", 1, "generated tokens between reductions; 0: the prompt only");
  p.budget = std::make_unique<ByEntropy>(std::move(s));
}

const RegisterMethod uncomp{{
    .name = "uncomp",
    .summary = "let matrix entropy decide how many rows heads keep, and tokens layers see",
    .source = "arXiv:2410.03090",
    .family = "hybrid: budgets of layers and heads",
    .build = build_uncomp,
    .cost =
        "a prompt: snapkv's vote, and without a file dim^2 products per query and head and the "
        "eigenvalues of a dim x dim matrix; a token: its probabilities, and one row leaves each "
        "head",
    .departures =
        {"The mean over heads is the budget. In the reference two groups get 3/2 and 3/4 of it, "
         "12.5 % more in the mean.",
         "While generating, votes of the last 8 queries are a sum that fades by 1/8 a token; the "
         "reference keeps their 8 attention rows.",
         "Stages shrink from the length of the prompt; the reference shrinks from the model's "
         "window, and leaves shorter prompts alone.",
         "The last 8 tokens always travel; in the reference they may be lost.",
         "The entropy of a key/value head is the mean of its query heads.",
         "Stages of models with other than 32 or 40 layers come from a calibration file."},
}};

}  // namespace
}  // namespace pith

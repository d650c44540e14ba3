// RazorAttention (arXiv:2407.15891): few heads look far back; they keep everything. The others keep
// the first rows and a buffer of the newest, and one compensation row, the mean of all they
// dropped, whose logit gets the logarithm of how many those were. methods.md section 3.
//
// With ALiBi slopes (3.3) no search for heads is needed: attention falls by the slope per token, so
// a head has a horizon behind which all rows together get less than `epsilon`:
//   horizon = (2 C + log(longest / epsilon)) / slope,   C = the largest |q.k| of the head
// because exp(z_far) <= epsilon / longest * exp(z_self) there. Nothing needs compensation.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "policy/calibration.h"
#include "policy/defaults.h"
#include "policy/registry.h"

namespace pith {
namespace {

// [layers, query_heads] of the file -> [layers, heads], the largest of each group: a head retrieves
// if one of its query heads does.
std::vector<float> strongest(const Calibration& file, std::string_view name, const KvShape& shape) {
  const std::span<const float> all =
      file.tensor(name, static_cast<size_t>(shape.layers) * static_cast<size_t>(shape.query_heads));
  std::vector<float> out;
  const auto group = static_cast<size_t>(shape.group());
  for (size_t first = 0; first < all.size(); first += group)
    out.push_back(*std::ranges::max_element(all.subspan(first, group)));
  return out;
}

[[noreturn]] void wrong_form(const char* form, const char* has) {
  throw Error(Errc::bad_option, std::string("razor: the model has ") + has + "; say form=" + form);
}

class RetrievalHeads final : public Budget {
 public:
  RetrievalHeads(std::vector<uint8_t> retrieves, int sink, int least, double factor)
      : retrieves_(std::move(retrieves)), sink_(sink), least_(least), factor_(factor) {}

  void assign(const ScoreBoard& board, BudgetTable& table) const override {
    if (board.tap() && !board.tap()->rule.alibi.empty()) wrong_form("alibi", "ALiBi slopes");
    const int buffer =
        std::max(least_, static_cast<int>(std::lround(board.prompt_tokens() / factor_)));
    for (int l = 0; l < table.layers; ++l)
      for (int h = 0; h < table.heads; ++h) {
        const size_t i = static_cast<size_t>(l) * static_cast<size_t>(table.heads) + h;
        // A sliding window forgets by itself, and would not forget a compensation row.
        const bool all = retrieves_[i] != 0 || board.shape().window(l) > 0;
        table.rows[i] = all ? BudgetTable::kAll : sink_ + buffer;
      }
  }

 private:
  std::vector<uint8_t> retrieves_;  // [layers, heads]
  int sink_, least_;
  double factor_;
};

class Horizons final : public Budget {
 public:
  Horizons(std::vector<float> logits, int sink, double decay)
      : logits_(std::move(logits)), sink_(sink), decay_(decay) {}

  void assign(const ScoreBoard& board, BudgetTable& table) const override {
    if (!board.tap()) return;
    const std::span<const float> slopes = board.tap()->rule.alibi;
    if (slopes.empty()) wrong_form("rope", "no ALiBi slopes");
    constexpr int kMost = BudgetTable::kAll / 2;
    const int layer = board.newest_layer(), group = board.shape().group();
    for (int h = 0; h < table.heads; ++h) {
      double furthest = 0;
      for (int g = h * group; g < (h + 1) * group; ++g) {
        const size_t i = static_cast<size_t>(layer) * slopes.size() + static_cast<size_t>(g);
        furthest = std::max(furthest, (2.0 * logits_[i] + decay_) / slopes[static_cast<size_t>(g)]);
      }
      table.at(layer, h) =
          furthest < kMost ? sink_ + static_cast<int>(std::ceil(furthest)) : BudgetTable::kAll;
    }
  }

 private:
  std::vector<float> logits_;  // [layers, query_heads] largest |scale q.k|
  int sink_;
  double decay_;
};

// Sinks and the newest rows stay whatever they score; the others, and what was folded before,
// become one mean row.
class FoldIntoMean final : public Reducer {
 public:
  explicit FoldIntoMean(bool folds) : folds_(folds) {}
  bool needs_vectors() const override { return folds_; }

  void reduce(const HeadView& head, int budget, HeadPlan& plan) const override {
    const int rows = static_cast<int>(head.positions.size());
    const int sink = std::min(head.protect.sink, budget), newest = budget - sink;
    plan.keep.resize(static_cast<size_t>(budget));
    std::iota(plan.keep.begin(), plan.keep.begin() + sink, 0);
    std::iota(plan.keep.begin() + sink, plan.keep.end(), rows - newest);
    if (!folds_) return;

    const size_t dim = static_cast<size_t>(head.k.dim[1]);
    std::vector<double> k(dim), v(dim);
    double weight = 0;
    const auto add = [&](std::span<const float> key, std::span<const float> value, double times) {
      for (size_t d = 0; d < dim; ++d) {
        k[d] += times * key[d];
        v[d] += times * value[d];
      }
      weight += times;
    };
    for (const PseudoRow& old : head.pseudo) add(old.k, old.v, old.weight);
    for (int r = sink; r < rows - newest; ++r) add(head.k.row(r), head.v.row(r), 1);
    if (weight == 0) return;
    PseudoRow mean;
    mean.weight = static_cast<float>(weight);
    for (size_t d = 0; d < dim; ++d) {
      mean.k.push_back(static_cast<float>(k[d] / weight));
      mean.v.push_back(static_cast<float>(v[d] / weight));
    }
    plan.pseudo.push_back(std::move(mean));
  }

 private:
  bool folds_;
};

std::vector<uint8_t> find_retrieval_heads(const Calibration& file, const KvShape& shape,
                                          double induction, double echo) {
  const size_t heads = static_cast<size_t>(shape.layers) * static_cast<size_t>(shape.heads);
  std::vector<uint8_t> retrieves(heads);
  for (const auto& [name, share] :
       {std::pair("heads.induction", induction), std::pair("heads.echo", echo)}) {
    const std::vector<float> strength = strongest(file, name, shape);
    std::vector<int32_t> best;
    top_rows(strength, static_cast<int>(std::lround(share * static_cast<double>(heads))), best);
    for (const int32_t head : best) retrieves[static_cast<size_t>(head)] = 1;
  }
  return retrieves;
}

void build_razor(Options& o, const KvShape& shape, Policy& p) {
  if (o.given("budget"))
    o.refuse("budget", "left out: `local` and `factor` say what heads keep that do not retrieve");
  const bool rope = o.word("form", "rope", "rope|alibi",
                           "rope: heads that retrieve keep all rows; alibi: every head keeps its "
                           "horizon") == "rope";
  const Calibration& file =
      o.calibration("heads", "which heads retrieve, or their largest logits for form=alibi",
                    "pith calibrate heads");
  const double induction =
      o.ratio("induction", 0.14, "share of all heads that retrieve, by what followed earlier");
  const double echo = o.ratio("echo", 0.01, "and by earlier occurrences of the same token");
  const int least = o.count("local", 4000, "newest rows of the other heads, at least");
  const double factor = o.number("factor", 5, "or the prompt divided by this", 1, 1000);
  const double epsilon =
      o.number("epsilon", 0.001, "alibi: attention that a head may lose", 1e-12, 1);
  const int longest =
      o.count("longest", 131072, "alibi: rows that the bound holds for", 1, 1 << 30);
  protect_options(o, p, {.sink = 4, .recent = 1});
  p.reduce_every = o.count("reduce_every", 32, "generated tokens between folds", 1);
  p.scorer = newest_first();
  p.reducer = std::make_unique<FoldIntoMean>(rope);
  if (rope) {
    p.store.pseudo_rows = 1;
    p.budget = std::make_unique<RetrievalHeads>(find_retrieval_heads(file, shape, induction, echo),
                                                p.protect.sink, least, factor);
  } else {
    const std::span<const float> logits = file.tensor(
        "heads.logit", static_cast<size_t>(shape.layers) * static_cast<size_t>(shape.query_heads));
    p.budget = std::make_unique<Horizons>(std::vector<float>(logits.begin(), logits.end()),
                                          p.protect.sink, std::log(longest / epsilon));
  }
}

const RegisterMethod razor{{
    .name = "razor",
    .summary = "keep all rows of heads that retrieve; one mean row stands for what others drop",
    .source = "arXiv:2407.15891 (RazorAttention)",
    .family = "selection: static pattern",
    .build = build_razor,
    .cost = "a prompt: one pass over the rows dropped; a token: one row more to read in heads that "
            "dropped some, and a fold every `reduce_every` tokens",
    .departures =
        {"Heads fold while generating too: the buffer has its size for ever. In the shipped code "
         "it grows with what is generated.",
         "The weight of the compensation row is the number of rows it stands for; one port gives "
         "it 1, which is another method.",
         "`local` counts the newest row; sinks come on top of it.",
         "Layers with a sliding window keep what the window shows: a mean row would never leave.",
         "form=alibi takes the largest logit of each query head from the calibration file, which "
         "makes the bound tighter than the paper's product of matrix norms, whose printed form "
         "lacks its squares."},
}};

}  // namespace
}  // namespace pith

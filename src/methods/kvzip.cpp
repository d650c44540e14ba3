// KVzip (arXiv:2505.23416): after the prompt, the model is asked to repeat it, a chunk at a time,
// and a row matters as much as it helps in that. No question is needed, so questions that come
// later find their rows. `plus` is KVzip+ (arXiv:2601.07891): attention is measured by what it adds
// to the residual stream.
#include <algorithm>

#include "policy/defaults.h"
#include "policy/output_norms.h"
#include "policy/registry.h"
#include "policy/shares.h"

namespace pith {
namespace {

constexpr int kOverlap = 8;  // tokens of the chunk before that say where to go on

// Until the probe has passed, no row is better than another.
class Unscored final : public Scorer {
 public:
  void score_prompt(const LayerTap& /*tap*/, Mat scores) const override {
    for (int64_t h = 0; h < scores.dim[0]; ++h) std::ranges::fill(scores.row(h), 0.0f);
  }
};

class Reconstruction final : public Probe {
 public:
  Reconstruction(int chunk, int sinks, bool plus) : chunk_(chunk), sinks_(sinks), plus_(plus) {}

  int rounds(int tokens) const override { return (tokens + chunk_ - 1) / chunk_; }

  ProbeRun run(int tokens, int round) const override {
    using Kind = ProbePiece::Kind;
    ProbeRun run;
    run.first = round * chunk_;
    run.last = std::min(tokens, run.first + chunk_);
    run.sinks = sinks_;
    if (round == 0) {
      run.pieces = {{.kind = Kind::text, .text = "\n\nRepeat the previous context exactly."}};
    } else {
      run.pieces = {
          {.kind = Kind::text,
           .text = "\n\nRepeat the part of the previous context exactly, starting with"},
          {.kind = Kind::prompt, .first = std::max(0, run.first - kOverlap), .last = run.first}};
    }
    run.pieces.push_back({.kind = Kind::answer_begins});
    run.pieces.push_back({.kind = Kind::prompt, .first = run.first, .last = run.last});
    return run;
  }

  bool wants_values() const override { return plus_; }

  // The most attention that any query of the pass pays to a row, of what it pays to the sinks, the
  // chunk and the pass itself.
  void score(const ProbeTap& tap, Mat scores) const override {
    const int64_t keys = tap.k.dim[1], heads = plus_ ? tap.shape.query_heads : tap.shape.heads;
    std::vector<float> received(static_cast<size_t>(heads * keys), 0.0f);
    const Mat mass = Mat::packed(received.data(), {heads, keys});
    tap.ops.attend(DenseAttention{
        .q = tap.q,
        .k = tap.k,
        .v = {},
        .cached = {},
        .first_row = tap.sinks + tap.scored,
        .positions = tap.positions,
        .rule = tap.rule,
        .out = {},
        .mass = Mass::most,
        .column_mass = mass,
        .mass_divisor = plus_ ? tap.stream_norm : std::span<const float>(),
    });
    if (!plus_) {
      for (int64_t h = 0; h < heads; ++h)
        std::copy_n(mass.row(h).data() + tap.sinks, tap.scored, scores.row(h).data());
      return;
    }
    std::vector<float> lengths(static_cast<size_t>(heads * tap.scored));
    const Mat added = Mat::packed(lengths.data(), {heads, tap.scored});
    output_norms(tap.ops, tap.v, tap.wo, OutputNorm::l2, added);
    for (int64_t h = 0; h < heads; ++h)
      for (int64_t r = 0; r < tap.scored; ++r) {
        float& score = scores.row(h / tap.shape.group())[static_cast<size_t>(r)];
        score = std::max(score, mass.row(h)[static_cast<size_t>(tap.sinks + r)] *
                                    added.row(h)[static_cast<size_t>(r)]);
      }
  }

 private:
  int chunk_, sinks_;
  bool plus_;
};

// The best rows of all layers and heads together, as many as an even share would keep. Layers with
// a sliding window, which drops rows of its own accord, keep theirs and stand aside.
class BestOfAll final : public Budget {
 public:
  void assign(const ScoreBoard& board, BudgetTable& table) const override {
    const KvShape& shape = board.shape();
    if (board.newest_layer() + 1 < shape.layers) return;
    // Ties go to the lower layer, then the lower head.
    std::vector<std::span<const float>> lists(table.rows.size());
    int64_t wanted = 0;
    for (int l = 0; l < table.layers; ++l)
      for (int h = 0; h < table.heads; ++h) {
        const int even = board.even_rows(l, h);
        if (even == BudgetTable::kAll) return;
        table.at(l, h) = even;
        if (shape.window(l) > 0) continue;
        table.at(l, h) = board.protected_rows();
        const std::span<const float> contested = board.contested(l, h);
        lists[static_cast<size_t>(l) * static_cast<size_t>(table.heads) + static_cast<size_t>(h)] =
            contested;
        wanted += std::min<int64_t>(even - board.protected_rows(),
                                    static_cast<int64_t>(contested.size()));
      }
    const std::vector<int> won = winners(lists, 0, wanted);
    for (size_t i = 0; i < won.size(); ++i) table.rows[i] += won[i];
  }
};

const RegisterMethod kvzip{{
    .name = "kvzip",
    .summary = "keep what the model needs to repeat the prompt; the question may come later",
    .source = "arXiv:2505.23416, arXiv:2601.07891 (plus)",
    .family = "selection: attention scores",
    .build =
        [](Options& o, const KvShape& /*shape*/, Policy& p) {
          const int chunk = o.count("chunk", 2000, "tokens that are repeated at a time", 16);
          const bool plus = o.flag(
              "plus", false, "weigh attention by what it adds to the residual stream (KVzip+)");
          const bool all =
              o.word("share", "global", "global|even",
                     "one threshold over all layers and heads, or the same number of "
                     "rows for each head (then a method that shares may join)") == "global";
          protect_options(o, p, {.sink = 4, .recent = 1});
          budget_option(o, p, {.share = 0.3});
          p.scorer = std::make_unique<Unscored>();
          p.probe = std::make_unique<Reconstruction>(chunk, p.protect.sink, plus);
          if (all) p.budget = std::make_unique<BestOfAll>();
        },
    .cost =
        "a prompt: it is read again, `chunk` tokens at a time over the plain cache of all of it, "
        "two to three times the work of reading it once, and that cache is held until then, "
        "counted by the memory limit; a token: nothing",
    .departures =
        {"The plain cache of the whole prompt exists while it is probed: memory falls to the "
         "budget "
         "only afterwards, as in the paper's own code.",
         "The best rows are counted out exactly and ties go to the older row; the reference keeps "
         "what is above a threshold and loses all rows that tie with it.",
         "The first `sink` rows stand for the system prompt of the original code, as in kvpress.",
         "Between the request and the repeated text stands what the model's chat format writes "
         "before an answer, or a line break if the file has no known format. A file without a "
         "tokenizer repeats without being asked.",
         "Every token of a turn is repeated, those of a chat format included; earlier turns are "
         "read but keep what they kept.",
         "plus divides by the length of the residual stream that enters the layer; per query head, "
         "before the largest of a group is taken.",
         "Layers with a sliding window keep an even share and no part in the threshold."},
}};

}  // namespace
}  // namespace pith

#include "policy/defaults.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/parallel.h"
#include "kernels/kernels.h"
#include "policy/registry.h"
#include "policy/shares.h"

namespace pith {
namespace {

class WindowVote final : public Scorer {
 public:
  explicit WindowVote(const Vote& vote) : vote_(vote) {}
  Demand demand() const override { return {.window_queries = vote_.window, .decode_probs = true}; }
  bool scores_add_up() const override { return vote_.pool == Pool::none && !vote_.group_max; }
  bool scores_steps() const override { return true; }

  void score_prompt(const LayerTap& tap, Mat scores) const override {
    const int64_t rows = static_cast<int64_t>(tap.rows.positions.size());
    ConstCube q = tap.window_q;  // other roles may have asked for more queries
    const int64_t window = std::min<int64_t>(vote_.window, q.dim[0]);
    q.data += (q.dim[0] - window) * q.stride[0];
    q.dim[0] = window;

    std::vector<float> votes(static_cast<size_t>(tap.shape.query_heads * rows));
    const Mat mass = Mat::packed(votes.data(), {tap.shape.query_heads, rows});
    tap.ops.window_mass(
        {.q = q, .k = tap.rows.k, .positions = tap.rows.positions, .rule = tap.rule, .out = mass});

    // Rows of the window have no vote in the papers, as they always stay. Theirs is written down
    // unpooled all the same: the lane may be asked for it while generating.
    const size_t before = static_cast<size_t>(rows - window);
    const int group = tap.shape.group();
    tap.ops.threads().for_each(tap.shape.heads, [&](int64_t head, int) {
      const std::span<float> score = scores.row(head);
      std::ranges::fill(score, 0.0f);
      for (int64_t h = head * group; h < (head + 1) * group; ++h) {
        if (!vote_.pool_group) pool_scores(mass.row(h).first(before), vote_.width, vote_.pool);
        for (size_t r = 0; r < score.size(); ++r)
          score[r] =
              vote_.group_max ? std::max(score[r], mass.row(h)[r]) : score[r] + mass.row(h)[r];
      }
      if (vote_.pool_group) pool_scores(score.first(before), vote_.width, vote_.pool);
    });
  }

  void score_step(const StepTap& tap, std::span<float> scores) const override {
    if (vote_.fades)
      for (float& score : scores) score *= 1 - 1 / static_cast<float>(vote_.window);
    for (size_t i = 0; i < tap.probs.size(); ++i)
      scores[tap.rows.empty() ? i : static_cast<size_t>(tap.rows[i])] += tap.probs[i];
  }

 private:
  Vote vote_;
};

// Scores count tokens from the start of the session. Positions would not do: a policy may repack
// them, and a later turn then starts below the scores of an earlier one.
class NewestFirst final : public Scorer {
 public:
  bool scores_steps() const override { return true; }

  void score_prompt(const LayerTap& tap, Mat scores) const override {
    const std::span<const int32_t> positions = tap.rows.positions;
    for (int h = 0; h < tap.shape.heads; ++h) {
      const std::span<const float> earlier =
          tap.earlier ? tap.earlier->at(tap.layer, h).scores() : std::span<const float>();
      const float first = earlier.empty() ? 0 : earlier.back() + 1;
      const std::span<float> row = scores.row(h);
      for (size_t r = 0; r < row.size(); ++r)
        row[r] = first + static_cast<float>(positions[r] - positions[0]);
    }
  }

  void score_step(const StepTap& /*tap*/, std::span<float> scores) const override {
    const size_t n = scores.size();
    scores[n - 1] = n > 1 ? scores[n - 2] + 1 : 0;
  }
};

class AttentionSoFar final : public Scorer {
 public:
  explicit AttentionSoFar(bool squares) : squares_(squares) {}
  Demand demand() const override {
    return {.prompt_mass = squares_ ? Mass::squares : Mass::sum, .decode_probs = true};
  }
  bool scores_add_up() const override { return !squares_; }
  bool scores_steps() const override { return true; }

  void score_prompt(const LayerTap& tap, Mat scores) const override {
    const ConstMat mass = tap.ops.to_host(tap.prompt_mass);
    for (int h = 0; h < tap.shape.heads; ++h) std::ranges::copy(mass.row(h), scores.row(h).begin());
  }

  void score_step(const StepTap& tap, std::span<float> scores) const override {
    for (size_t i = 0; i < tap.probs.size(); ++i)
      scores[tap.rows.empty() ? i : static_cast<size_t>(tap.rows[i])] +=
          squares_ ? tap.probs[i] * tap.probs[i] : tap.probs[i];
  }

 private:
  bool squares_;
};

class FallingLine final : public Budget {
 public:
  explicit FallingLine(double steepness) : steepness_(steepness) {}
  bool needs_amount() const override { return true; }

  void assign(const ScoreBoard& board, BudgetTable& table) const override {
    std::vector<int> even;
    if (!even_shares(board, even)) return;
    const std::vector<int> rows = pyramid(board, table, even, steepness_);
    // What a layer keeps was decided when it came.
    for (int l = board.newest_layer(); l < table.layers; ++l)
      for (int h = 0; h < table.heads; ++h)
        table.at(l, h) = board.protected_rows() + rows[static_cast<size_t>(l)];
  }

 private:
  double steepness_;
};

class EvenBudget final : public Budget {
 public:
  EvenBudget(Amount amount, int session_rows) : amount_(amount), session_rows_(session_rows) {}
  bool keeps_all() const override { return amount_.share >= 1; }

  void assign(const ScoreBoard& board, BudgetTable& table) const override {
    for (int l = 0; l < table.layers; ++l)
      for (int h = 0; h < table.heads; ++h) table.at(l, h) = rows(board, l, h);
  }

 private:
  int rows(const ScoreBoard& board, int layer, int head) const {
    if (amount_.share >= 1) return BudgetTable::kAll;
    const int wanted = amount_.bytes > 0 ? session_rows_ - board.earlier_rows(layer, head)
                                         : amount_.of(board.prompt_tokens());
    return std::max(wanted, board.protected_rows());
  }

  Amount amount_;
  int session_rows_;
};

class KeepEverything final : public Budget {
 public:
  bool keeps_all() const override { return true; }
  void assign(const ScoreBoard& /*board*/, BudgetTable& table) const override {
    std::ranges::fill(table.rows, BudgetTable::kAll);
  }
};

class KeepBest final : public Reducer {
 public:
  void reduce(const HeadView& head, int budget, HeadPlan& plan) const override {
    top_rows(head.scores, budget, head.protect, plan.keep);
    plan.pseudo.assign(head.pseudo.begin(), head.pseudo.end());
  }
};

}  // namespace

Vote vote_options(Options& o, const Vote& fallback) {
  Vote vote;
  vote.window = o.count("window", fallback.window, "last prompt queries that vote", 1, 4096);
  vote.width = o.count("width", fallback.width, "neighbours that share a vote (odd)", 1, 1023);
  if (vote.width % 2 == 0) o.refuse("width", "odd, so that both sides have as many neighbours");
  const std::string pool =
      o.word("pool", fallback.pool == Pool::max ? "max" : "mean", "max|mean|none",
             "how neighbours share: the largest vote, their mean, or not at all");
  vote.pool = pool == "max" ? Pool::max : pool == "mean" ? Pool::mean : Pool::none;
  vote.group_max = o.word("reduce", fallback.group_max ? "max" : "sum", "sum|max",
                          "how the query heads of a group become one score") == "max";
  vote.pool_group = o.word("pooled", fallback.pool_group ? "groups" : "heads", "heads|groups",
                           "what is smoothed: each query head, or the group's score") == "groups";
  vote.fades = fallback.fades;
  vote.named = true;
  return vote;
}

void protect_options(Options& o, Policy& policy, Protect fallback, int least_recent) {
  constexpr int kMost = 1 << 24;  // more than any prompt; sums stay far from overflow
  const int sink = o.count("sink", fallback.sink, "first rows that always stay", 0, kMost);
  const int recent =
      o.count("recent", fallback.recent, "newest rows that always stay; the last one does anyway",
              least_recent, kMost);
  policy.protect.sink = std::max(policy.protect.sink, sink);
  policy.protect.recent = std::max(policy.protect.recent, recent);
}

void default_vote(Policy& policy, const Vote& vote) {
  if (!policy.vote.named) policy.vote = vote;
}

void budget_option(Options& o, Policy& policy, Amount fallback) {
  const Amount amount = o.amount(
      "budget", fallback,
      "what may stay: rows per head (2048), a share of the prompt (0.1) or bytes (512MiB)");
  if (amount) policy.amount = amount;
}

Quant plain_format(std::string_view word) {
  return word == "f32" ? Quant::f32 : word == "bf16" ? Quant::bf16 : Quant::f16;
}

void plain_rows_option(Options& o, Policy& policy) {
  policy.store.open =
      plain_format(o.word("cache", "f16", "f16|bf16|f32", "format of rows that stay plain"));
  policy.store.k = policy.store.v = policy.store.open;
}

FirstLayers first_layers_option(Options& o, std::string_view key, std::string_view formats,
                                std::string_view what, std::string_view example,
                                std::string_view doc) {
  const std::string text = o.text(key, "", doc);
  if (text.empty()) return {};
  const size_t colon = text.find(':');
  FirstLayers first;
  if (colon != std::string::npos && colon > 0 && colon <= 4 &&
      text.find_first_not_of("0123456789") == colon) {
    first.layers = std::stoi(text.substr(0, colon));
    first.format = text.substr(colon + 1);
  }
  const std::string known = "|" + std::string(formats) + "|";
  if (first.format.empty() || first.format.find('|') != std::string::npos ||
      known.find("|" + first.format + "|") == std::string::npos)
    o.refuse(key, "layers and " + std::string(what) + ", as in " + std::string(example) +
                      ", with " + std::string(what) + " of " + std::string(formats));
  return first;
}

namespace {
constexpr const char* kBits = "2|3|4|6|8|16";
}  // namespace

CodeBits code_bits_option(Options& o, std::string_view bits, std::string_view value_bits) {
  CodeBits codes;
  codes.keys = o.word("bits", bits, kBits, "of a number in full pages; 16: as it was");
  codes.values = o.word("value_bits", value_bits, "same|" + std::string(kBits),
                        "of a number of values, if not those of keys");
  codes.first =
      first_layers_option(o, "first", kBits + std::string("|q8"), "bits", "2:8",
                          "lowest layers that have other bits, as in 2:8; the others have `bits`");
  return codes;
}

void store_codes(Policy& policy, const KvShape& shape, const CodeBits& bits, int group,
                 bool keys_by_row) {
  StoreSpec& store = policy.store;
  const auto formats = [&](const std::string& own) {
    const std::string& of_values = bits.values == "same" ? own : bits.values;
    PageFormats of{store.open, store.open};
    if (own == "q8")
      of.k = Quant::q8_keys;
    else if (own != "16")
      of.k = keys_by_row ? row_keys(std::stoi(own)) : channel_keys(std::stoi(own));
    if (of_values == "q8")
      of.v = Quant::q8_values;
    else if (of_values != "16")
      of.v = grouped_values(std::stoi(of_values), group);
    return of;
  };
  const PageFormats all = formats(bits.keys);
  store.k = all.k;
  store.v = all.v;
  store.keeps_scores = is_plain(all.k) && is_plain(all.v);  // or the policy reduces later
  if (bits.first.layers == 0) return;
  store.layers.assign(static_cast<size_t>(shape.layers), all);
  std::fill_n(store.layers.begin(), std::min(bits.first.layers, shape.layers),
              formats(bits.first.format));
}

void rotation_option(Options& o, Policy& policy, const KvShape& shape, std::string_view fallback) {
  const bool turned = o.word("rotate", fallback, "none|hadamard",
                             "spreads outliers over a row before it is coded: random signs and a "
                             "Walsh-Hadamard transform") == "hadamard";
  if (!turned) return;
  StoreSpec& store = policy.store;
  if (store.basis) o.refuse("rotate", "none where a method brings directions of its own");
  const auto plain = [](PageFormats of) { return is_plain(of.k) && is_plain(of.v); };
  if (plain({store.k, store.v}) && std::ranges::all_of(store.layers, plain) && store.tiers.empty())
    o.refuse("rotate", "none where rows stay as they are");
  store.basis = hadamard_bases(shape.dim, /*seed=*/1);
}

int group_option(Options& o, Policy& policy, std::string_view fallback) {
  const int group =
      std::stoi(o.word("group", fallback, "32|64|128",
                       "numbers that share a step: rows of a page of keys, channels of a value"));
  // A reader's page is the page of a spec, and so the group of its keys.
  if (!o.common().was_read("page"))
    policy.store.page_rows = o.count("page", group, "rows of a page, and so of a group of keys",
                                     kLeastPageRows, kMostPageRows);
  return group;
}

std::unique_ptr<const Scorer> window_vote(const Vote& vote) {
  return std::make_unique<WindowVote>(vote);
}
std::unique_ptr<const Scorer> newest_first() {
  return std::make_unique<NewestFirst>();
}
std::unique_ptr<const Scorer> attention_received(bool squares) {
  return std::make_unique<AttentionSoFar>(squares);
}
std::unique_ptr<const Budget> falling_budget(double steepness) {
  return std::make_unique<FallingLine>(steepness);
}
std::unique_ptr<const Budget> even_budget(Amount amount, int session_rows) {
  return std::make_unique<EvenBudget>(amount, session_rows);
}
std::unique_ptr<const Budget> keep_everything() {
  return std::make_unique<KeepEverything>();
}
std::unique_ptr<const Reducer> keep_best() {
  return std::make_unique<KeepBest>();
}

int rows_for_bytes(uint64_t bytes, const KvShape& shape, const StoreSpec& store,
                   const PageSummary* summary) {
  const KernelTable& kernels = active_kernels();
  const auto page = [&](Quant quant) -> uint64_t {
    const size_t own = kernels.page[static_cast<size_t>(quant)].bytes(store.page_rows, shape.dim);
    return PagePool::page_cost(own) + sizeof(Page*) + sizeof(std::byte*);
  };
  // Where layers differ, as much as all of them take together.
  const auto both = [&](PageFormats of) { return static_cast<double>(page(of.k) + page(of.v)); };
  double coded = both({store.k, store.v});
  if (!store.layers.empty()) {
    coded = 0;
    for (const PageFormats& of : store.layers) coded += both(of);
    coded /= static_cast<double>(store.layers.size());
  }
  const uint64_t heads = static_cast<uint64_t>(shape.layers) * static_cast<uint64_t>(shape.heads);
  // A position and maybe a score per row; arrays that grow keep a sixteenth in reserve.
  uint64_t lanes = static_cast<uint64_t>(store.page_rows) * (store.keeps_scores ? 8 : 4);
  if (summary) {  // its numbers, those of groups, and the tables of pages and rows that are chosen
    const uint64_t floats = static_cast<uint64_t>(summary->floats(shape.dim));
    const int each = summary->group_pages();
    lanes += floats * 4 + (each > 0 ? floats * 4 / static_cast<uint64_t>(each) : 0);
    lanes += static_cast<uint64_t>(store.page_rows) * 8 + 2 * sizeof(std::byte*);
  }
  lanes = lanes * 17 / 16 + 1;
  // The newest pages are open: those of the tail, and one that is not full.
  const uint64_t page_rows = static_cast<uint64_t>(store.page_rows);
  const uint64_t open_pages =
      (static_cast<uint64_t>(store.tail_rows) + page_rows - 1) / page_rows + 1 + store.tiers.size();
  // Where there are tiers, their shares of a page, and what is left over of each in plain ones.
  double rest = 1, of_tiers = 0;
  for (const StoreTier& tier : store.tiers) {
    of_tiers += tier.share * both(tier.formats);
    rest -= tier.share;
  }
  coded = coded * rest + of_tiers;
  const uint64_t sealed = static_cast<uint64_t>(std::ceil(coded)) + lanes;
  const uint64_t open = std::max(2 * page(store.open) + lanes, sealed);
  const uint64_t share = bytes / heads;
  const uint64_t pages =
      share <= open_pages * open ? share / open : open_pages + (share - open_pages * open) / sealed;
  return static_cast<int>(
      std::min<uint64_t>(pages * static_cast<uint64_t>(store.page_rows), Options::kMost));
}

}  // namespace pith

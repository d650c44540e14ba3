// The roles of a compression method. A method fills one or more of them and leaves
// the rest to the defaults; the Compressor calls them, in this order:
//
//   prompt, before attention:   TileReader, once per layer
//   prompt, after each layer:   Scorer -> Budget -> Reducer -> Router
//   with a Probe, instead:      Scorer in each layer; after the last one Probe in each layer of
//   each
//                               of its rounds, then Budget -> Reducer for all layers
//   every generated token:      Reader (before attention), Scorer (after it), Router (behind it, if
//                               it calls tokens back)
//   every `reduce_every` tokens: Reducer
//
// Roles look and decide; they never touch the cache. They are const and hold no state of a
// session: what must be remembered per token lives in the score lane of the store.
// All spans and views are valid only during the call. Rows that a layer's sliding window hides
// from every later query are dropped by the Compressor and never shown to a Budget or a Reducer.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "kv/plan.h"
#include "kv/store.h"
#include "tensor/kv_shape.h"

namespace pith {

// What the forward pass must record for a role. Nothing is computed unless asked for.
struct Demand {
  int window_queries = 0;         // queries of the last n prompt rows
  Mass prompt_mass = Mass::none;  // attention each row received from all prompt queries
  bool decode_probs = false;      // attention row of every generated token
  bool hidden = false;            // LayerTap::hidden of the last layer too, for all rows
  bool layer_queries = false;     // for a TileReader: queries of all rows before any attention
};

class PromptObserver;

// One layer of the prompt, complete.
struct LayerTap {
  Backend& ops;
  const KvShape& shape;
  const Rope& rope;
  const AttentionRule& rule;
  int layer = 0;
  int prompt_tokens = 0;               // before any routing
  ConstMat hidden;                     // [rows, width], output of the layer
  ConstCube window_q;                  // [window, query_heads, dim], after RoPE: the last rows
  LayerRows rows;                      // this layer's keys, values, positions
  ConstMat prompt_mass;                // [heads, rows]
  std::span<const uint8_t> adapted;    // [rows] 1 where the adapter is on; empty: nowhere
  const KvStore* earlier = nullptr;    // rows of earlier turns; the Compressor fills it in
  PromptObserver* observer = nullptr;  // looks on; or null
  WeightMatrix wo = {};                // the output projection, [width, query_heads * dim]
  int rows_kept = 0;  // for a Router: what the budget leaves each head of the layer, the fewest
};

// One layer of one decode step.
struct StepTap {
  const KvShape& shape;
  int layer = 0, head = 0;
  std::span<const float> probs;             // one per row read, summed over the group
  std::span<const int32_t> rows;            // which rows those are; empty: all
  std::span<const float> k;                 // [dim] of the new token, after RoPE
  std::span<const float> v = {};            // [dim] of the new token
  std::span<const int32_t> positions = {};  // of all rows, the new one last
};

struct HeadView;

// How much does each cached token matter to each head?
class Scorer {
 public:
  virtual ~Scorer() = default;
  virtual Demand demand() const { return {}; }
  // True if scores are shares of attention, so that a sum of them means something.
  virtual bool scores_add_up() const { return false; }
  // scores: [heads, rows]; higher stays longer. Called once per layer.
  virtual void score_prompt(const LayerTap& tap, Mat scores) const = 0;
  // Whether generated rows get scores that can be compared with those of the prompt. A policy whose
  // scorer cannot is refused if it reduces while generating.
  virtual bool scores_steps() const { return false; }
  // scores: the head's lane, the new token last and 0. Called for every generated token of
  // policies that reduce while generating.
  virtual void score_step(const StepTap& /*tap*/, std::span<float> /*scores*/) const {}
  // The heads of one layer together, for scorers that look across them; scores[h] is the lane of
  // heads[h].
  virtual void score_layer_step(std::span<const StepTap> heads,
                                std::span<const std::span<float>> scores) const {
    for (size_t h = 0; h < heads.size(); ++h) score_step(heads[h], scores[h]);
  }
  // Whether rows are scored anew, by `rescore`, each time a head is reduced while generating: for
  // scores that compare a row with the others that are there. The lane is left as it was.
  virtual bool rescores() const { return false; }
  // scores: [rows], to be written. head: with keys and values, and the old scores.
  virtual void rescore(const HeadView& /*head*/, std::span<float> /*scores*/) const {}
};

// Rows each head of each layer may keep, protected rows included: of this prompt, or of all
// there is if the policy reduces while generating. Never less than the protected rows.
struct BudgetTable {
  static constexpr int kAll = INT32_MAX;
  int layers = 0, heads = 0;
  std::vector<int> rows;  // [layers, heads]
  int& at(int layer, int head) { return rows[layer * heads + head]; }
  int at(int layer, int head) const { return rows[layer * heads + head]; }
};

// Scores of all layers so far: fresh ones for the newest, stored lanes for the others.
class ScoreBoard {
 public:
  virtual ~ScoreBoard() = default;
  virtual const KvShape& shape() const = 0;
  virtual int prompt_tokens() const = 0;
  virtual int newest_layer() const = 0;
  virtual int protected_rows() const = 0;                   // of every head; they are kept anyway
  virtual int earlier_rows(int layer, int head) const = 0;  // of earlier turns; 0 if they compete
  // Scores of the rows that are not protected, the ones a budget is about.
  virtual std::span<const float> contested(int layer, int head) const = 0;
  // Scores of all rows of this prompt that the head still has, protected ones included.
  virtual std::span<const float> scored(int layer, int head) const = 0;
  // The most rows that a budget can give the head: what it has, protected rows included, and those
  // of earlier turns if they compete. Layers that are still to come are taken to be like the
  // newest.
  virtual int most_rows(int layer, int head) const = 0;
  // What an even share of the spec's amount gives each head, whether it is rows, a share of the
  // prompt or bytes: what a Budget redistributes. BudgetTable::kAll if everything may stay.
  virtual int even_rows(int layer, int head) const = 0;
  // The newest layer as it was prefilled; null outside the layers of a prompt.
  virtual const LayerTap* tap() const { return nullptr; }
};

// How is the total shared among layers and heads?
class Budget {
 public:
  virtual ~Budget() = default;
  virtual Demand demand() const { return {}; }
  // Whether it shares out what the spec's `budget` says, so that a spec without one is refused.
  virtual bool needs_amount() const { return false; }
  // Whether it takes scores for shares of attention (Scorer::scores_add_up).
  virtual bool needs_mass() const { return false; }
  // Whether it leaves everything to every head, whatever the scores.
  virtual bool keeps_all() const { return false; }
  // Called after every layer. May change any entry; a layer that is already reduced can
  // only shrink further, and does so at once.
  virtual void assign(const ScoreBoard& board, BudgetTable& table) const = 0;
};

// Rows no method may evict: the first `sink` and the last `recent`. The last row is always kept.
struct Protect {
  int sink = 0;
  int recent = 1;
  double recent_share = 0;  // of a head's budget, where that is more than `recent`
  int rows() const { return sink + recent; }
  // With the share made rows.
  Protect of(int budget) const {
    const int share = std::min(static_cast<int>(std::lround(recent_share * budget)), budget - sink);
    return {sink, std::max(recent, share), 0};
  }
};

// One head, when it must shrink.
struct HeadView {
  const KvShape& shape;
  int layer = 0, head = 0;
  std::span<const float> scores;       // [rows]
  std::span<const int32_t> positions;  // [rows]
  ConstMat k, v;                       // [rows, dim] on the host, if needs_vectors()
  std::span<const PseudoRow> pseudo;   // from earlier reductions
  Protect protect;
  // [heads] scores of every head of the layer, if needs_layer_scores() and all of them hold the
  // same rows; else empty.
  std::span<const std::span<const float>> layer_scores = {};
};

// Which rows stay, and what becomes of the others? Several heads are reduced at once, on several
// threads. The plan names at most `budget` rows, ascending, the protected ones among them.
class Reducer {
 public:
  virtual ~Reducer() = default;
  virtual bool needs_vectors() const { return false; }
  virtual bool needs_layer_scores() const { return false; }
  virtual void reduce(const HeadView& head, int budget, HeadPlan& plan) const = 0;
};

// What travels on to the next layer of the prompt.
struct StreamPlan {
  std::vector<int32_t> rows;     // ascending; empty: all of them
  std::vector<int32_t> adapted;  // rows for which the adapter's q and o are on from now on, and
                                 // with them k and v of all rows
  bool restart = false;          // run the prompt again from layer 0 with `rows`, `adapted`
  bool renumber = false;         // positions 0, 1, 2, ... for the rows that are left
};

class Router {
 public:
  virtual ~Router() = default;
  virtual Demand demand() const { return {}; }
  // Whether it looks at the scores; if nobody does, they are not computed.
  virtual bool needs_scores() const { return true; }
  // scores: what the Scorer just wrote. `protect`: rows no method may evict, so they should travel.
  // The last row always does, named or not. Not called after the last layer.
  virtual void route(const LayerTap& tap, ConstMat scores, Protect protect,
                     StreamPlan& plan) const = 0;
  // Whether tokens that drop out behind the layer may come back while tokens are generated
  // (LazyLLM). Their hidden states are then kept, if StoreSpec::keeps_dropped says so.
  virtual bool calls_back(int /*layer*/) const { return false; }
  // A generated token has attended to the layer. heads: what it paid to each row. tokens: seen so
  // far, it included. dropped: positions of the tokens that may come back. Names those that do,
  // ascending; they run through the layers up to the next one that calls back, each reading rows at
  // its own or smaller positions, before the generated token does.
  virtual void call_back(std::span<const StepTap> /*heads*/, int /*tokens*/,
                         std::span<const int32_t> /*dropped*/,
                         std::vector<int32_t>& /*back*/) const {}
};

// One layer of a prompt before its attention.
struct TileTap {
  Backend& ops;
  const KvShape& shape;
  const AttentionRule& rule;
  int layer = 0;
  ConstCube q;                         // [rows, query_heads, dim], after RoPE; if the reader looks
  ConstCube k;                         // [heads, rows, dim], likewise
  std::span<const int32_t> positions;  // [rows]
};

// Which rows of its layer does a prompt read? What is not read is not computed; it is stored and
// scored like any row. The key/value head is the unit: a plan serves all queries of a group.
class TileReader {
 public:
  virtual ~TileReader() = default;
  virtual bool reads_all(int /*layer*/) const { return false; }
  // Whether the plan depends on queries and keys. If so, the queries of a whole layer are held.
  virtual bool looks() const { return true; }
  // plan: of the layer's rows and heads, empty; reading every row stays an answer (plan.clear()).
  virtual void choose(const TileTap& tap, ReadPlan& plan) const = 0;
};

// Part of what a probe feeds: text, tokens [first, last) of the prompt, or what stands between a
// user's turn and its answer in the model's chat format (a line break if it has none).
struct ProbePiece {
  enum class Kind { text, prompt, answer_begins };
  Kind kind = Kind::text;
  std::string text = {};
  int first = 0, last = 0;
};

// One further pass over the cache of a prompt. Its tokens take the positions behind the prompt, see
// all of the cache, and leave nothing in it.
struct ProbeRun {
  std::vector<ProbePiece> pieces;
  int first = 0, last = 0;  // tokens of the prompt whose rows are scored
  int sinks = 0;            // first rows of the session that stand beside them in ProbeTap::k
};

// One layer of a pass. Stored rows are those of the cache: the sinks before the scored rows, then
// the scored ones. In layers with a sliding window some of either may be gone.
struct ProbeTap {
  Backend& ops;
  const KvShape& shape;
  const AttentionRule& rule;
  int layer = 0;
  int sinks = 0, scored = 0, rows = 0;
  ConstCube q;                         // [rows, query_heads, dim] of the pass, after RoPE
  ConstCube k;                         // [heads, sinks + scored + rows, dim]
  std::span<const int32_t> positions;  // [sinks + scored + rows]
  ConstCube v;                         // [heads, scored, dim], if the probe wants values
  std::span<const float> stream_norm;  // [rows] of the residual stream that enters the layer
  WeightMatrix wo;                     // the output projection, [width, query_heads * dim]
};

// What do questions about a prompt attend to that nobody has asked yet? Runs tokens of its own over
// the finished prompt, whose plain cache is held meanwhile, and scores its rows by them. The Scorer
// still gives every row a score first, which the probe's passes replace by larger ones.
class Probe {
 public:
  virtual ~Probe() = default;
  virtual int rounds(int prompt_tokens) const = 0;
  virtual ProbeRun run(int prompt_tokens, int round) const = 0;
  virtual bool wants_values() const { return false; }
  virtual void score(const ProbeTap& tap, Mat scores) const = 0;  // [heads, scored]
};

// The sealed pages of a head, as the queries of a group meet them.
struct PageChoice {
  ConstMat q;          // [group, dim]
  ConstMat summaries;  // [pages, floats]
  ConstMat groups;     // [groups, floats], if the reader joins pages
  float scale = 1;     // of logits
};

// Which sealed pages does this query read? A page is summarised once, when it is sealed;
// the store keeps the summary.
class Reader : public PageSummary {
 public:
  virtual bool reads_all(int layer) const = 0;
  // pages: empty, to be filled in ascending order; none means all. The open tail is always read.
  virtual void choose(const PageChoice& job, std::vector<int32_t>& pages) const = 0;
};

}  // namespace pith

#include "policy/compressor.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "base/parallel.h"
#include "policy/guard.h"
#include "policy/observer.h"
#include "policy/select.h"
#include "policy/timer.h"

namespace pith {
namespace {

// Fewer rows than this are decided about faster by one thread than by waking others.
constexpr int64_t kRowsWorthThreads = 1 << 15;

BudgetTable everything(const KvShape& shape) {
  const size_t heads = static_cast<size_t>(shape.layers) * static_cast<size_t>(shape.heads);
  return {shape.layers, shape.heads, std::vector<int>(heads, BudgetTable::kAll)};
}

ConstMat rows_from(ConstMat x, int64_t first) {
  return {x.data + first * x.stride[0], {x.dim[0] - first, x.dim[1]}, x.stride};
}

// Puts rows before and hidden ones back into a plan that was made without them.
void place(HeadPlan& plan, int first, int hidden) {
  for (int32_t& row : plan.keep) row += first + hidden;
  for (RewrittenRow& row : plan.rewritten) row.row += first + hidden;
  plan.keep.insert(plan.keep.begin(), static_cast<size_t>(first), 0);
  std::iota(plan.keep.begin(), plan.keep.begin() + first, 0);
}

void check(const HeadPlan& plan, size_t rows, int budget) {
  PITH_CHECK(static_cast<int64_t>(plan.keep.size()) <= budget, "a plan stays within its budget");
  int32_t last = -1;
  for (const int32_t row : plan.keep) {
    PITH_CHECK(row > last && row < static_cast<int64_t>(rows), "a plan names rows in order, once");
    last = row;
  }
}

}  // namespace

// Fresh scores for the newest layer, the store's lanes for the ones below.
class Compressor::Board final : public ScoreBoard {
 public:
  // `fresh`: scores of the rows of the newest layer that it does not hide; none if its lanes have
  // them.
  Board(const Compressor& owner, int layer, ConstMat fresh, const LayerTap* tap)
      : owner_(owner), layer_(layer), fresh_(fresh), tap_(tap), protect_(owner.protect_now()) {}

  const KvShape& shape() const override { return owner_.store_.shape(); }
  int prompt_tokens() const override {
    const int64_t before = owner_.continuing() ? owner_.prompt_tokens_ : 0;
    return static_cast<int>(std::min<int64_t>(before + owner_.prompt_.tokens, INT32_MAX));
  }
  int newest_layer() const override { return layer_; }
  int protected_rows() const override { return protect_.rows(); }
  int earlier_rows(int layer, int head) const override {
    return owner_.continuing() ? 0 : owner_.prompt_.earlier[index(layer, head)];
  }

  std::span<const float> contested(int layer, int head) const override {
    const std::span<const float> rows = scored(layer, head);
    const size_t kept = static_cast<size_t>(protect_.rows());
    if (rows.size() <= kept) return {};
    return rows.subspan(static_cast<size_t>(protect_.sink), rows.size() - kept);
  }

  std::span<const float> scored(int layer, int head) const override {
    if (layer == layer_ && fresh_.data) return fresh_.row(head);
    return std::as_const(owner_.store_)
        .at(layer, head)
        .scores_from(owner_.prompt_.earlier[index(layer, head)]);
  }

  int most_rows(int layer, int head) const override {
    const int earlier = owner_.continuing() ? owner_.prompt_.earlier[index(layer, head)] : 0;
    return static_cast<int>(scored(std::min(layer, layer_), head).size()) + earlier;
  }

  // Heads that differ in length each end in a page of their own, which bytes have to pay for.
  int even_rows(int layer, int head) const override {
    const Policy& policy = owner_.policy_;
    const Amount& amount = policy.amount;
    if (!amount || amount.share >= 1) return BudgetTable::kAll;
    const int wanted = amount.bytes > 0 ? policy.session_rows - (policy.store.page_rows - 1) -
                                              earlier_rows(layer, head)
                                        : amount.of(prompt_tokens());
    return std::max(wanted, protected_rows());
  }

  const LayerTap* tap() const override { return tap_; }

 private:
  size_t index(int layer, int head) const {
    return static_cast<size_t>(layer) * owner_.store_.shape().heads + head;
  }

  const Compressor& owner_;
  int layer_;
  ConstMat fresh_;
  const LayerTap* tap_;
  Protect protect_;
};

Compressor::Compressor(const Policy& policy, KvStore& store)
    : policy_(policy), store_(store), table_(everything(store.shape())) {}

Compressor::Compressor(const Compressor& other, KvStore& store)
    : policy_(other.policy_),
      store_(store),
      table_(other.table_),
      stats_(other.stats_),
      prompt_tokens_(other.prompt_tokens_),
      tokens_(other.tokens_),
      shift_(other.shift_),
      steps_(other.steps_),
      ops_(other.ops_),
      ropes_(other.ropes_) {}

// Sinks are the first rows of the session, not of a later turn.
Protect Compressor::protect_now() const {
  Protect protect = policy_.protect;
  protect.sink = static_cast<int>(std::max<int64_t>(0, protect.sink - tokens_));
  return protect;
}

void Compressor::begin_prompt(int tokens, Turn turn) {
  const KvShape& shape = store_.shape();
  store_.mark();
  prompt_ = {};
  prompt_.tokens = tokens;
  prompt_.whole =
      turn == Turn::whole || (turn == Turn::by_policy && policy_.first_turn_only && tokens_ > 0);
  prompt_.table = everything(shape);
  prompt_.stats.rows_seen = int64_t{tokens} * shape.layers * shape.heads;
  for (int l = 0; l < shape.layers; ++l)
    for (int h = 0; h < shape.heads; ++h) prompt_.earlier.push_back(store_.at(l, h).rows());
}

// How many of a layer's oldest rows its sliding window hides from the token after the newest.
int Compressor::hidden_rows(int layer, std::span<const int32_t> positions) const {
  const int window = store_.shape().window(layer);
  if (window == 0 || positions.empty()) return 0;
  const int32_t last_hidden = positions.back() + 1 - window;
  return static_cast<int>(std::ranges::upper_bound(positions, last_hidden) - positions.begin());
}

StreamPlan Compressor::end_layer(const LayerTap& given) {
  const Timer timer(prompt_.stats.prompt_seconds);
  const int64_t rows = static_cast<int64_t>(given.rows.positions.size());
  PITH_CHECK(rows > 0, "a layer of a prompt has rows");
  remember(given);
  if (given.layer == 0) prompt_.first_position = given.rows.positions[0];
  LayerTap tap = given;
  tap.earlier = &store_;

  std::vector<float> fresh(static_cast<size_t>(tap.shape.heads * rows));
  const Mat scores = Mat::packed(fresh.data(), {tap.shape.heads, rows});
  policy_.scorer->score_prompt(tap, scores);
  make_comparable(scores);
  if (policy_.probe || prompt_.whole) {
    write_layer(tap, scores);
    if (tap.observer) tap.observer->layer_ended(tap, scores, prompt_.table);
    return {};
  }
  const int64_t hidden = hidden_rows(tap.layer, tap.rows.positions);
  const ConstMat visible = {scores.data + hidden, {scores.dim[0], rows - hidden}, scores.stride};
  policy_.budget->assign(Board(*this, tap.layer, visible, &tap), prompt_.table);
  std::vector<float> attention;
  Mat mass;
  if (guards()) {
    attention.resize(fresh.size());
    mass = Mat::packed(attention.data(), {tap.shape.heads, rows});
    policy_.guard->scorer->score_prompt(tap, mass);
    guard_heads(tap, scores, mass, static_cast<int>(hidden));
  }
  write_layer(tap, scores);
  if (tap.observer) tap.observer->layer_ended(tap, scores, prompt_.table);
  prompt_.stats.layers_revised += revise_earlier(tap.layer);

  StreamPlan next;
  if (!policy_.router || tap.layer + 1 == tap.shape.layers) return next;
  tap.rows_kept = BudgetTable::kAll;
  for (int h = 0; h < tap.shape.heads; ++h)
    tap.rows_kept = std::min(tap.rows_kept, prompt_.table.at(tap.layer, h));
  policy_.router->route(tap, scores, protect_now(), next);
  if (!next.rows.empty()) {
    if (next.rows.back() != rows - 1) next.rows.push_back(static_cast<int32_t>(rows - 1));
    check({next.rows, {}}, static_cast<size_t>(rows), BudgetTable::kAll);
    if (static_cast<int64_t>(next.rows.size()) == rows && !next.restart && !next.renumber)
      next.rows.clear();  // everything travels: nothing to gather
  }
  if (mass.data != nullptr) guard_tokens(tap, mass, next);
  if (calls_back(tap.layer) && !next.rows.empty()) keep_dropped(tap, next.rows);
  if (next.renumber)
    prompt_.renumbered = static_cast<int>(next.rows.empty() ? rows : next.rows.size());
  if (tap.observer) tap.observer->routed(tap.layer, next);
  if (next.restart) restart();
  return next;
}

// All layers are complete and scored: what the layers of an ordinary prompt decide one by one.
void Compressor::share_after_probe() {
  for (int l = 0; l < store_.shape().layers; ++l)
    policy_.budget->assign(Board(*this, l, {}, nullptr), prompt_.table);
  revise_earlier(store_.shape().layers);
}

void Compressor::restart() {
  store_.rewind();
  prompt_.table = everything(store_.shape());
  CompressionStats stats;
  stats.rows_seen = prompt_.stats.rows_seen;
  stats.rows_recoded = prompt_.stats.rows_recoded;
  stats.prompt_seconds = prompt_.stats.prompt_seconds;
  prompt_.stats = stats;
  prompt_.least.clear();
}

// Chooses among the rows of the layer for each head, and stores what is kept.
void Compressor::write_layer(const LayerTap& tap, Mat scores) {
  const std::span<const int32_t> positions = tap.rows.positions;
  const int hidden = hidden_rows(tap.layer, positions);
  const int rows = static_cast<int>(positions.size()) - hidden;
  Protect protect = protect_now();
  protect.sink = std::max(0, protect.sink - hidden);

  std::vector<HeadPlan> plans(static_cast<size_t>(tap.shape.heads));
  std::vector<std::span<const float>> layer_scores;
  if (policy_.reducer->needs_layer_scores())
    for (int h = 0; h < tap.shape.heads; ++h)
      layer_scores.push_back(scores.row(h).subspan(static_cast<size_t>(hidden)));
  std::vector<HeadView> views;
  for (int h = 0; h < tap.shape.heads; ++h) {
    HeadView view{.shape = tap.shape,
                  .layer = tap.layer,
                  .head = h,
                  .scores = scores.row(h).subspan(static_cast<size_t>(hidden)),
                  .positions = positions.subspan(static_cast<size_t>(hidden)),
                  .k = {},
                  .v = {},
                  .pseudo = {},
                  .protect = protect,
                  .layer_scores = layer_scores};
    if (policy_.reducer->needs_vectors()) {
      view.k = rows_from(tap.ops.to_host(tap.rows.k[h]), hidden);
      view.v = rows_from(tap.ops.to_host(tap.rows.v[h]), hidden);
    }
    views.push_back(view);
  }
  tap.ops.threads().for_each(tap.shape.heads, [&](int64_t h, int) {
    HeadPlan& plan = plans[static_cast<size_t>(h)];
    const int wanted = prompt_.table.at(tap.layer, static_cast<int>(h));
    const int budget = std::max(wanted, std::min(rows, protect.rows()));
    if (budget >= rows) {
      plan.keep.resize(static_cast<size_t>(rows));
      std::iota(plan.keep.begin(), plan.keep.end(), 0);
    } else {
      HeadView& view = views[static_cast<size_t>(h)];
      view.protect = protect.of(budget);
      policy_.reducer->reduce(view, budget, plan);
    }
    check(plan, static_cast<size_t>(rows), budget);
    place(plan, 0, hidden);
  });
  for (int h = 0; h < tap.shape.heads; ++h) {
    HeadPlan& plan = plans[static_cast<size_t>(h)];
    prompt_.stats.rows_kept += static_cast<int64_t>(plan.keep.size());
    if (policy_.scorer->scores_add_up()) {
      for (const float score : scores.row(h)) prompt_.stats.score_seen += score;
      for (const int32_t row : plan.keep) prompt_.stats.score_kept += scores.row(h)[row];
    }
    HeadCache& cache = store_.at(tap.layer, h);
    if (prompt_.shared) {
      cache.adopt(prompt_.shared->at(tap.layer, h), prompt_.shared_rows, rows, positions,
                  scores.row(h), policy_.reader.get());
      plan.keep.erase(plan.keep.begin(), plan.keep.begin() + prompt_.shared_rows);
    }
    cache.write(tap.rows.k[h], tap.rows.v[h], positions, scores.row(h), plan);
  }
}

int64_t Compressor::revise_earlier(int layer) {
  std::vector<HeadTask> tasks;
  int64_t layers = 0;
  for (int l = 0; l < layer; ++l) {
    bool revised = false;
    for (int h = 0; h < store_.shape().heads; ++h) {
      const int first = prompt_.earlier[static_cast<size_t>(l) * store_.shape().heads + h];
      revised |= plan_shrink(l, h, first, 0, prompt_.table.at(l, h), protect_now(), tasks);
    }
    layers += revised;
  }
  const auto held = [&] {
    double sum = 0;
    for (const HeadTask& task : tasks)
      for (const float score :
           std::as_const(store_).at(task.layer, task.head).scores_from(task.first))
        sum += score;
    return sum;
  };
  const double before = policy_.scorer->scores_add_up() ? held() : 0;
  prompt_.stats.rows_kept -= carry_out(tasks, prompt_.stats.rows_recoded);
  if (policy_.scorer->scores_add_up()) prompt_.stats.score_kept -= before - held();
  return layers;
}

bool Compressor::plan_shrink(int layer, int head, int first, int hidden, int budget,
                             Protect protect, std::vector<HeadTask>& tasks) const {
  const int rows = store_.at(layer, head).rows() - first - hidden;
  budget = std::max(budget, std::min(rows, protect.rows()));
  if (rows <= budget && hidden == 0) return false;
  HeadTask task{.layer = layer,
                .head = head,
                .first = first,
                .hidden = hidden,
                .budget = std::min(rows, budget),
                .protect = protect.of(budget),
                .rescores = false,
                .plan = {},
                .k = {},
                .v = {}};
  tasks.push_back(std::move(task));
  return true;
}

// The lanes of all heads of a layer from row `skip` on, if they hold the rows that `head` does.
std::vector<std::span<const float>> Compressor::scores_of_layer(int layer, int head,
                                                                int skip) const {
  const KvStore& store = store_;
  const auto own = store.at(layer, head).positions().subspan(static_cast<size_t>(skip));
  std::vector<std::span<const float>> scores;
  for (int h = 0; h < store.shape().heads; ++h) {
    const HeadCache& cache = store.at(layer, h);
    if (cache.rows() < skip ||
        !std::ranges::equal(cache.positions().subspan(static_cast<size_t>(skip)), own))
      return {};
    scores.push_back(cache.scores_from(skip));
  }
  return scores;
}

void Compressor::plan_head(HeadTask& task) const {
  const HeadCache& cache = std::as_const(store_).at(task.layer, task.head);
  const int skip = task.first + task.hidden;
  const int rows = cache.rows() - skip;
  if (rows == task.budget) {
    task.plan.keep.resize(static_cast<size_t>(rows));
    std::iota(task.plan.keep.begin(), task.plan.keep.end(), 0);
    task.plan.pseudo.assign(cache.pseudo().begin(), cache.pseudo().end());
  } else {
    HeadView view{.shape = store_.shape(),
                  .layer = task.layer,
                  .head = task.head,
                  .scores = cache.scores_from(skip),
                  .positions = cache.positions().subspan(static_cast<size_t>(skip)),
                  .k = {},
                  .v = {},
                  .pseudo = cache.pseudo(),
                  .protect = task.protect,
                  .layer_scores = {}};
    if (policy_.reducer->needs_vectors() || task.rescores) {
      view.k = rows_from(cache.keys(task.k), skip);
      view.v = rows_from(cache.values(task.v), skip);
    }
    std::vector<float> anew;
    std::vector<std::span<const float>> layer_scores;
    if (task.rescores) {
      anew.resize(view.scores.size());
      policy_.scorer->rescore(view, anew);
      view.scores = anew;
    } else if (policy_.reducer->needs_layer_scores()) {
      layer_scores = scores_of_layer(task.layer, task.head, skip);
      view.layer_scores = layer_scores;
    }
    policy_.reducer->reduce(view, task.budget, task.plan);
  }
  check(task.plan, static_cast<size_t>(rows), task.budget);
  place(task.plan, task.first, task.hidden);
  task.k = {};
  task.v = {};
}

int64_t Compressor::carry_out(std::vector<HeadTask>& tasks, int64_t& recoded) {
  int64_t rows = 0, dropped = 0;
  for (const HeadTask& task : tasks) rows += store_.at(task.layer, task.head).rows();
  const auto plan = [&](int64_t t, int) { plan_head(tasks[static_cast<size_t>(t)]); };
  const int64_t count = static_cast<int64_t>(tasks.size());
  if (ops_ && rows >= kRowsWorthThreads) {
    ops_->threads().for_each(count, plan);
  } else {
    for (int64_t t = 0; t < count; ++t) plan(t, 0);
  }
  for (HeadTask& task : tasks) {
    HeadCache& cache = store_.at(task.layer, task.head);
    const int before = cache.rows();
    recoded += cache.apply(task.plan);
    dropped += before - cache.rows();
  }
  return dropped;
}

// Plans what a head loses outside of the layers of a prompt: rows that its window hides, `step` at
// a time, and rows above the budget, those of earlier turns included.
void Compressor::plan_whole(int layer, int head, int budget, int step,
                            std::vector<HeadTask>& tasks) const {
  int hidden = hidden_rows(layer, std::as_const(store_).at(layer, head).positions());
  hidden -= hidden % step;
  Protect protect = policy_.protect;
  protect.sink = std::max(0, protect.sink - hidden);
  if (plan_shrink(layer, head, 0, hidden, budget, protect, tasks))
    tasks.back().rescores = continuing() && policy_.scorer->rescores();
}

void Compressor::end_prompt(PromptObserver* observer) {
  {
    const Timer timer(prompt_.stats.prompt_seconds);
    const KvShape& shape = store_.shape();
    if (policy_.probe && !prompt_.whole) share_after_probe();
    std::vector<HeadTask> tasks;
    for (int l = 0; l < shape.layers; ++l)
      for (int h = 0; h < shape.heads; ++h)
        plan_whole(l, h, continuing() ? prompt_.table.at(l, h) : BudgetTable::kAll, 1, tasks);
    carry_out(tasks, prompt_.stats.rows_recoded);
    if (observer) observer->prompt_ended(store_, prompt_.table);
    repack(prompt_.stats.rows_recoded);
    sort_into_tiers();
    store_.seal(policy_.reader.get());
    store_.forget_scores();
  }
  table_ = prompt_.table;
  tokens_ += prompt_.tokens;
  prompt_tokens_ += prompt_.tokens;
  if (prompt_.renumbered >= 0) shift_ = tokens_ - prompt_.renumbered;
  stats_.rows_seen += prompt_.stats.rows_seen;
  stats_.rows_kept += prompt_.stats.rows_kept;
  stats_.layers_revised += prompt_.stats.layers_revised;
  stats_.rows_recoded += prompt_.stats.rows_recoded;
  stats_.score_seen += prompt_.stats.score_seen;
  stats_.score_kept += prompt_.stats.score_kept;
  stats_.rows_guarded += prompt_.stats.rows_guarded;
  stats_.tokens_guarded += prompt_.stats.tokens_guarded;
  stats_.heads_short += prompt_.stats.heads_short;
  stats_.mass_seen += prompt_.stats.mass_seen;
  stats_.mass_kept += prompt_.stats.mass_kept;
  stats_.prompt_seconds += prompt_.stats.prompt_seconds;
  prompt_ = {};
}

void Compressor::end_step() {
  const Timer timer(stats_.step_seconds);
  const KvShape& shape = store_.shape();
  ++tokens_;
  const bool due = continuing() && ++steps_ % policy_.reduce_every == 0;
  if (due || !shape.windows.empty()) {
    std::vector<HeadTask> tasks;
    for (int l = 0; l < shape.layers; ++l)
      for (int h = 0; h < shape.heads; ++h)
        plan_whole(l, h, due ? table_.at(l, h) : BudgetTable::kAll, policy_.store.page_rows, tasks);
    carry_out(tasks, stats_.rows_recoded);
    if (due) repack(stats_.rows_recoded);
  }
  store_.seal(policy_.reader.get());
}

void Compressor::remember(const LayerTap& tap) {
  ops_ = &tap.ops;
  ropes_.resize(static_cast<size_t>(tap.shape.layers));
  Rope& rope = ropes_[static_cast<size_t>(tap.layer)];
  rope = tap.rope;
  rope.magnitude = 1;  // stored keys have it already
}

// Positions become 0, 1, 2, ... in every head. The sinks, which stay for ever, are never turned;
// each other row is turned once per reduction that it outlives.
void Compressor::repack(int64_t& recoded) {
  if (!policy_.store.repack_positions) return;
  std::vector<int32_t> positions;
  for (int l = 0; l < store_.shape().layers; ++l) {
    const Rope& rope = ropes_[static_cast<size_t>(l)];
    const auto turn = [&](Mat keys, std::span<const int32_t> by) {
      ops_->rope({keys.data, {keys.dim[0], 1, keys.dim[1]}, {keys.stride[0], keys.stride[0], 1}},
                 by, rope, 1);
    };
    for (int h = 0; h < store_.shape().heads; ++h) {
      HeadCache& cache = store_.at(l, h);
      positions.resize(static_cast<size_t>(cache.rows()));
      std::iota(positions.begin(), positions.end(), 0);
      recoded += cache.repack(positions, rope.inv_freq.empty() ? TurnKeys() : TurnKeys(turn));
    }
  }
}

}  // namespace pith

#include "support/toy_prompt.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "backend/cpu_backend.h"
#include "base/random.h"
#include "policy/registry.h"

namespace pith::test {
namespace {

constexpr int kQuery = 0, kKey = 1, kValue = 2, kHidden = 3;

}  // namespace

AttentionRule ToyPrompt::rule_of(const KvShape& shape, int layer) const {
  return {.scale = 1 / std::sqrt(static_cast<float>(shape.dim)),
          .window = shape.window(layer),
          .alibi = alibi};
}

ToyPrompt::ToyPrompt(std::string_view spec, KvShape shape, int threads, uint64_t seed)
    : ToyPrompt(make_policy(spec, shape), shape, threads, seed) {}

ToyPrompt::ToyPrompt(std::shared_ptr<const Policy> policy, KvShape shape, int threads,
                     uint64_t seed)
    : shape_(std::move(shape)),
      policy_(std::move(policy)),
      seed_(seed),
      ops_(make_cpu_backend(threads)),
      pool_(std::make_shared<PagePool>()),
      store_(std::make_unique<KvStore>(shape_, policy_->store, *pool_)),
      compressor_(std::make_unique<Compressor>(*policy_, *store_)) {
  for (int i = 0; i < shape_.dim / 2; ++i)
    inv_freq_.push_back(std::pow(100.0f, -2.0f * static_cast<float>(i) / shape_.dim));
}

ToyPrompt::ToyPrompt(const ToyPrompt& other, std::unique_ptr<KvStore> store)
    : plant(other.plant),
      alibi(other.alibi),
      shape_(other.shape_),
      policy_(other.policy_),
      seed_(other.seed_),
      inv_freq_(other.inv_freq_),
      ops_(other.ops_),
      pool_(other.pool_),
      store_(std::move(store)),
      compressor_(std::make_unique<Compressor>(*other.compressor_, *store_)),
      tokens_(other.tokens_),
      rows_into_(other.rows_into_) {}

ToyPrompt::~ToyPrompt() = default;

std::unique_ptr<ToyPrompt> ToyPrompt::fork() const {
  return std::unique_ptr<ToyPrompt>(new ToyPrompt(*this, store_->fork()));
}

// Normal numbers of one token, for all heads.
void ToyPrompt::fill(int layer, int kind, int token, int heads, float* out) const {
  const int count = kind == kHidden ? shape_.width : heads * shape_.dim;
  const uint64_t stream = static_cast<uint64_t>(layer) * 4 + static_cast<uint64_t>(kind);
  Random random(seed_ * 1000 + stream, static_cast<uint64_t>(token) * 4096);
  for (int i = 0; i < count; ++i) out[i] = random.normal();
}

std::vector<float> ToyPrompt::raw_key(int layer, int head, int token) const {
  std::vector<float> all(static_cast<size_t>(shape_.heads * shape_.dim));
  fill(layer, kKey, token, shape_.heads, all.data());
  const auto first = all.begin() + head * shape_.dim;
  return {first, first + shape_.dim};
}

void ToyPrompt::make_rows(int layer, std::span<const int32_t> tokens,
                          std::span<const int32_t> positions) {
  const int64_t rows = static_cast<int64_t>(tokens.size());
  const int64_t dim = shape_.dim, heads = shape_.heads;
  q_data_.resize(static_cast<size_t>(rows * shape_.query_heads * dim));
  k_data_.resize(static_cast<size_t>(rows * heads * dim));
  v_data_.resize(k_data_.size());
  std::vector<float> keys(k_data_.size()), values(k_data_.size());
  for (int64_t r = 0; r < rows; ++r) {
    fill(layer, kQuery, tokens[r], shape_.query_heads, &q_data_[r * shape_.query_heads * dim]);
    fill(layer, kKey, tokens[r], shape_.heads, &keys[r * heads * dim]);
    fill(layer, kValue, tokens[r], shape_.heads, &values[r * heads * dim]);
  }
  q_ = Cube::packed(q_data_.data(), {rows, shape_.query_heads, dim});
  ops_->rope(q_, positions, rope(), 1);
  ops_->rope(Cube::packed(keys.data(), {rows, heads, dim}), positions, rope(), 1);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t h = 0; h < heads; ++h) {
      std::copy_n(&keys[(r * heads + h) * dim], dim, &k_data_[(h * rows + r) * dim]);
      std::copy_n(&values[(r * heads + h) * dim], dim, &v_data_[(h * rows + r) * dim]);
    }
  k_ = Cube::packed(k_data_.data(), {heads, rows, dim});
  v_ = Cube::packed(v_data_.data(), {heads, rows, dim});
}

void ToyPrompt::prefill(int tokens) {
  begin(tokens);
  while (run_layer()) {
  }
}

void ToyPrompt::begin(int tokens) {
  stream_.resize(static_cast<size_t>(tokens));
  std::iota(stream_.begin(), stream_.end(), tokens_);
  positions_.resize(stream_.size());
  std::iota(positions_.begin(), positions_.end(), compressor_->query_position(tokens_));
  compressor_->begin_prompt(tokens);
  adapted_.clear();
  layer_ = 0;
  prompt_tokens_ = tokens;
  rows_into_.assign(static_cast<size_t>(shape_.layers), 0);
}

bool ToyPrompt::run_layer() {
  const int64_t rows = static_cast<int64_t>(stream_.size());
  ++layers_run_;
  rows_into_[static_cast<size_t>(layer_)] = static_cast<int>(rows);
  make_rows(layer_, stream_, positions_);
  if (plant) plant(layer_, q_, k_, v_);

  const Demand demand = policy_->demand();
  std::vector<float> hidden(static_cast<size_t>(rows * shape_.width));
  for (int64_t r = 0; r < rows; ++r)
    fill(layer_, kHidden, stream_[r], 0, &hidden[static_cast<size_t>(r * shape_.width)]);
  const int64_t window = std::min<int64_t>(rows, demand.window_queries);
  Cube window_q = q_;
  window_q.data += (rows - window) * q_.stride[0];
  window_q.dim[0] = window;
  std::vector<float> mass(demand.prompt_mass == Mass::none ? 0 : shape_.heads * rows);
  const Mat prompt_mass =
      Mat::packed(mass.data(), {mass.empty() ? 0 : shape_.heads, mass.empty() ? 0 : rows});
  if (!mass.empty() || policy_->tile_reader) {
    std::vector<float> out(q_data_.size());
    const AttentionRule dense = rule_of(shape_, layer_);
    ReadPlan reads;
    compressor_->plan_reads({.ops = *ops_,
                             .shape = shape_,
                             .rule = dense,
                             .layer = layer_,
                             .q = q_,
                             .k = k_,
                             .positions = positions_},
                            reads);
    ops_->attend(DenseAttention{.q = q_,
                                .k = k_,
                                .v = v_,
                                .cached = {},
                                .first_row = 0,
                                .positions = positions_,
                                .rule = rule_of(shape_, layer_),
                                .out = Cube::packed(out.data(), q_.dim),
                                .mass = demand.prompt_mass,
                                .column_mass = prompt_mass,
                                .reads = reads.reads_all() ? nullptr : &reads});
  }
  const Rope turned = rope();
  const AttentionRule rule = rule_of(shape_, layer_);
  const StreamPlan plan =
      compressor_->end_layer({.ops = *ops_,
                              .shape = shape_,
                              .rope = turned,
                              .rule = rule,
                              .layer = layer_,
                              .prompt_tokens = prompt_tokens_,
                              .hidden = ConstMat::packed(hidden.data(), {rows, shape_.width}),
                              .window_q = window_q,
                              .rows = {k_, v_, positions_},
                              .prompt_mass = prompt_mass,
                              .adapted = adapted_,
                              .wo = output_projection()});
  layer_ = plan.restart ? 0 : layer_ + 1;
  if (!plan.adapted.empty()) {
    adapted_.assign(stream_.size(), 0);
    for (const int32_t row : plan.adapted) adapted_[static_cast<size_t>(row)] = 1;
  }
  if (!plan.rows.empty()) {
    std::vector<int32_t> stream, positions;
    for (const int32_t row : plan.rows) {
      stream.push_back(stream_[row]);
      positions.push_back(plan.renumber ? static_cast<int32_t>(positions.size()) : positions_[row]);
    }
    stream_ = std::move(stream);
    positions_ = std::move(positions);
  }
  if (layer_ < shape_.layers) return true;
  if (policy_->probe)
    for (int round = 0; round < policy_->probe->rounds(prompt_tokens_); ++round) run_probe(round);
  compressor_->end_prompt();
  tokens_ += prompt_tokens_;
  return false;
}

// Tokens of the prompt come again with their rows, at later positions; text is three new tokens.
void ToyPrompt::run_probe(int round) {
  const ProbeRun run = policy_->probe->run(prompt_tokens_, round);
  std::vector<int32_t> tokens;
  for (const ProbePiece& piece : run.pieces) {
    if (piece.kind == ProbePiece::Kind::prompt)
      for (int t = piece.first; t < piece.last; ++t) tokens.push_back(tokens_ + t);
    else
      for (int t = 0; t < 3; ++t) tokens.push_back((1 << 20) + t);
  }
  std::vector<int32_t> positions(tokens.size());
  std::iota(positions.begin(), positions.end(),
            compressor_->query_position(tokens_ + prompt_tokens_));
  const int64_t rows = static_cast<int64_t>(tokens.size()), dim = shape_.dim, heads = shape_.heads,
                stored = Compressor::stored_rows(run), scored = run.last - run.first;
  std::vector<float> k(static_cast<size_t>(heads * (stored + rows) * dim)),
      v(static_cast<size_t>(heads * scored * dim)), scores(static_cast<size_t>(heads * scored)),
      norms(tokens.size());
  for (size_t i = 0; i < norms.size(); ++i) norms[i] = 1 + static_cast<float>(i % 7);
  for (int l = 0; l < shape_.layers; ++l) {
    make_rows(l, tokens, positions);
    if (plant) plant(l, q_, k_, v_);
    const Cube room = Cube::packed(k.data(), {heads, stored + rows, dim});
    for (int64_t h = 0; h < heads; ++h)
      std::copy_n(k_[h].data, rows * dim, room[h].row(stored).data());
    const AttentionRule rule = rule_of(shape_, l);
    compressor_->probe_layer({.ops = *ops_,
                              .shape = shape_,
                              .rule = rule,
                              .layer = l,
                              .run = run,
                              .q = q_,
                              .k = room,
                              .v = policy_->probe->wants_values()
                                       ? Cube::packed(v.data(), {heads, scored, dim})
                                       : Cube{},
                              .scores = Mat::packed(scores.data(), {heads, scored}),
                              .positions = positions,
                              .stream_norm = norms,
                              .wo = output_projection()});
  }
}

// [width, query_heads * dim], random.
WeightMatrix ToyPrompt::output_projection() const {
  const int64_t cols = int64_t{shape_.query_heads} * shape_.dim;
  if (wo_.empty()) {
    wo_.resize(static_cast<size_t>(shape_.width * cols));
    Random random(seed_ * 1000 + 999);
    for (float& x : wo_) x = random.normal();
  }
  return {DType::f32, reinterpret_cast<const std::byte*>(wo_.data()), shape_.width, cols};
}

void ToyPrompt::decode(int tokens) {
  const int64_t dim = shape_.dim, group = shape_.group();
  for (int i = 0; i < tokens; ++i) {
    const int32_t position = compressor_->query_position(tokens_), token = tokens_;
    out_.assign(static_cast<size_t>(shape_.layers * shape_.query_heads * dim), 0.0f);
    for (int l = 0; l < shape_.layers; ++l) {
      make_rows(l, {&token, 1}, {&position, 1});
      last_q_.resize(static_cast<size_t>(shape_.layers));
      last_q_[static_cast<size_t>(l)] = q_data_;
      std::vector<std::vector<float>> probs(static_cast<size_t>(shape_.heads));
      std::vector<StepTap> taps;
      for (int h = 0; h < shape_.heads; ++h) {
        HeadCache& cache = store_->at(l, h);
        cache.append(k_[h].row(0), v_[h].row(0), position);
        const ConstMat q = Mat::packed(q_[0].row(h * group).data(), {group, dim});
        std::vector<int32_t> pages;
        compressor_->choose_pages(l, h, q, rule_of(shape_, l).scale, pages);
        const PagedHead head = cache.paged(pages);
        std::vector<float>& paid = probs[static_cast<size_t>(h)];
        paid.resize(policy_->demand().decode_probs ? static_cast<size_t>(head.rows()) : 0);
        float* const out = &out_[static_cast<size_t>((l * shape_.query_heads + h * group) * dim)];
        const HeadAttention job{.q = q,
                                .head = head,
                                .position = position,
                                .first_query_head = static_cast<int>(h * group),
                                .rule = rule_of(shape_, l),
                                .out = Mat::packed(out, {group, dim}),
                                .probs = paid};
        ops_->attend({&job, 1});
        taps.push_back({.shape = shape_,
                        .layer = l,
                        .head = h,
                        .probs = paid,
                        .rows = head.row_numbers,
                        .k = k_[h].row(0),
                        .v = v_[h].row(0),
                        .positions = cache.positions()});
      }
      compressor_->observe(taps);
    }
    ++tokens_;
    compressor_->end_step();
  }
}

std::vector<float> ToyPrompt::last_queries(int layer) const {
  return last_q_[static_cast<size_t>(layer)];
}

std::vector<float> ToyPrompt::scores(int layer, int head) const {
  const std::span<const float> lane = std::as_const(*store_).at(layer, head).scores();
  return {lane.begin(), lane.end()};
}

std::vector<int32_t> ToyPrompt::kept(int layer, int head) const {
  const std::span<const int32_t> rows = std::as_const(*store_).at(layer, head).positions();
  std::vector<int32_t> positions(rows.begin(), rows.end());
  if (!policy_->store.tiers.empty()) std::ranges::sort(positions);
  return positions;
}

ToyHead ToyPrompt::head(int layer, int head) const {
  const HeadCache& cache = std::as_const(*store_).at(layer, head);
  ToyHead copy{{cache.positions().begin(), cache.positions().end()}, {}, {}};
  const auto take = [](ConstMat rows, std::vector<float>& out) {
    for (int64_t r = 0; r < rows.dim[0]; ++r)
      out.insert(out.end(), rows.row(r).begin(), rows.row(r).end());
  };
  std::vector<float> scratch;
  take(cache.keys(scratch), copy.k);
  take(cache.values(scratch), copy.v);
  return copy;
}

std::vector<ToyHead> ToyPrompt::heads() const {
  std::vector<ToyHead> all;
  for (int l = 0; l < shape_.layers; ++l)
    for (int h = 0; h < shape_.heads; ++h) all.push_back(head(l, h));
  return all;
}

}  // namespace pith::test

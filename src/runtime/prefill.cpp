// A prompt, layer by layer: all tiles of one layer, then the decision what of it is kept, then the
// next layer over what the router lets through.
#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/parallel.h"
#include "policy/adapter.h"
#include "runtime/forward.h"

namespace pith {
namespace {

// [rows, heads, dim] -> [heads, rows, dim], starting at `row`.
void place_rows(ConstCube x, int64_t row, Cube into, const Threads& threads) {
  const size_t bytes = static_cast<size_t>(x.dim[2]) * sizeof(float);
  threads.for_each(x.dim[1], [&](int64_t h, int) {
    for (int64_t r = 0; r < x.dim[0]; ++r)
      std::memcpy(into[h].row(row + r).data(), x[r].row(h).data(), bytes);
  });
}

// Rows [first, first + rows) of a matrix, or of a cube's first dimension.
template <class T, int Rank>
View<T, Rank> rows_of(View<T, Rank> x, int64_t first, int64_t rows) {
  x.data += first * x.stride[0];
  x.dim[0] = rows;
  return x;
}

// Features of a row, before or after a projection.
int widest(const KvShape& s) {
  return std::max(s.width, s.query_heads * s.dim);
}

size_t floats_of(const Cube& c) {
  return static_cast<size_t>(c.dim[0] * c.dim[1] * c.dim[2]);
}

}  // namespace

size_t Forward::prompt_bytes(const Session& session) const {
  const KvShape& s = model_.config().shape;
  const int rows = session.stream.rows();
  const Demand demand = session.demand();
  size_t floats = static_cast<size_t>(rows) * s.width;
  floats += size_t{2} * s.heads * rows * s.dim;
  floats += static_cast<size_t>(std::min(rows, demand.window_queries)) * s.query_heads * s.dim;
  if (demand.prompt_mass != Mass::none) floats += static_cast<size_t>(s.heads) * rows;
  // What scoring takes while a layer ends: a score per row and head, votes of query heads.
  floats += static_cast<size_t>(s.heads) * rows;
  if (demand.window_queries > 0) floats += static_cast<size_t>(s.query_heads) * rows;
  if (demand.layer_queries) floats += static_cast<size_t>(rows) * s.query_heads * s.dim;
  if (session.policy->adapter)
    floats += static_cast<size_t>(kStepRows) *
              static_cast<size_t>(session.policy->adapter->rank + 2 * widest(s));
  return floats * sizeof(float);
}

bool Forward::begin_prompt(Session& session) {
  TokenStream& stream = session.stream;
  const KvShape& s = model_.config().shape;
  const Demand demand = session.demand();
  const int64_t rows = stream.rows();
  const size_t bytes = prompt_bytes(session);
  if (bytes > session.pool.free_bytes()) return false;
  session.pool.charge(bytes, MemoryClass::prompt);
  stream.charged_bytes = bytes;
  stream.memory = ops_.allocate(bytes);
  float* at = static_cast<float*>(stream.memory->data());
  stream.hidden = Mat::packed(at, {rows, s.width});
  at += rows * s.width;
  stream.layer_k = Cube::packed(at, {s.heads, rows, s.dim});
  at += floats_of(stream.layer_k);
  stream.layer_v = Cube::packed(at, {s.heads, rows, s.dim});
  at += floats_of(stream.layer_v);
  stream.window_q =
      Cube::packed(at, {std::min<int64_t>(rows, demand.window_queries), s.query_heads, s.dim});
  at += floats_of(stream.window_q);
  stream.prompt_mass = Mat::packed(at, {demand.prompt_mass == Mass::none ? 0 : s.heads, rows});
  at += stream.prompt_mass.dim[0] * rows;
  stream.layer_q =
      Cube::packed(at, {demand.layer_queries ? rows : 0, s.query_heads, int64_t{s.dim}});
  at += floats_of(stream.layer_q);
  if (session.policy->adapter) {
    stream.adapter_rows = Mat::packed(at, {kStepRows, widest(s)});
    at += kStepRows * widest(s);
    stream.adapter_sum = Mat::packed(at, {kStepRows, widest(s)});
    at += kStepRows * widest(s);
    stream.adapter_low = Mat::packed(at, {kStepRows, session.policy->adapter->rank});
  }
  session.compressor.begin_prompt(stream.rows(), stream.turn);
  if (session.reuse.pages)
    session.compressor.share_rows(*session.reuse.pages, session.reuse.page_rows);
  session.prefill->row = session.reuse.rows;
  session.prefill->begun = true;
  return true;
}

// Of rows [first, first + rows) of the stream.
Forward::AdaptedRows Forward::adapted_rows(const Session& session, int64_t first,
                                           int64_t rows) const {
  const TokenStream& stream = session.stream;
  if (!session.policy->adapter || stream.adapted.empty()) return {};
  const auto layer = static_cast<size_t>(session.prefill->layer);
  return {
      .adapter = &session.policy->adapter->layers[layer],
      .on =
          std::span(stream.adapted).subspan(static_cast<size_t>(first), static_cast<size_t>(rows)),
      .rows = stream.adapter_rows,
      .low = stream.adapter_low,
      .sum = stream.adapter_sum};
}

bool Forward::looks_ahead(const Session& session) const {
  return session.stream.layer_q.dim[0] > 0 && !session.stream.made_up &&
         !session.compressor.whole_turn() &&
         !session.policy->tile_reader->reads_all(session.prefill->layer);
}

int Forward::first_needed_row(const Session& session) const {
  const TokenStream& stream = session.stream;
  const Demand demand = session.demand();
  if (session.prefill->layer + 1 < model_.config().shape.layers || stream.each_logits ||
      demand.prompt_mass != Mass::none || demand.hidden ||
      (session.observer && session.observer->wants_tensors(session.prefill->layer)))
    return 0;
  return std::max(0, stream.rows() - std::max(1, demand.window_queries));
}

// Rows [first, first + rows) of the stream's layer, up to what attention needs. Leaves the normed
// rows in the scratch.
void Forward::project_tile(Session& session, int first, int rows, bool queries,
                           const Monitor& monitor) {
  TokenStream& stream = session.stream;
  const ModelConfig& config = model_.config();
  const int layer = session.prefill->layer;
  const LayerWeights& w = model_.weights().layers[layer];
  const KvShape& s = config.shape;

  for (int done = 0; done < rows; done += kStepRows) {
    const int at = first + done, count = std::min(kStepRows, rows - done);
    const std::span<const int32_t> positions = std::span(stream.positions).subspan(at, count);
    const Mat x = rows_of(stream.hidden, at, count);
    monitor.check();
    if (layer == 0)
      ops_.embed(model_.weights().embedding, std::span(stream.tokens).subspan(at, count),
                 config.embedding_scale, x);
    const Mat normed = rows_of(a_.normed, done, count);
    norm(x, w.attn_norm, w.attn_norm_bias, normed);
    const Cube k = heads(a_.k, count, s.heads), v = heads(a_.v, count, s.heads);
    const AdaptedRows adapted = adapted_rows(session, at, count);
    project_kv(layer, normed, positions, k, v, adapted);
    place_rows(k, at, stream.layer_k, ops_.threads());
    place_rows(v, at, stream.layer_v, ops_.threads());
    if (!queries) continue;
    monitor.check();
    project_q(layer, normed, positions, rows_of(stream.layer_q, at, count), adapted);
  }
}

// Attention of queries from row `first` on over the rows of the stream's layer and the cache, so
// many queries at a time that a step stays short however many rows they see.
void Forward::attend_tile(Session& session, ConstCube q, int first, Cube out,
                          const Monitor& monitor) {
  TokenStream& stream = session.stream;
  const int layer = session.prefill->layer;
  const KvShape& s = model_.config().shape;
  const AttentionRule& rule = model_.config().rules[layer];
  std::vector<PagedHead> earlier;  // of earlier turns; of the prompt too while it is probed
  int64_t earlier_rows = 0;        // of all heads
  for (int h = 0; h < s.heads; ++h)
    if (session.store->at(layer, h).rows() > 0) {
      earlier.resize(s.heads);
      earlier[h] = session.store->at(layer, h).paged({});
      earlier_rows += earlier[h].rows();
    }
  const Mass mass = stream.prompt_mass.dim[0] > 0 ? session.demand().prompt_mass : Mass::none;
  // A probe's passes are nobody's prompt.
  PromptObserver* const observer = session.prefill->round < 0 ? session.observer : nullptr;
  const int64_t rows = q.dim[0];
  for (int64_t done = 0, count = 0; done < rows; done += count) {
    monitor.check();
    int64_t seen = std::min<int64_t>(first + rows, first + done + kStepRows);
    if (rule.window > 0) seen = std::min<int64_t>(seen, rule.window + kStepRows);
    const int64_t products =
        2 * int64_t{s.dim} * s.group() * (s.heads * seen + earlier_rows);  // of a query
    const int64_t most = kStepProducts / products / kStepQueries * kStepQueries;
    count = std::min(rows - done, std::clamp<int64_t>(most, kStepQueries, kStepRows));
    DenseAttention job{.q = rows_of(q, done, count),
                       .k = stream.layer_k,
                       .v = stream.layer_v,
                       .cached = earlier,
                       .first_row = first + done,
                       .positions = stream.positions,
                       .rule = rule,
                       .int16 = model_.weights().layers[layer].wk.dtype != DType::f32,
                       .out = rows_of(out, done, count),
                       .mass = mass,
                       .column_mass = stream.prompt_mass,
                       .reads = stream.reads.reads_all() ? nullptr : &stream.reads};
    std::vector<float> lse;
    if (observer && observer->wants_tensors(layer)) {
      lse.resize(static_cast<size_t>(count * q.dim[1]));
      job.lse = Mat::packed(lse.data(), {count, q.dim[1]});
    }
    ops_.attend(job);
    if (observer) observer->attended(layer, job);
  }
}

void Forward::finish_tile(int layer, ConstCube attended, Mat x, const AdaptedRows& adapted,
                          const Monitor& monitor) {
  for (int64_t done = 0; done < x.dim[0]; done += kStepRows) {
    const int64_t count = std::min<int64_t>(kStepRows, x.dim[0] - done);
    const Mat part = rows_of(x, done, count);
    monitor.check();
    attention_out(layer, rows_of(attended, done, count), part, adapted.part(done, count));
    feed_forward(layer, part, monitor);
  }
}

// Attention and feed-forward of rows [first, first + rows) of the stream's layer.
void Forward::run_tile(Session& session, int first, int rows, const Monitor& monitor) {
  TokenStream& stream = session.stream;
  const int layer = session.prefill->layer;
  const KvShape& s = model_.config().shape;
  const bool projected = session.prefill->looked;
  if (!projected) project_tile(session, first, rows, false, monitor);

  const int skip = std::min(rows, std::max(0, first_needed_row(session) - first));
  if (skip == rows) return;
  const int from = first + skip, count = rows - skip;
  const Cube q =
      projected ? rows_of(stream.layer_q, from, count) : heads(a_.q, count, s.query_heads);
  for (int done = 0; !projected && done < count; done += kStepRows) {
    const int part = std::min(kStepRows, count - done);
    monitor.check();
    project_q(layer, rows_of(a_.normed, skip + done, part),
              std::span(stream.positions).subspan(from + done, part), rows_of(q, done, part),
              adapted_rows(session, from + done, part));
  }

  const int64_t window_start = stream.rows() - stream.window_q.dim[0];
  for (int64_t r = std::max<int64_t>(from, window_start); r < from + count; ++r)
    std::memcpy(stream.window_q[r - window_start].data, q[r - from].data,
                static_cast<size_t>(s.query_heads) * s.dim * sizeof(float));

  const Cube attended = heads(a_.attended, count, s.query_heads);
  attend_tile(session, q, from, attended, monitor);
  finish_tile(layer, attended, rows_of(stream.hidden, from, count),
              adapted_rows(session, from, count), monitor);
}

// Fills the rows of a tile with random numbers: what a method then does with them, what it holds,
// and how fast tokens are generated over it, costs the same as over rows that mean something.
void Forward::make_up_tile(Session& session, int first, int rows) {
  TokenStream& stream = session.stream;
  const int layer = session.prefill->layer;
  const auto fill = [&](std::span<float> row, uint64_t what, int64_t r) {
    uint32_t x = static_cast<uint32_t>(what * 2654435761u + static_cast<uint64_t>(r) * 40503u) | 1u;
    for (float& number : row) {
      x = x * 1664525u + 1013904223u;
      number = static_cast<float>(static_cast<int32_t>(x)) * 0x1p-31f;  // in [-1, 1)
    }
  };
  const KvShape& s = model_.config().shape;
  ops_.threads().for_each(s.heads, [&](int64_t h, int) {
    const auto what = static_cast<uint64_t>((layer * s.heads + h) * 4);
    for (int64_t r = first; r < first + rows; ++r) {
      fill(stream.layer_k[h].row(r), what + 1, r);
      fill(stream.layer_v[h].row(r), what + 2, r);
      if (stream.prompt_mass.dim[0] == 0) continue;
      stream.prompt_mass.row(h)[static_cast<size_t>(r)] =
          std::abs(stream.layer_k[h].row(r)[0]) * static_cast<float>(stream.rows() - r);
    }
  });
  for (int64_t r = first; r < first + rows; ++r)
    fill(stream.hidden.row(r), static_cast<uint64_t>(layer) * 4 + 3, r);
  const int64_t window_start = stream.rows() - stream.window_q.dim[0];
  for (int64_t r = std::max<int64_t>(first, window_start); r < first + rows; ++r)
    for (int64_t h = 0; h < s.query_heads; ++h)
      fill(stream.window_q[r - window_start].row(h), static_cast<uint64_t>(h) * 4, r);
}

size_t Forward::bytes_needed(const Session& session) const {
  const TokenStream& stream = session.stream;
  if (stream.memory) return session.compressor.bytes_for_layer(stream.rows());
  if (session.prefill->round < 0) return prompt_bytes(session);
  return round_bytes(session, stream.run,
                     static_cast<int64_t>(round_tokens(session, stream.run).size()));
}

Progress Forward::prefill_tile(Session& session, const Monitor& monitor) {
  TokenStream& stream = session.stream;
  PITH_CHECK(session.prefill.has_value(), "a prompt was fed");
  reading_ = true;
  PrefillCursor& at = *session.prefill;
  if (at.round >= 0) return probe_tile(session, monitor);
  if (!stream.memory && !begin_prompt(session)) return Progress::starved;

  const int rows = std::min(tile_rows_, stream.rows() - at.row);
  const bool last_tile = at.row + rows == stream.rows();
  if (last_tile && session.compressor.bytes_for_layer(stream.rows()) > session.pool.free_bytes())
    return Progress::starved;
  if (at.row == session.reuse.rows) take_known(session);
  if (looks_ahead(session) && !at.looked) {
    project_tile(session, at.row, rows, true, monitor);
    at.row += rows;
    if (last_tile) {
      plan_reads(session);
      at.looked = true;
      at.row = 0;
    }
    return Progress::more;
  }
  if (at.row == 0 && !at.looked && !stream.made_up) plan_reads(session);
  if (at.row == 0 && stream.prompt_mass.dim[0] > 0)
    std::fill_n(stream.prompt_mass.data, stream.prompt_mass.dim[0] * stream.prompt_mass.stride[0],
                0.0f);
  if (stream.made_up)
    make_up_tile(session, at.row, rows);
  else
    run_tile(session, at.row, rows, monitor);
  at.row += rows;
  return last_tile ? finish_layer(session, monitor) : Progress::more;
}

void Forward::plan_reads(Session& session) {
  TokenStream& stream = session.stream;
  stream.reads.clear();
  if (!session.policy->tile_reader) return;
  const int layer = session.prefill->layer;
  session.compressor.plan_reads({.ops = ops_,
                                 .shape = model_.config().shape,
                                 .rule = model_.config().rules[layer],
                                 .layer = layer,
                                 .q = stream.layer_q,
                                 .k = stream.layer_k,
                                 .positions = stream.positions},
                                stream.reads);
}

void Forward::take_known(Session& session) {
  const PromptReuse& reuse = session.reuse;
  if (reuse.known)
    reuse.known->copy_rows(session.prefill->layer, reuse.rows, session.stream.layer_k,
                           session.stream.layer_v, ops_.threads());
}

// Nothing that the session itself asked for may be used up.
void Forward::remember_layer(Session& session) {
  const TokenStream& stream = session.stream;
  PromptReuse& reuse = session.reuse;
  if (reuse.record && !reuse.record->add_layer(session.prefill->layer, stream.layer_k,
                                               stream.layer_v, stream.positions, reuse.until,
                                               session.compressor.bytes_for_layer(stream.rows())))
    reuse.record.reset();
}

// The layer is complete: score, share, reduce into the store, route.
Progress Forward::finish_layer(Session& session, const Monitor& monitor) {
  TokenStream& stream = session.stream;
  PrefillCursor& at = *session.prefill;
  const ModelConfig& config = model_.config();
  monitor.check();
  remember_layer(session);
  const StreamPlan plan =
      session.compressor.end_layer({.ops = ops_,
                                    .shape = config.shape,
                                    .rope = config.shape.ropes[at.layer],
                                    .rule = config.rules[at.layer],
                                    .layer = at.layer,
                                    .prompt_tokens = stream.prompt_tokens,
                                    .hidden = stream.hidden,
                                    .window_q = stream.window_q,
                                    .rows = {stream.layer_k, stream.layer_v, stream.positions},
                                    .prompt_mass = stream.prompt_mass,
                                    .adapted = stream.adapted,
                                    .earlier = nullptr,
                                    .observer = session.observer,
                                    .wo = model_.weights().layers[at.layer].wo});
  ++at.layer;
  at.row = session.reuse.rows;
  at.looked = false;
  if (plan.restart) {
    session.store->rewind();
    at.layer = 0;
  }
  reroute(session, plan);
  if (at.layer < config.shape.layers) return Progress::more;

  finish_logits(session, monitor);
  if (session.policy->probe && !session.compressor.whole_turn()) return next_round(session);
  return finish_prompt(session);
}

Progress Forward::finish_prompt(Session& session) {
  session.compressor.end_prompt(session.observer);
  session.logits = std::move(session.prefill->logits);
  session.prefill.reset();
  session.release_stream();
  return Progress::done;
}

void Forward::finish_logits(Session& session, const Monitor& monitor) {
  TokenStream& stream = session.stream;
  const int vocab = model_.config().vocab;
  session.prefill->logits.resize(vocab);
  const Mat logits = Mat::packed(session.prefill->logits.data(), {1, vocab});
  if (stream.each_logits) {
    for (int first = 0; first < stream.rows(); first += kLogitRows) {
      const int rows = std::min(kLogitRows, stream.rows() - first);
      const Mat part = rows_of(a_.logits, 0, rows);
      monitor.check();
      unembed(rows_of(stream.hidden, first, rows), part);
      for (int r = 0; r < rows; ++r) stream.each_logits(first + r, part.row(r));
    }
  }
  unembed(rows_of(stream.hidden, stream.rows() - 1, 1), logits);
}

// Carries out what the router decided: the named rows move together, positions with them.
void Forward::reroute(Session& session, const StreamPlan& plan) {
  TokenStream& stream = session.stream;
  if (!plan.adapted.empty()) {
    stream.adapted.assign(stream.positions.size(), 0);
    for (int32_t r : plan.adapted) stream.adapted[r] = 1;
  }
  if (plan.rows.empty()) return;
  PITH_CHECK(!stream.each_logits, "logits of all rows exist only where all rows travel");
  const int64_t rows = static_cast<int64_t>(plan.rows.size());
  if (!plan.restart) ops_.gather(stream.hidden, plan.rows, rows_of(stream.hidden, 0, rows));
  std::vector<int32_t> tokens(plan.rows.size()), positions(plan.rows.size());
  std::vector<uint8_t> adapted(stream.adapted.empty() ? 0 : plan.rows.size());
  for (size_t i = 0; i < plan.rows.size(); ++i) {
    tokens[i] = stream.tokens[plan.rows[i]];
    positions[i] = plan.renumber ? static_cast<int32_t>(i) : stream.positions[plan.rows[i]];
    if (!adapted.empty()) adapted[i] = stream.adapted[plan.rows[i]];
  }
  const KvShape& s = model_.config().shape;
  stream.tokens = std::move(tokens);
  stream.positions = std::move(positions);
  stream.adapted = std::move(adapted);
  // Same memory, shorter views.
  stream.hidden.dim[0] = rows;
  stream.layer_k = Cube::packed(stream.layer_k.data, {s.heads, rows, s.dim});
  stream.layer_v = Cube::packed(stream.layer_v.data, {s.heads, rows, s.dim});
  stream.window_q.dim[0] = std::min(stream.window_q.dim[0], rows);
  stream.prompt_mass = Mat::packed(stream.prompt_mass.data, {stream.prompt_mass.dim[0], rows});
  stream.layer_q.dim[0] = std::min(stream.layer_q.dim[0], rows);
}

}  // namespace pith

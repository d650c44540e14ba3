// One token for a batch of sessions: every head takes one row, and attends to what it kept.
#include <algorithm>
#include <vector>

#include "base/error.h"
#include "runtime/called_back.h"
#include "runtime/forward.h"

namespace pith {
namespace {

// What one layer of a batch needs, kept between layers so that a step allocates once.
struct Jobs {
  std::vector<HeadAttention> attention;     // [batch, heads]
  std::vector<std::vector<int32_t>> pages;  // chosen by a reader
  std::vector<std::vector<float>> probs;    // wanted by a scorer
  std::vector<StepTap> taps;                // [heads] of one session
};

ConstMat group_rows(ConstCube x, int64_t row, int64_t head, int64_t group) {
  return {
      x.data + row * x.stride[0] + head * group * x.stride[1], {group, x.dim[2]}, {x.stride[1], 1}};
}

}  // namespace

Progress Forward::decode_step(std::span<Session* const> sessions, std::span<const int32_t> tokens) {
  PITH_CHECK(sessions.size() == tokens.size(), "one token for every session");
  const ModelConfig& config = model_.config();
  const KvShape& s = config.shape;
  if (sessions.empty()) return Progress::done;
  reading_ = false;
  size_t needed = 0;
  for (const Session* session : sessions) {
    PITH_CHECK(!session->prefill, "a session generates after its prompt");
    needed += session->compressor.bytes_for_step();
  }
  if (needed > sessions[0]->pool.free_bytes()) return Progress::starved;

  // Batches larger than the scratch run in parts; results do not depend on the partition.
  const int part_rows = std::min<int>(tile_rows_, kLogitRows);
  for (size_t first = 0; first < sessions.size(); first += part_rows) {
    const int batch = static_cast<int>(std::min<size_t>(part_rows, sessions.size() - first));
    const std::span<Session* const> part = sessions.subspan(first, batch);
    std::vector<int32_t> positions(batch);
    for (int b = 0; b < batch; ++b)
      positions[b] = part[b]->compressor.query_position(static_cast<int>(part[b]->tokens.size()));

    std::vector<float> hidden(static_cast<size_t>(batch) * s.width);
    const Mat x = Mat::packed(hidden.data(), {batch, s.width});
    ops_.embed(model_.weights().embedding, tokens.subspan(first, batch), config.embedding_scale, x);
    Jobs jobs;
    jobs.attention.resize(static_cast<size_t>(batch) * s.heads);
    jobs.pages.resize(jobs.attention.size());
    jobs.probs.resize(jobs.attention.size());
    std::vector<CalledBack> back(batch);

    for (int layer = 0; layer < s.layers; ++layer) {
      const LayerWeights& w = model_.weights().layers[layer];
      for (int b = 0; b < batch; ++b) run_called_back(*part[b], layer, back[b]);
      Mat normed = a_.normed;
      normed.dim[0] = batch;
      norm(x, w.attn_norm, w.attn_norm_bias, normed);
      const Cube q = heads(a_.q, batch, s.query_heads), k = heads(a_.k, batch, s.heads),
                 v = heads(a_.v, batch, s.heads),
                 attended = heads(a_.attended, batch, s.query_heads);
      project_q(layer, normed, positions, q, {});
      project_kv(layer, normed, positions, k, v, {});

      // One job per session and head: append, choose pages, describe what to read.
      for (int b = 0; b < batch; ++b) {
        Session& session = *part[b];
        const bool wants_probs =
            session.policy->demand().decode_probs || session.compressor.calls_back(layer);
        for (int h = 0; h < s.heads; ++h) {
          const size_t i = static_cast<size_t>(b) * s.heads + h;
          HeadCache& cache = session.store->at(layer, h);
          cache.append(k[b].row(h), v[b].row(h), positions[b]);
          const ConstMat queries = group_rows(q, b, h, s.group());
          session.compressor.choose_pages(layer, h, queries, config.rules[layer].scale,
                                          jobs.pages[i]);
          HeadAttention& job = jobs.attention[i];
          job = {.q = queries,
                 .head = cache.paged(jobs.pages[i]),
                 .position = positions[b],
                 .first_query_head = h * s.group(),
                 .rule = config.rules[layer],
                 .out = {attended[b].data + h * s.group() * s.dim, {s.group(), s.dim}, {s.dim, 1}},
                 .probs = {}};
          if (wants_probs) {
            jobs.probs[i].assign(job.head.rows(), 0.0f);
            job.probs = jobs.probs[i];
          }
        }
      }
      ops_.attend(std::span<const HeadAttention>(jobs.attention));
      for (int b = 0; b < batch; ++b) {
        jobs.taps.clear();
        for (int h = 0; h < s.heads; ++h) {
          const HeadAttention& job = jobs.attention[static_cast<size_t>(b) * s.heads + h];
          jobs.taps.push_back({.shape = s,
                               .layer = layer,
                               .head = h,
                               .probs = job.probs,
                               .rows = job.head.row_numbers,
                               .k = k[b].row(h),
                               .v = v[b].row(h),
                               .positions = part[b]->store->at(layer, h).positions()});
        }
        part[b]->compressor.observe(jobs.taps);
        if (part[b]->compressor.calls_back(layer)) call_back(*part[b], jobs.taps, back[b]);
      }
      attention_out(layer, attended, x, {});
      feed_forward(layer, x);
    }

    Mat logits = a_.logits;
    logits.dim[0] = batch;
    unembed(x, logits);
    for (int b = 0; b < batch; ++b) {
      Session& session = *part[b];
      session.logits.assign(logits.row(b).begin(), logits.row(b).end());
      session.tokens.push_back(tokens[first + b]);
      session.compressor.end_step();
    }
  }
  return Progress::done;
}

}  // namespace pith

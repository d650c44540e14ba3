// A probe's passes over a finished prompt: its tokens run through all layers like a further turn,
// see the whole cache and themselves, and leave nothing behind but scores.
#include <algorithm>

#include "base/error.h"
#include "runtime/forward.h"
#include "text/chat.h"

namespace pith {
namespace {

// What the model's chat format writes between a user's message and its answer.
std::string answer_begins(const GgufFile& file) {
  const std::string_view jinja = file.text("tokenizer.chat_template", "");
  if (!ChatTemplate::recognise(jinja)) return "\n";
  constexpr std::string_view kMark = "\x01";
  const std::vector<ChatMessage> asked = {{"user", std::string(kMark)}};
  const std::string text = ChatTemplate::of(file).render(asked);
  const size_t at = text.rfind(kMark);
  return at == std::string::npos ? "\n" : text.substr(at + kMark.size());
}

}  // namespace

std::vector<int32_t> Forward::round_tokens(const Session& session, const ProbeRun& run) const {
  const auto prompt = session.tokens.end() - session.stream.prompt_tokens;
  std::vector<int32_t> tokens;
  for (const ProbePiece& piece : run.pieces) {
    if (piece.kind == ProbePiece::Kind::prompt) {
      tokens.insert(tokens.end(), prompt + piece.first, prompt + piece.last);
    } else if (tokenizer_) {
      const bool begins = piece.kind == ProbePiece::Kind::answer_begins;
      const std::vector<int32_t> text =
          tokenizer_->encode(begins ? answer_begins(model_.file()) : piece.text, begins);
      tokens.insert(tokens.end(), text.begin(), text.end());
    }
  }
  return tokens;
}

size_t Forward::round_bytes(const Session& session, const ProbeRun& run, int64_t rows) const {
  const KvShape& s = model_.config().shape;
  const int64_t scored = run.last - run.first, stored = Compressor::stored_rows(run);
  int64_t floats = rows * (s.width + int64_t{s.query_heads} * s.dim);  // hidden, queries
  floats += s.heads * (stored + 2 * rows) * s.dim;                     // keys, values
  floats += s.heads * scored;
  if (session.policy->probe->wants_values()) floats += s.heads * scored * s.dim;
  return static_cast<size_t>(floats) * sizeof(float);
}

// The prompt, or a round of the probe, is over.
Progress Forward::next_round(Session& session) {
  PrefillCursor& at = *session.prefill;
  const int tokens = session.stream.prompt_tokens;
  session.release_stream();
  session.stream.prompt_tokens = tokens;
  at.layer = at.row = 0;
  const Probe& probe = *session.policy->probe;
  if (++at.round < probe.rounds(tokens)) {
    session.stream.run = probe.run(tokens, at.round);
    return Progress::more;
  }
  return finish_prompt(session);
}

bool Forward::begin_round(Session& session) {
  TokenStream& stream = session.stream;
  const KvShape& s = model_.config().shape;
  const ProbeRun& run = stream.run;
  PITH_CHECK(0 <= run.first && run.first < run.last && run.last <= stream.prompt_tokens,
             "a probe scores tokens of the prompt");
  std::vector<int32_t> tokens = round_tokens(session, run);
  PITH_CHECK(!tokens.empty(), "a probe feeds tokens");
  const int64_t rows = static_cast<int64_t>(tokens.size());
  const size_t bytes = round_bytes(session, run, rows);
  if (bytes > session.pool.free_bytes()) return false;
  session.pool.charge(bytes, MemoryClass::prompt);
  stream.charged_bytes = bytes;
  stream.memory = ops_.allocate(bytes);
  stream.tokens = std::move(tokens);
  stream.positions.resize(static_cast<size_t>(rows));
  const int first = session.compressor.query_position(static_cast<int>(session.tokens.size()));
  for (int64_t i = 0; i < rows; ++i)
    stream.positions[static_cast<size_t>(i)] = static_cast<int32_t>(first + i);

  const int64_t scored = run.last - run.first, stored = Compressor::stored_rows(run);
  float* at = static_cast<float*>(stream.memory->data());
  stream.hidden = Mat::packed(at, {rows, s.width});
  at += rows * s.width;
  stream.layer_q = Cube::packed(at, {rows, s.query_heads, s.dim});
  at += rows * s.query_heads * s.dim;
  stream.probe_k = Cube::packed(at, {s.heads, stored + rows, s.dim});
  at += s.heads * (stored + rows) * s.dim;
  stream.layer_k = stream.probe_k;
  stream.layer_k.data += stored * s.dim;
  stream.layer_k.dim[1] = rows;
  stream.layer_v = {at, stream.layer_k.dim, {rows * s.dim, s.dim, 1}};
  at += s.heads * rows * s.dim;
  stream.probe_scores = Mat::packed(at, {s.heads, scored});
  at += s.heads * scored;
  if (session.policy->probe->wants_values())
    stream.probe_v = Cube::packed(at, {s.heads, scored, s.dim});
  stream.stream_norm.assign(static_cast<size_t>(rows), 0.0f);
  return true;
}

Progress Forward::probe_tile(Session& session, const Monitor& monitor) {
  TokenStream& stream = session.stream;
  PrefillCursor& at = *session.prefill;
  if (!stream.memory && !begin_round(session)) return Progress::starved;

  const KvShape& s = model_.config().shape;
  const int rows = std::min(tile_rows_, stream.rows() - at.row);
  project_tile(session, at.row, rows, true, monitor);
  const Mat x{
      stream.hidden.data + at.row * stream.hidden.stride[0], {rows, s.width}, stream.hidden.stride};
  ops_.row_norms({x.data, {1, rows, s.width}, {rows * x.stride[0], x.stride[0], 1}},
                 Mat::packed(stream.stream_norm.data() + at.row, {1, rows}));
  // Nobody reads what the last layer gives out.
  if (at.layer + 1 < s.layers) {
    Cube q = stream.layer_q;
    q.data += at.row * q.stride[0];
    q.dim[0] = rows;
    const Cube attended = heads(a_.attended, rows, s.query_heads);
    attend_tile(session, q, at.row, attended, monitor);
    finish_tile(at.layer, attended, x, {}, monitor);
  }
  at.row += rows;
  if (at.row < stream.rows()) return Progress::more;

  session.compressor.probe_layer({.ops = ops_,
                                  .shape = s,
                                  .rule = model_.config().rules[at.layer],
                                  .layer = at.layer,
                                  .run = stream.run,
                                  .q = stream.layer_q,
                                  .k = stream.probe_k,
                                  .v = stream.probe_v,
                                  .scores = stream.probe_scores,
                                  .positions = stream.positions,
                                  .stream_norm = stream.stream_norm,
                                  .wo = model_.weights().layers[at.layer].wo});
  ++at.layer;
  at.row = 0;
  return at.layer < s.layers ? Progress::more : next_round(session);
}

}  // namespace pith

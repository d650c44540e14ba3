// One sequence: its tokens, its cache, and how far its prompt has been processed.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kv/store.h"
#include "policy/compressor.h"
#include "policy/observer.h"
#include "runtime/prefix_cache.h"
#include "runtime/sampler.h"

namespace pith {

// The rows of the prompt in flight, and the plain keys and values of the one layer they are in:
// no larger uncompressed cache ever exists. Routing shortens it; positions never change.
struct TokenStream {
  std::vector<int32_t> tokens, positions;
  int prompt_tokens = 0;  // before any routing
  Turn turn = Turn::by_policy;
  std::vector<uint8_t> adapted;                // [rows] 1 where the adapter is on; empty: nowhere
  Mat adapter_rows, adapter_low, adapter_sum;  // [step, features], [step, rank], if there is one
  Mat hidden;                                  // [rows, width]
  Cube layer_k, layer_v;                       // [heads, rows, dim], keys after RoPE
  Cube window_q;                   // [window, query_heads, dim], the last queries of the layer
  Cube layer_q;                    // [rows, query_heads, dim], if a role looks at all of them
  ReadPlan reads;                  // of the layer, if a TileReader made one
  Mat prompt_mass;                 // [heads, rows], if a role wants it
  std::unique_ptr<Buffer> memory;  // behind all of these; freed when the prompt is done
  size_t charged_bytes = 0;        // of it, in the pool
  // If set, called with the logits of every row in order.
  std::function<void(int row, std::span<const float> logits)> each_logits;
  bool made_up =
      false;  // benchmarks: random keys, values and queries take the place of computed ones
  // Of a probe's pass: room for the stored rows it looks at, in front of layer_k, and for scores.
  ProbeRun run;
  Cube probe_k, probe_v;           // [heads, stored + rows, dim], [heads, scored, dim]
  Mat probe_scores;                // [heads, scored]
  std::vector<float> stream_norm;  // [rows] of the stream that entered the layer
  int rows() const { return static_cast<int>(positions.size()); }
};

// How far a tile or a step of tokens came.
enum class [[nodiscard]] Progress{
    more,     // call again
    done,     // logits are ready
    starved,  // too little cache memory; nothing has changed
};

// Prefill can pause between any two tiles of any layer, so that generating sessions never
// wait longer than one tile.
struct PrefillCursor {
  int layer = 0;
  int row = 0;
  bool looked = false;        // at the layer's queries and keys, by a TileReader
  int round = -1;             // of the probe; -1: the prompt itself
  bool begun = false;         // something may be in the store
  std::vector<float> logits;  // of the last token; the session's when all is done
};

struct Session {
  Session(const KvShape& shape, std::shared_ptr<const Policy> policy, PagePool& pool,
          const SamplingOptions& sampling);
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  ~Session();
  // A copy that shares pages until either writes. Not while a prompt runs.
  std::unique_ptr<Session> fork() const;

  // A prompt, or a turn on top of the cache. The first prompt decides what `auto` stands for.
  // Throws bad_request if there are no tokens, or if `auto` asks for what nothing that was measured
  // gives.
  void feed(std::span<const int32_t> prompt, Turn turn = Turn::by_policy);
  // Drops the prompt in flight and what it wrote; the session is as it was before `feed`.
  void abandon();

  std::shared_ptr<const Policy> policy;  // of `auto`: what it chose, from the first prompt on
  PagePool& pool;
  std::unique_ptr<KvStore> store;
  Compressor compressor;
  Sampler sampler;
  TokenStream stream;
  std::optional<PrefillCursor> prefill;  // empty: the session generates
  std::vector<int32_t> tokens;           // everything fed and generated
  std::vector<float> logits;             // [vocab] of the last token
  PromptObserver* observer = nullptr;    // looks on while prompts are read; not owned
  PromptReuse reuse;                     // of the prompt in flight
  int reused_tokens = 0;                 // of `tokens`, that other sessions' prompts computed
  // Of the first prompt, if it comes in several turns: what `auto` is to choose for.
  int coming_tokens = 0;
  // Of the newest prompt, if `auto` chose: sentences about what is not as it was asked for.
  std::vector<std::string> warnings;
  // That Engine::decode dropped for want of memory, over all heads.
  int64_t rows_squeezed = 0, pages_squeezed = 0;

  Demand demand() const;  // of the policy, and of the observer

 private:
  Session(const Session& other, std::unique_ptr<KvStore> store);
  friend class Engine;
  friend class Forward;
  void release_stream();
  void decide(int tokens);
  // The prompt is read: what came out of the choice's promise.
  void check_choice();

  std::shared_ptr<const Policy> undecided_;  // of `auto`
  CompressionStats before_;                  // the prompt in flight
  std::chrono::steady_clock::time_point fed_;
};

}  // namespace pith

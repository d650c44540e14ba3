// One sequence: its tokens, its cache, and how far its prompt has been processed.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "kv/store.h"
#include "policy/compressor.h"
#include "runtime/sampler.h"

namespace pith {

// The rows of the prompt in flight. Routing shortens it; positions never change.
struct TokenStream {
  std::vector<int32_t> tokens, positions;
  std::vector<uint8_t> adapted;    // 1 where the adapter is on; empty: nowhere
  std::unique_ptr<Buffer> memory;  // behind `hidden`; freed when the prompt is done
  Mat hidden;                      // [rows, width]
  int rows() const { return static_cast<int>(positions.size()); }
};

// Prefill can pause between any two tiles of any layer, so that generating sessions never
// wait longer than one tile.
struct PrefillCursor {
  int layer = 0;
  int row = 0;
};

struct Session {
  Session(const KvShape& shape, std::shared_ptr<const Policy> policy, PagePool& pool,
          const SamplingOptions& sampling);
  Session(const Session&) = delete;
  ~Session();
  // A copy that shares sealed and full pages until either writes. Not while a prompt runs.
  std::unique_ptr<Session> fork() const;

  void feed(std::span<const int32_t> tokens);  // a prompt, or a turn on top of the cache

  const std::shared_ptr<const Policy> policy;
  PagePool& pool;
  KvStore store;
  Compressor compressor;
  Sampler sampler;
  TokenStream stream;
  std::optional<PrefillCursor> prefill;  // empty: the session generates
  std::vector<int32_t> tokens;           // everything fed and generated
  std::vector<float> logits;             // [vocab] of the last token
};

}  // namespace pith

// Everything that outlives a session, and the loop most callers want.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "backend/cpu_backend.h"
#include "base/progress.h"
#include "model/model.h"
#include "runtime/session.h"
#include "text/tokenizer.h"

namespace pith {

class Forward;

struct EngineOptions {
  int threads = 0;         // 0: one per core
  size_t cache_bytes = 0;  // hard limit of all sessions together; 0: three quarters of free memory
  int tile_rows = 512;     // rows of a prompt that run together
  MatmulForm matmul = MatmulForm::int8;
  // Prompts that begin the same compute what they have in common once (runtime/prefix_cache.h).
  bool reuse_prefixes = false;
  // Where memory is short, Engine::decode throws and drops no rows (runtime/squeeze.h).
  bool exact = false;
};

enum class Finish { stop, length, cancelled };

class Engine {
 public:
  Engine(std::shared_ptr<const Model> model, const EngineOptions& options);
  ~Engine();

  const Model& model() const;
  const Tokenizer& tokenizer() const;  // throws unsupported if the file has none
  Backend& backend();
  PagePool& pool();
  const EngineOptions& options() const;
  PrefixCache* prefixes();       // null unless EngineOptions::reuse_prefixes
  size_t scratch_bytes() const;  // of the forward pass and the backend, held throughout

  // Throws bad_option for a spec that does not parse.
  std::unique_ptr<Session> open(std::string_view spec, const SamplingOptions& sampling = {});
  std::unique_ptr<Session> open(std::shared_ptr<const Policy> policy,
                                const SamplingOptions& sampling = {});

  // A session on disk, between prompts; see runtime/session_file.h for the errors.
  void save(const Session& session, const std::string& path) const;
  std::unique_ptr<Session> load(const std::string& path, const SamplingOptions& sampling = {});

  // Reads the prompt (or a further turn) to its end; session.logits then belong to its last token.
  // Throws no_memory if the cache limit is too small, interrupted if the monitor says so. The
  // monitor hears Session::warnings.
  void prefill(Session& session, std::span<const int32_t> tokens,
               Monitor& monitor = Monitor::silent(), Turn turn = Turn::by_policy);
  // For benchmarks: the same life of the session, with random keys, values and queries instead of
  // a forward pass.
  void make_up(Session& session, std::span<const int32_t> tokens,
               Monitor& monitor = Monitor::silent());
  // The same as prefill, and calls `each` with the logits of every row in order (perplexity). The
  // session's policy must not route.
  void prefill_all(Session& session, std::span<const int32_t> tokens,
                   const std::function<void(int row, std::span<const float> logits)>& each,
                   Monitor& monitor = Monitor::silent());
  // One token for every session; their logits are updated. If memory is short, beginnings of
  // prompts that nobody uses are forgotten and then, unless EngineOptions::exact, the rows of these
  // sessions that matter least go, which Session::rows_squeezed counts. Throws no_memory if that is
  // not enough.
  void decode(std::span<Session* const> sessions, std::span<const int32_t> tokens);

  // The same a tile or a step at a time, for schedulers: what there is no memory for has not begun,
  // and may be tried again. `read_tile` goes on with the prompt that was fed; a session whose tile
  // threw is to be abandoned.
  void feed(Session& session, std::span<const int32_t> tokens) const;
  Progress read_tile(Session& session, const Monitor& monitor = Monitor::silent());
  Progress write_step(std::span<Session* const> sessions, std::span<const int32_t> tokens);
  bool ends_generation(int32_t token) const;  // false without a tokenizer
  // Begins the session's prompt again with nothing of others, if it took something over or records
  // itself, so that all that PrefixCache holds can be released. False if it did neither.
  bool read_alone(Session& session) const;
  // What must be free for the next tile of the session's prompt, or for one more token.
  size_t bytes_needed(const Session& session) const;

  // Samples and decodes up to max_tokens; `on_token` may return false to cancel.
  Finish generate(Session& session, int max_tokens,
                  const std::function<bool(int32_t token)>& on_token);

 private:
  struct State;
  void run_prompt(Session& session, Monitor& monitor);
  std::unique_ptr<State> state_;
};

}  // namespace pith

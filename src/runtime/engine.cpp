#include "runtime/engine.h"

#include <cmath>
#include <fstream>
#include <map>
#include <string>

#include "base/error.h"
#include "policy/registry.h"
#include "runtime/forward.h"
#include "runtime/session_file.h"
#include "runtime/squeeze.h"

namespace pith {
namespace {

// What the system says could be used without swapping; a quarter of it is left to others.
size_t default_cache_bytes() {
  std::ifstream info("/proc/meminfo");
  std::string key;
  size_t kib = 0;
  while (info >> key >> kib) {
    if (key == "MemAvailable:") return kib * 1024 / 4 * 3;
    info.ignore(64, '\n');
  }
  return size_t{4} << 30;
}

// A policy whose bases are counted for as long as anybody uses it.
struct CountedPolicy {
  CountedPolicy(std::shared_ptr<const Policy> counted, const std::shared_ptr<PagePool>& in,
                size_t held)
      : policy(std::move(counted)), pool(in), bytes(held) {
    in->charge(bytes, MemoryClass::bases);
  }
  ~CountedPolicy() {
    if (const auto alive = pool.lock()) alive->refund(bytes, MemoryClass::bases);
  }
  CountedPolicy(const CountedPolicy&) = delete;
  CountedPolicy& operator=(const CountedPolicy&) = delete;

  std::shared_ptr<const Policy> policy;
  std::weak_ptr<PagePool> pool;
  size_t bytes;
};

}  // namespace

struct Engine::State {
  State(std::shared_ptr<const Model> loaded, const EngineOptions& wanted)
      : model(std::move(loaded)),
        options(wanted),
        backend(make_cpu_backend(options.threads, options.matmul)),
        pool(std::make_shared<PagePool>(options.cache_bytes > 0 ? options.cache_bytes
                                                                : default_cache_bytes())),
        tokenizer(model->file().has("tokenizer.ggml.model") ? Tokenizer::load(model->file())
                                                            : nullptr),
        forward(*model, *backend, options.tile_rows, tokenizer.get()) {
    if (options.reuse_prefixes)
      prefixes = std::make_unique<PrefixCache>(model->config().shape, *pool);
  }

  void check_tokens(std::span<const int32_t> tokens) const {
    const int vocab = model->config().vocab;
    for (const int32_t t : tokens)
      if (t < 0 || t >= vocab)
        throw Error(Errc::bad_request, "token " + std::to_string(t) +
                                           " is not in the vocabulary of " + std::to_string(vocab));
  }

  void check_numbers(const Session& session) const {
    for (const float x : session.logits)
      if (std::isnan(x))
        throw Error(Errc::bad_file,
                    model->file().path() +
                        ": the logits are not numbers; weights are NaN, infinite or too large: "
                        "check the file, or convert it again");
  }

  // `needs`: who needs so many bytes; `remedy`: what can be done.
  [[noreturn]] void no_room(const std::string& needs, size_t bytes, const char* remedy) const {
    throw Error(Errc::no_memory, "the cache limit of " + mebibytes(pool->limit_bytes()) +
                                     " is too small: " + mebibytes(pool->used_bytes()) +
                                     " are in use and " + needs + " " + mebibytes(bytes) + "; " +
                                     remedy);
  }
  [[noreturn]] void starved(const Session& session, size_t needed) const {
    no_room("the next step of '" + session.policy->spec + "' needs", needed,
            "raise --kv-memory or lower the budget");
  }

  // The one in use that is the same, or a new one.
  std::shared_ptr<const Policy> policy(std::string_view spec) {
    auto made = make_policy(spec, model->config().shape, model->config().digest);
    std::erase_if(policies, [](const auto& known) { return known.second.expired(); });
    std::weak_ptr<const Policy>& known = policies[made->identity()];
    if (auto shared = known.lock()) return shared;
    const size_t bytes = made->store.basis ? made->store.basis->bytes() : 0;
    if (bytes == 0) {
      known = made;
      return made;
    }
    if (bytes > pool->free_bytes() && prefixes) prefixes->release(bytes);
    if (bytes > pool->free_bytes())
      no_room("the bases of '" + made->spec + "' need", bytes, "raise --kv-memory");
    const auto counted = std::make_shared<const CountedPolicy>(std::move(made), pool, bytes);
    std::shared_ptr<const Policy> shared(counted, counted->policy.get());
    known = shared;
    return shared;
  }

  // False if there is no more memory than before.
  bool squeeze(std::span<Session* const> sessions, size_t needed) const {
    if (options.exact) return false;
    const Squeezed done = squeeze_until_free(sessions, needed);
    for (size_t s = 0; s < sessions.size(); ++s) {
      sessions[s]->rows_squeezed += done.rows[s];
      sessions[s]->pages_squeezed += done.pages[s];
    }
    return done.bytes > 0;
  }

  std::shared_ptr<const Model> model;
  EngineOptions options;
  std::unique_ptr<Backend> backend;
  std::shared_ptr<PagePool> pool;
  std::unique_ptr<Tokenizer> tokenizer;
  Forward forward;
  std::unique_ptr<PrefixCache> prefixes;
  std::map<std::string, std::weak_ptr<const Policy>> policies;  // by Policy::identity
};

Engine::Engine(std::shared_ptr<const Model> model, const EngineOptions& options)
    : state_(std::make_unique<State>(std::move(model), options)) {}
Engine::~Engine() = default;

const Model& Engine::model() const {
  return *state_->model;
}
Backend& Engine::backend() {
  return *state_->backend;
}
PagePool& Engine::pool() {
  return *state_->pool;
}
const EngineOptions& Engine::options() const {
  return state_->options;
}
PrefixCache* Engine::prefixes() {
  return state_->prefixes.get();
}
size_t Engine::scratch_bytes() const {
  return state_->forward.scratch_bytes() + state_->backend->scratch_bytes();
}

const Tokenizer& Engine::tokenizer() const {
  if (!state_->tokenizer)
    throw Error(Errc::unsupported,
                state_->model->file().path() + ": the file carries no tokenizer; give token ids");
  return *state_->tokenizer;
}

std::unique_ptr<Session> Engine::open(std::string_view spec, const SamplingOptions& sampling) {
  return open(state_->policy(spec), sampling);
}

std::unique_ptr<Session> Engine::open(std::shared_ptr<const Policy> policy,
                                      const SamplingOptions& sampling) {
  return std::make_unique<Session>(model().config().shape, std::move(policy), *state_->pool,
                                   sampling);
}

void Engine::save(const Session& session, const std::string& path) const {
  save_session(session, model(), path);
}

std::unique_ptr<Session> Engine::load(const std::string& path, const SamplingOptions& sampling) {
  const auto read = [&] {
    return load_session(path, model(), *state_->backend, *state_->pool, sampling,
                        [&](std::string_view spec) { return state_->policy(spec); });
  };
  try {
    return read();
  } catch (const Error& error) {
    if (error.code() != Errc::no_memory || !state_->prefixes ||
        !state_->prefixes->release(state_->pool->limit_bytes()))
      throw;
  }
  return read();
}

void Engine::prefill(Session& session, std::span<const int32_t> tokens, Monitor& monitor,
                     Turn turn) {
  state_->check_tokens(tokens);
  session.feed(tokens, turn);
  run_prompt(session, monitor);
}

void Engine::make_up(Session& session, std::span<const int32_t> tokens, Monitor& monitor) {
  feed(session, tokens);
  session.stream.made_up = true;
  run_prompt(session, monitor);
}

void Engine::prefill_all(Session& session, std::span<const int32_t> tokens,
                         const std::function<void(int, std::span<const float>)>& each,
                         Monitor& monitor) {
  feed(session, tokens);
  session.stream.each_logits = each;
  run_prompt(session, monitor);
}

void Engine::run_prompt(Session& session, Monitor& monitor) {
  const int64_t layers = model().config().shape.layers;
  const int tokens = session.stream.prompt_tokens;
  // Rows of all layers; routing makes the later ones shorter, so the bar may jump ahead.
  const int64_t total = layers * tokens;
  try {
    for (;;) {
      monitor.check();
      const Progress progress = read_tile(session, monitor);
      if (progress == Progress::starved) {
        const size_t needed = bytes_needed(session);
        if (state_->prefixes && (state_->prefixes->release(needed) || read_alone(session)))
          continue;
        state_->starved(session, needed);
      }
      if (progress == Progress::done) break;
      const PrefillCursor& at = *session.prefill;
      if (at.round >= 0) {
        const int64_t rounds = session.policy->probe->rounds(tokens);
        monitor.progress("probe", at.round * layers + at.layer, rounds * layers);
        continue;
      }
      const double part = static_cast<double>(at.row) / session.stream.rows();
      monitor.progress("prefill", static_cast<int64_t>((at.layer + part) * tokens), total);
    }
  } catch (...) {
    session.abandon();
    throw;
  }
  monitor.progress(session.policy->probe ? "probe" : "prefill", total, total);
  for (const std::string& warning : session.warnings) monitor.warn(warning);
}

void Engine::decode(std::span<Session* const> sessions, std::span<const int32_t> tokens) {
  while (write_step(sessions, tokens) != Progress::done) {
    size_t needed = 0;
    for (const Session* s : sessions) needed += bytes_needed(*s);
    if (state_->prefixes && state_->prefixes->release(needed)) continue;
    if (!state_->squeeze(sessions, needed)) state_->starved(*sessions[0], needed);
  }
}

void Engine::feed(Session& session, std::span<const int32_t> tokens) const {
  state_->check_tokens(tokens);
  session.feed(tokens);
}

Progress Engine::read_tile(Session& session, const Monitor& monitor) {
  PrefixCache* const prefixes = state_->prefixes.get();
  if (prefixes && session.prefill && !session.prefill->begun) prefixes->begin(session);
  const Progress progress = state_->forward.prefill_tile(session, monitor);
  if (progress == Progress::done) {
    state_->check_numbers(session);
    if (prefixes) prefixes->end(session);
    session.check_choice();
  }
  return progress;
}

bool Engine::read_alone(Session& session) const {
  const bool helped = session.reuse.known != nullptr, records = session.reuse.record != nullptr;
  session.reuse.record.reset();
  session.reuse.alone = true;
  if (!helped) return records;
  const std::vector<int32_t> prompt(session.tokens.end() - session.stream.prompt_tokens,
                                    session.tokens.end());
  const Turn turn = session.stream.turn;
  session.abandon();
  session.feed(prompt, turn);
  return true;
}

Progress Engine::write_step(std::span<Session* const> sessions, std::span<const int32_t> tokens) {
  state_->check_tokens(tokens);
  const Progress progress = state_->forward.decode_step(sessions, tokens);
  if (progress == Progress::done)
    for (const Session* session : sessions) state_->check_numbers(*session);
  return progress;
}

size_t Engine::bytes_needed(const Session& session) const {
  return session.prefill ? state_->forward.bytes_needed(session)
                         : session.compressor.bytes_for_step();
}

bool Engine::ends_generation(int32_t token) const {
  return state_->tokenizer && state_->tokenizer->ends_generation(token);
}

Finish Engine::generate(Session& session, int max_tokens,
                        const std::function<bool(int32_t token)>& on_token) {
  for (int i = 0; max_tokens < 0 || i < max_tokens; ++i) {
    std::vector<float> logits = session.logits;
    const int32_t token = session.sampler.sample(logits, session.tokens);
    if (ends_generation(token)) return Finish::stop;
    if (!on_token(token)) return Finish::cancelled;
    Session* const one = &session;
    decode({&one, 1}, {&token, 1});
  }
  return Finish::length;
}

}  // namespace pith

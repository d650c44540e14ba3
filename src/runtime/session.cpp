#include "runtime/session.h"

#include <algorithm>

#include "base/error.h"

namespace pith {

Session::Session(const KvShape& shape, std::shared_ptr<const Policy> shared, PagePool& pages,
                 const SamplingOptions& sampling)
    : policy(std::move(shared)),
      pool(pages),
      store(std::make_unique<KvStore>(shape, policy->store, pages)),
      compressor(*policy, *store),
      sampler(sampling) {}

Session::Session(const Session& other, std::unique_ptr<KvStore> forked)
    : policy(other.policy),
      pool(other.pool),
      store(std::move(forked)),
      compressor(other.compressor, *store),
      sampler(other.sampler),
      tokens(other.tokens),
      logits(other.logits) {}

Session::~Session() {
  release_stream();
}

std::unique_ptr<Session> Session::fork() const {
  PITH_CHECK(!prefill, "a session forks between prompts");
  return std::unique_ptr<Session>(new Session(*this, store->fork()));
}

void Session::feed(std::span<const int32_t> prompt, Turn turn) {
  PITH_CHECK(!prefill, "one prompt at a time");
  if (prompt.empty()) throw Error(Errc::bad_request, "the prompt has no tokens");
  stream.tokens.assign(prompt.begin(), prompt.end());
  stream.positions.resize(prompt.size());
  const int first = compressor.query_position(static_cast<int>(tokens.size()));
  for (size_t i = 0; i < prompt.size(); ++i) stream.positions[i] = first + static_cast<int32_t>(i);
  stream.prompt_tokens = static_cast<int>(prompt.size());
  stream.turn = turn;
  tokens.insert(tokens.end(), prompt.begin(), prompt.end());
  prefill.emplace();
}

Demand Session::demand() const {
  Demand demand = policy->demand();
  if (observer) demand.window_queries = std::max(demand.window_queries, observer->window_queries());
  return demand;
}

void Session::abandon() {
  if (!prefill) return;
  if (prefill->begun) store->rewind();
  tokens.resize(tokens.size() - static_cast<size_t>(stream.prompt_tokens));
  prefill.reset();
  release_stream();
  reuse.forget();
}

void Session::release_stream() {
  if (stream.charged_bytes > 0) pool.refund(stream.charged_bytes, MemoryClass::prompt);
  stream = {};
}

}  // namespace pith

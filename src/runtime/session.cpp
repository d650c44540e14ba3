#include "runtime/session.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "policy/auto_choice.h"

namespace pith {

Session::Session(const KvShape& shape, std::shared_ptr<const Policy> shared, PagePool& pages,
                 const SamplingOptions& sampling)
    : policy(std::move(shared)),
      pool(pages),
      store(std::make_unique<KvStore>(shape, policy->store, pages)),
      compressor(*policy, *store),
      sampler(sampling),
      undecided_(policy->undecided ? policy : nullptr) {}

Session::Session(const Session& other, std::unique_ptr<KvStore> forked)
    : policy(other.policy),
      pool(other.pool),
      store(std::move(forked)),
      compressor(other.compressor, *store),
      sampler(other.sampler),
      tokens(other.tokens),
      logits(other.logits),
      rows_squeezed(other.rows_squeezed),
      pages_squeezed(other.pages_squeezed),
      undecided_(other.undecided_) {}

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
  if (undecided_ && tokens.empty())
    decide(std::max(static_cast<int>(prompt.size()), coming_tokens));
  before_ = compressor.stats();
  fed_ = std::chrono::steady_clock::now();
  warnings =
      policy->choice && tokens.empty() ? policy->choice->warnings : std::vector<std::string>();
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

void Session::decide(int count) {
  std::shared_ptr<const Policy> chosen = pith::decide(*undecided_->undecided, count);
  auto fresh = std::make_unique<KvStore>(store->shape(), chosen->store, pool);
  Compressor over(*chosen, *fresh);
  compressor.become(std::move(over));
  policy = std::move(chosen);
  store = std::move(fresh);
}

void Session::check_choice() {
  if (!policy->choice) return;
  const Choice& choice = *policy->choice;
  const CompressionStats& now = compressor.stats();
  const double memory = static_cast<double>(choice.wish.memory);
  const auto whole = [](double x) { return std::to_string(std::llround(x)); };
  const std::string what = "auto: with '" + policy->spec + "' ";
  if (const int64_t heads = now.heads_short - before_.heads_short; heads > 0) {
    const double seen = now.mass_seen - before_.mass_seen, kept = now.mass_kept - before_.mass_kept;
    warnings.push_back(what + std::to_string(heads) + (heads == 1 ? " head holds" : " heads hold") +
                       " less of the attention than answers needed where it was measured (" +
                       whole(100 * kept / std::max(seen, 1e-30)) + " % in all): " +
                       bytes_words(memory) + " leave no room for more of this prompt");
  }
  const size_t held = store->bytes().total();
  if (choice.wish.memory > 0 && held > choice.wish.memory)
    warnings.push_back(what + "the session holds " + bytes_words(static_cast<double>(held)) +
                       " and " + bytes_words(memory) + " were asked for");
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - fed_).count();
  if (choice.wish.ttft > 0 && seconds > choice.wish.ttft)
    warnings.push_back(what + "the prompt took " + whole(1000 * seconds) + " ms and " +
                       whole(1000 * choice.wish.ttft) + " were asked for");
}

void Session::release_stream() {
  if (stream.charged_bytes > 0) pool.refund(stream.charged_bytes, MemoryClass::prompt);
  stream = {};
}

}  // namespace pith

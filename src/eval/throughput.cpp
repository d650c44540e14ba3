#include "eval/throughput.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <vector>

#include "base/error.h"
#include "base/random.h"

namespace pith {
namespace {

// Tokens per second of all sessions together.
double write_tokens(Engine& engine, const std::vector<std::unique_ptr<Session>>& sessions,
                    Monitor& monitor) {
  std::vector<Session*> batch;
  for (const auto& session : sessions) batch.push_back(session.get());
  const std::vector<int32_t> tokens(batch.size(), 0);
  std::vector<double> seconds;
  for (int i = 0; i < Throughput::kSteps; ++i) {
    monitor.check();
    const auto start = std::chrono::steady_clock::now();
    engine.decode(batch, tokens);
    seconds.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  const auto middle = seconds.begin() + Throughput::kSteps / 2;
  std::ranges::nth_element(seconds, middle);
  return static_cast<double>(batch.size()) / std::max(*middle, 1e-9);
}

}  // namespace

Throughput measure_throughput(Engine& engine, std::string_view spec, int tokens,
                              uint64_t limit_bytes, Monitor& monitor) {
  Random random(1);
  std::vector<int32_t> prompt(static_cast<size_t>(tokens));
  const auto vocab = static_cast<uint64_t>(engine.model().config().vocab);
  for (int32_t& token : prompt) token = static_cast<int32_t>(random.below(vocab));
  const auto make = [&] {
    std::unique_ptr<Session> session = engine.open(spec, {.temperature = 0});
    engine.make_up(*session, prompt, monitor);
    return session;
  };

  Throughput out{.limit_bytes = limit_bytes};
  std::vector<std::unique_ptr<Session>> sessions;
  sessions.push_back(make());
  out.alone = write_tokens(engine, sessions, monitor);
  out.session_bytes = sessions[0]->store->bytes().total();
  const uint64_t fit = limit_bytes / std::max<uint64_t>(out.session_bytes, 1);
  if (fit == 0) return out;
  sessions[0] = make();
  try {
    while (sessions.size() < std::min<uint64_t>(fit, Throughput::kSessions))
      sessions.push_back(make());
  } catch (const Error& error) {
    // The engine's own limit is lower.
    if (error.code() != Errc::no_memory) throw;
  }
  out.sessions = static_cast<int>(sessions.size());
  out.together = write_tokens(engine, sessions, monitor);
  return out;
}

}  // namespace pith

// How many tokens a second sessions of a spec write: one alone, and as many at once as a limit of
// memory holds. Keys, values and queries are made up (Engine::make_up): what a model says takes no
// part in how fast it says it.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/progress.h"
#include "runtime/engine.h"

namespace pith {

struct Throughput {
  static constexpr int kSteps = 16;     // tokens that are timed; their median counts
  static constexpr int kSessions = 64;  // at once at most

  uint64_t limit_bytes = 0;
  uint64_t session_bytes = 0;  // that one holds at its end
  int sessions = 0;            // that fit the limit; 0: not even one
  double alone = 0;            // tokens per second
  double together = 0;         // of all sessions in sum; 0 if none fits
};

// `tokens`: of each prompt. Throws what Engine::make_up does.
Throughput measure_throughput(Engine& engine, std::string_view spec, int tokens,
                              uint64_t limit_bytes, Monitor& monitor);

}  // namespace pith

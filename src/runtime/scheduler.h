// Many sessions under one hard limit of cache memory: requests queue, prompts are read a tile at a
// time between the tokens of those that generate, and all that generate take a token together.
//
// With EngineOptions::reuse_prefixes, prompts that begin the same compute that once, and share its
// pages where they can (prefix_cache.h).
//
// Memory is asked for before it is used, so the limit holds to the byte. What is too little is made
// more in this order: beginnings of prompts that nobody uses are forgotten; the least relevant rows
// of all sessions that allow it go (squeeze.h); then the youngest session is preempted, younger
// than the one in need; then the one in need, if it is the youngest, waits until others have ended.
// A preempted session starts again when there is room: its prompt is read and what it had written
// is fed to it a token at a time, so that its cache, and with it the rest of its answer, is what it
// would have been. A session that is too large by itself is refused with a sentence. The oldest
// session is never preempted, so something always goes on.
//
// One thread at a time.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "runtime/engine.h"
#include "runtime/squeeze.h"

namespace pith {

struct Request {
  std::vector<int32_t> prompt;
  int max_tokens = 128;
  std::string spec = "full";
  // First tokens of the prompt that are a turn of their own if the method needs no question
  // (PrefixUse::opens), such as a document before questions: with EngineOptions::reuse_prefixes,
  // what is kept of them is kept once for all requests that open the same. 0: the prompt is one
  // turn.
  int opening = 0;
  SamplingOptions sampling = {};
  bool exact = false;  // never squeezed: the answer is the one it would have had alone
  // Each token as it is chosen, once; false ends the request as cancelled. May be empty.
  std::function<bool(int32_t token)> on_token = {};
};

enum class Ending { stop, length, cancelled, refused };

struct Answer {
  int64_t id = 0;
  Ending ending = Ending::stop;
  std::vector<int32_t> tokens;  // written, whatever the ending
  std::string why;              // of a refusal: a sentence
  int preemptions = 0;
  int reused_tokens = 0;                          // of the prompt, that other prompts had computed
  int64_t rows_squeezed = 0, pages_squeezed = 0;  // over all heads
  std::vector<std::string> warnings;              // Session::warnings
};

struct SchedulerOptions {
  int most_sessions = 64;  // that hold memory at a time
  bool squeeze = true;
  // Whether beginnings of prompts are remembered that no waiting request shares, for those to come.
  bool remember_all = false;
  SqueezeRule rule = {};
};

class Scheduler {
 public:
  explicit Scheduler(Engine& engine, const SchedulerOptions& options = {});  // it outlives this
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // Queues a request and returns its number. Throws bad_option for a spec that does not parse and
  // bad_request for an empty prompt, a token that is not in the vocabulary, or an opening with
  // nothing behind it.
  int64_t submit(Request request);
  // Ends a request at the next step; what it has written is its answer. Unknown numbers are
  // ignored.
  void cancel(int64_t id);

  // One tile of one prompt, and one token of every session that generates. False if there was
  // nothing to do. Throws interrupted if the monitor wants to stop; the prompt then starts again.
  bool step(const Monitor& monitor = Monitor::silent());
  // Requests that ended since the last call, in the order in which they did.
  std::vector<Answer> take_answers();

  int waiting() const { return static_cast<int>(waiting_.size()); }
  int running() const { return static_cast<int>(running_.size()); }

 private:
  struct Job;
  using Jobs = std::deque<std::unique_ptr<Job>>;

  void drop_cancelled();
  void admit();
  void feed(Job& job) const;
  static void move(const Job& job, Jobs& from, Jobs& to);
  void read_tile(const Monitor& monitor);
  void write_tokens();
  void choose(Job& job);
  std::vector<Job*> ready();
  bool relieve(size_t bytes, const Job& in_need);
  void wait(Job& job, size_t until_free);
  void end(Job& job, Ending ending, std::string why = {});
  void refuse(Job& job, size_t bytes);
  Job* reading();
  size_t reserve() const;
  bool make_room(size_t bytes);
  int shared_with_others(const Job& job) const;

  Engine& engine_;
  const SchedulerOptions options_;
  int64_t next_id_ = 1;
  Jobs waiting_, running_;  // by age
  std::vector<Answer> answers_;
};

}  // namespace pith

#include "runtime/scheduler.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/error.h"

namespace pith {
namespace {

// Steps that sessions in the cache can go on for before a newcomer may take the rest.
constexpr size_t kStepsAhead = 4;

}  // namespace

struct Scheduler::Job {
  int64_t id = 0;
  Request request;
  std::shared_ptr<const Policy> policy;
  size_t opening = 0;                // tokens of the first turn, if there are two
  size_t first_bytes = 0;            // that its first tile asks for
  Answer answer;                     // so far
  std::unique_ptr<Session> session;  // null: waits
  std::optional<Sampler> sampler;    // of a preempted session: what it had drawn
  size_t fed = 0;                    // of answer.tokens, to the session
  size_t until_free = 0;             // bytes, before it is admitted again
  bool cancelled = false;
};

Scheduler::Scheduler(Engine& engine, const SchedulerOptions& options)
    : engine_(engine), options_(options) {}
Scheduler::~Scheduler() = default;

int64_t Scheduler::submit(Request request) {
  const auto session = engine_.open(request.spec, request.sampling);
  engine_.feed(*session, request.prompt);  // throws now, not when its turn comes
  if (request.opening < 0 || static_cast<size_t>(request.opening) >= request.prompt.size())
    throw Error(Errc::bad_request,
                "an opening of " + std::to_string(request.opening) + " tokens and a prompt of " +
                    std::to_string(request.prompt.size()) + "; something must follow an opening");
  auto job = std::make_unique<Job>();
  job->policy = session->policy;
  if (prefix_use(*job->policy, engine_.model().config().shape).opens)
    job->opening = static_cast<size_t>(request.opening);
  job->first_bytes = engine_.bytes_needed(*session);
  job->id = job->answer.id = next_id_++;
  job->request = std::move(request);
  waiting_.push_back(std::move(job));
  return waiting_.back()->id;
}

void Scheduler::cancel(int64_t id) {
  for (Jobs* jobs : {&waiting_, &running_})
    for (const auto& job : *jobs)
      if (job->id == id) job->cancelled = true;
}

std::vector<Answer> Scheduler::take_answers() {
  return std::exchange(answers_, {});
}

bool Scheduler::step(const Monitor& monitor) {
  drop_cancelled();
  if (waiting_.empty() && running_.empty()) return false;
  admit();
  read_tile(monitor);
  write_tokens();
  return true;
}

void Scheduler::end(Job& job, Ending ending, std::string why) {
  job.session.reset();
  job.answer.ending = ending;
  job.answer.why = std::move(why);
  answers_.push_back(std::move(job.answer));
  const auto is = [&](const auto& one) { return one.get() == &job; };
  if (std::erase_if(running_, is) == 0) std::erase_if(waiting_, is);
}

void Scheduler::drop_cancelled() {
  std::vector<Job*> dropped;
  for (Jobs* jobs : {&waiting_, &running_})
    for (const auto& job : *jobs)
      if (job->cancelled) dropped.push_back(job.get());
  for (Job* job : dropped) end(*job, Ending::cancelled);
}

Scheduler::Job* Scheduler::reading() {
  for (const auto& job : running_)
    if (job->session->prefill) return job.get();
  return nullptr;
}

size_t Scheduler::reserve() const {
  size_t bytes = 0;
  for (const auto& job : running_)
    if (!job->session->prefill) bytes += engine_.bytes_needed(*job->session);
  return kStepsAhead * bytes;
}

// One prompt is read at a time: its rows in flight are the largest single piece of memory.
void Scheduler::admit() {
  if (waiting_.empty() || reading() ||
      running_.size() >= static_cast<size_t>(options_.most_sessions))
    return;
  Job& job = *waiting_.front();
  const size_t needed = std::max(job.first_bytes, job.until_free) + reserve();
  if (!running_.empty() && !make_room(needed)) return;
  if (job.opening > 0 && engine_.prefixes())
    job.session = engine_.prefixes()->fork_opening(
        *job.policy, std::span(job.request.prompt).first(job.opening));
  if (job.session) {
    job.session->sampler = Sampler(job.request.sampling);
    job.session->reused_tokens = static_cast<int>(job.opening);
  } else {
    job.session = engine_.open(job.policy, job.request.sampling);
    job.session->reuse.remember = job.opening > 0         ? 0
                                  : options_.remember_all ? INT32_MAX
                                                          : shared_with_others(job);
  }
  feed(job);
  move(job, waiting_, running_);
}

// The turn that comes next: the opening, what follows it, or the prompt.
void Scheduler::feed(Job& job) const {
  const size_t read = job.session->tokens.size();
  std::span<const int32_t> turn = std::span(job.request.prompt).subspan(read);
  if (read < job.opening) turn = turn.first(job.opening);
  engine_.feed(*job.session, turn);
}

// Tokens that the prompt has in common with one of those that will be read.
int Scheduler::shared_with_others(const Job& job) const {
  int most = 0;
  for (const auto& other : waiting_)
    if (other.get() != &job)
      most = std::max(most, common_beginning(job.request.prompt, other->request.prompt));
  return most;
}

// At the cost of what nobody uses. False if that is not enough.
bool Scheduler::make_room(size_t bytes) {
  if (PrefixCache* const prefixes = engine_.prefixes()) {
    prefixes->release(bytes);
    Job* const reader = reading();
    if (reader && bytes > engine_.pool().free_bytes()) reader->session->reuse.record.reset();
  }
  return bytes <= engine_.pool().free_bytes();
}

// To its place by age.
void Scheduler::move(const Job& job, Jobs& from, Jobs& to) {
  const auto at = std::ranges::find(from, &job, &std::unique_ptr<Job>::get);
  std::unique_ptr<Job> moved = std::move(*at);
  from.erase(at);
  const auto older = [](const auto& a, const auto& b) { return a->id < b->id; };
  to.insert(std::ranges::upper_bound(to, moved, older), std::move(moved));
}

// Back to the queue; what it wrote is remembered.
void Scheduler::wait(Job& job, size_t until_free) {
  if (!job.session->prefill && !job.sampler) job.sampler = job.session->sampler;
  job.session->abandon();
  job.session.reset();
  job.fed = 0;
  job.until_free = until_free;
  ++job.answer.preemptions;
  move(job, running_, waiting_);
}

// Makes memory free for a session, at the cost of others: `bytes` of it, what there was to squeeze,
// or what the youngest held.
// False if nobody younger is left.
bool Scheduler::relieve(size_t bytes, const Job& in_need) {
  if (make_room(bytes)) return true;
  if (options_.squeeze) {
    std::vector<Session*> sessions;
    std::vector<Job*> owners;
    for (const auto& job : running_)
      if (!job->request.exact && !job->session->prefill) {
        sessions.push_back(job->session.get());
        owners.push_back(job.get());
      }
    const Squeezed done = squeeze_until_free(sessions, bytes, options_.rule);
    for (size_t s = 0; s < owners.size(); ++s) {
      owners[s]->answer.rows_squeezed += done.rows[s];
      owners[s]->answer.pages_squeezed += done.pages[s];
    }
    if (done.bytes > 0) return true;  // a step may need less by now
  }
  Job& youngest = *running_.back();
  if (youngest.id <= in_need.id) return false;
  const size_t free = engine_.pool().free_bytes();
  wait(youngest, 0);
  youngest.until_free = engine_.pool().free_bytes() - free;
  return true;
}

void Scheduler::refuse(Job& job, size_t bytes) {
  end(job, Ending::refused,
      "the cache limit of " + mebibytes(engine_.pool().limit_bytes()) + " is too small for '" +
          job.request.spec + "' after " +
          std::to_string(job.request.prompt.size() + job.answer.tokens.size()) +
          " tokens, which needs " + mebibytes(bytes) +
          " more; raise the limit or lower the budget");
}

void Scheduler::read_tile(const Monitor& monitor) {
  Job* const job = reading();
  if (!job) return;
  try {
    Progress progress = Progress::more;
    while ((progress = engine_.read_tile(*job->session, monitor)) == Progress::starved) {
      const size_t needed =
          std::max(engine_.bytes_needed(*job->session), engine_.pool().free_bytes() + 1);
      if (relieve(needed, *job)) continue;
      // It is the youngest by now; alone, nobody will ever make room.
      if (running_.size() == 1 && engine_.read_alone(*job->session)) continue;
      if (running_.size() > 1) {
        const size_t held =
            job->session->store->bytes().total() + job->session->stream.charged_bytes;
        wait(*job, needed + held);
      } else {
        refuse(*job, needed);
      }
      return;
    }
    job->answer.reused_tokens = job->session->reused_tokens;
    job->answer.warnings = job->session->warnings;
    if (progress == Progress::done && job->session->tokens.size() < job->request.prompt.size()) {
      if (engine_.prefixes()) engine_.prefixes()->keep_opening(*job->session);
      feed(*job);
    }
  } catch (const Error& error) {
    job->session->abandon();
    if (error.code() == Errc::interrupted) {
      feed(*job);
      throw;
    }
    end(*job, Ending::refused, error.what());
  }
}

// Chooses the token that the session takes next, or ends its answer.
void Scheduler::choose(Job& job) {
  if (job.fed < job.answer.tokens.size()) return;  // chosen before
  if (job.sampler) job.session->sampler = *std::exchange(job.sampler, std::nullopt);
  if (job.request.max_tokens >= 0 &&
      job.answer.tokens.size() >= static_cast<size_t>(job.request.max_tokens))
    return end(job, Ending::length);
  std::vector<float> logits = job.session->logits;
  const int32_t token = job.session->sampler.sample(logits, job.session->tokens);
  if (engine_.ends_generation(token)) return end(job, Ending::stop);
  job.answer.tokens.push_back(token);
  if (job.request.on_token && !job.request.on_token(token)) end(job, Ending::cancelled);
}

std::vector<Scheduler::Job*> Scheduler::ready() {
  std::vector<Job*> jobs;
  for (const auto& job : running_)
    if (!job->session->prefill) jobs.push_back(job.get());
  return jobs;
}

void Scheduler::write_tokens() {
  for (Job* job : ready()) {
    try {
      choose(*job);
    } catch (const Error& error) {  // such as a bias that leaves no token
      end(*job, Ending::refused, error.what());
    }
  }
  // As many as there is memory for take their token together; what a step may need at worst is
  // often free again after it.
  std::vector<Job*> jobs = ready();
  while (!jobs.empty()) {
    std::vector<Session*> sessions;
    std::vector<int32_t> tokens;
    size_t needed = 0;
    for (const Job* job : jobs) {
      const size_t bytes = engine_.bytes_needed(*job->session);
      if (!sessions.empty() && needed + bytes > engine_.pool().free_bytes()) break;
      needed += bytes;
      sessions.push_back(job->session.get());
      tokens.push_back(job->answer.tokens[job->fed]);
    }
    if (engine_.write_step(sessions, tokens) == Progress::done) {
      for (size_t i = 0; i < sessions.size(); ++i) ++jobs[i]->fed;
      jobs.erase(jobs.begin(), jobs.begin() + static_cast<int64_t>(sessions.size()));
      continue;
    }
    Job& first = *jobs.front();
    if (!relieve(needed, first)) {
      if (running_.size() > 1)  // an older one reads
        wait(first, needed + first.session->store->bytes().total());
      else
        refuse(first, needed);
    }
    std::erase_if(jobs, [&](const Job* job) {
      return std::ranges::find(running_, job, &std::unique_ptr<Job>::get) == running_.end();
    });
  }
}

}  // namespace pith

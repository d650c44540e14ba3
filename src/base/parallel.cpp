#include "base/parallel.h"

#include <algorithm>
#include <atomic>
#include <sched.h>
#include <tbb/blocked_range.h>
#include <tbb/global_control.h>
#include <tbb/parallel_for.h>
#include <tbb/partitioner.h>
#include <tbb/task_arena.h>
#include <thread>

#include "base/error.h"

namespace pith {
namespace {

int usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

thread_local bool inside = false;

}  // namespace

struct Threads::Arena {
  explicit Arena(int count)
      : allowed(tbb::global_control::max_allowed_parallelism, static_cast<size_t>(count)),
        tasks(count) {}
  tbb::global_control allowed;  // lets `-t` exceed the number of cores
  tbb::task_arena tasks;
};

Threads::Threads(int count)
    : count_(count > 0 ? count : usable_cores()), arena_(std::make_unique<Arena>(count_)) {}

Threads::~Threads() = default;

void Threads::for_each(int64_t tasks,
                       const std::function<void(int64_t task, int worker)>& body) const {
  PITH_CHECK(!inside, "parallel regions do not nest");
  if (count_ == 1 || tasks <= 1) {
    inside = true;
    for (int64_t t = 0; t < tasks; ++t) body(t, 0);
    inside = false;
    return;
  }
  // The scheduler's own synchronisation lives in a library that the thread sanitizer does not
  // see; these two counters state the same order (caller before tasks, tasks before return).
  std::atomic<int64_t> started{0}, finished{0};
  started.store(1, std::memory_order_release);
  arena_->tasks.execute([&] {
    tbb::parallel_for(
        tbb::blocked_range<int64_t>(0, tasks, 1),
        [&](const tbb::blocked_range<int64_t>& range) {
          (void)started.load(std::memory_order_acquire);
          const int worker = tbb::this_task_arena::current_thread_index();
          inside = true;
          for (int64_t t = range.begin(); t < range.end(); ++t) body(t, worker);
          inside = false;
          finished.fetch_add(range.end() - range.begin(), std::memory_order_acq_rel);
        },
        tbb::simple_partitioner());
  });
  PITH_CHECK(finished.load(std::memory_order_acquire) == tasks, "every task ran");
}

}  // namespace pith

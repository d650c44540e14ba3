#include "base/parallel.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <optional>
#include <sched.h>
#include <tbb/blocked_range.h>
#include <tbb/global_control.h>
#include <tbb/parallel_for.h>
#include <tbb/partitioner.h>
#include <tbb/task_arena.h>
#include <thread>

#include "base/error.h"

#ifdef PITH_THREAD_SANITIZER
extern "C" void __tsan_acquire(void* at);  // NOLINT(bugprone-reserved-identifier): its interface
extern "C" void __tsan_release(void* at);  // NOLINT(bugprone-reserved-identifier)
#endif

namespace pith {
namespace {

// The scheduler's synchronisation lives in a library that the thread sanitizer does not see. This
// file is built without it, and states the order instead: the caller before its tasks, the tasks
// before the return. Nothing orders tasks among each other.
struct Order {
#ifdef PITH_THREAD_SANITIZER
  void before() {
    __tsan_release(this);
  }
  void after() {
    __tsan_acquire(this);
  }
  char place = 0;
#else
  static void before() {}
  static void after() {}
#endif
};

int usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

thread_local bool inside = false;

// The scheduler's limit is the process's, and of several the smallest holds: there is one, with
// room for the workers of all arenas. It lets `-t` exceed the number of cores.
class Workers {
 public:
  static void add(int workers, int arenas) {
    static Workers& all = *new Workers;  // outlives every arena
    const std::lock_guard lock(all.lock_);
    all.workers_ += workers;
    all.arenas_ += arenas;
    all.allowed_.reset();
    if (all.arenas_ > 0)
      all.allowed_.emplace(tbb::global_control::max_allowed_parallelism,
                           static_cast<size_t>(all.workers_) + 1);
  }

 private:
  std::mutex lock_;
  int workers_ = 0, arenas_ = 0;
  std::optional<tbb::global_control> allowed_;
};

}  // namespace

struct Threads::Arena {
  explicit Arena(int count) : workers(count - 1), tasks(count) { Workers::add(workers, 1); }
  ~Arena() { Workers::add(-workers, -1); }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  int workers;  // beside the caller
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
  std::atomic<int64_t> finished{0};
  Order begun, ended;
  begun.before();
  arena_->tasks.execute([&] {
    tbb::parallel_for(
        tbb::blocked_range<int64_t>(0, tasks, 1),
        [&](const tbb::blocked_range<int64_t>& range) {
          begun.after();
          const int worker = tbb::this_task_arena::current_thread_index();
          inside = true;
          for (int64_t t = range.begin(); t < range.end(); ++t) body(t, worker);
          inside = false;
          finished.fetch_add(range.end() - range.begin(), std::memory_order_relaxed);
          ended.before();
        },
        tbb::simple_partitioner());
  });
  ended.after();
  PITH_CHECK(finished.load(std::memory_order_relaxed) == tasks, "every task ran");
}

}  // namespace pith

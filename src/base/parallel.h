// Fork-join over numbered tasks; the only owner of threads. Waiting threads block, they never
// spin: on a shared machine a spinning barrier costs a scheduler slice (about 8 ms) per region.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace pith {

class Threads {
 public:
  explicit Threads(int count = 0);  // 0: one per core this process may use
  ~Threads();
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

  int count() const { return count_; }

  // Calls body(task, worker) once for every task in [0, tasks), worker in [0, count()), and
  // returns when all are done. Which worker takes which task is not determined, so bodies write
  // to memory of their task only, and `worker` serves to find scratch memory. Tasks must not
  // throw, and must not call for_each again.
  void for_each(int64_t tasks, const std::function<void(int64_t task, int worker)>& body) const;

 private:
  struct Arena;
  int count_;
  std::unique_ptr<Arena> arena_;
};

}  // namespace pith

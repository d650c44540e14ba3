#include "base/parallel.h"

#include <atomic>
#include <gtest/gtest.h>
#include <numeric>
#include <thread>
#include <vector>

namespace pith {
namespace {

TEST(Threads, RunEveryTaskOnceOnAWorkerOfTheirs) {
  for (const int count : {1, 2, 5}) {
    const Threads threads(count);
    EXPECT_EQ(threads.count(), count);
    for (const int64_t tasks : {0, 1, 2, 7, 1000}) {
      std::vector<int> runs(static_cast<size_t>(tasks)), workers(runs.size());
      threads.for_each(tasks, [&](int64_t task, int worker) {
        ++runs[static_cast<size_t>(task)];
        workers[static_cast<size_t>(task)] = worker;
      });
      EXPECT_EQ(runs, std::vector<int>(runs.size(), 1));
      for (const int worker : workers) {
        EXPECT_GE(worker, 0);
        EXPECT_LT(worker, count);
      }
    }
  }
}

TEST(Threads, SeeWhatWasWrittenBeforeAndShowWhatTheyWrote) {
  const Threads threads(4);
  std::vector<int64_t> values(256);
  for (int64_t round = 1; round <= 50; ++round) {
    std::iota(values.begin(), values.end(), round);
    threads.for_each(256, [&](int64_t task, int) { values[static_cast<size_t>(task)] *= task; });
    for (int64_t i = 0; i < 256; ++i)
      ASSERT_EQ(values[static_cast<size_t>(i)], (round + i) * i) << "round " << round;
  }
}

TEST(Threads, GiveNoTwoTasksThatRunAtOnceTheSameWorker) {
  const Threads threads(4);
  std::vector<std::atomic<int>> busy(4);
  std::atomic<int> clashes{0};
  threads.for_each(2000, [&](int64_t, int worker) {
    std::atomic<int>& own = busy[static_cast<size_t>(worker)];
    if (own.fetch_add(1) != 0) ++clashes;
    std::this_thread::yield();
    own.fetch_sub(1);
  });
  EXPECT_EQ(clashes, 0);
}

TEST(Threads, OfTwoOwnersWorkSideBySide) {
  const auto sum = [](int64_t tasks) {
    const Threads threads(2);
    std::vector<int64_t> part(static_cast<size_t>(tasks));
    for (int round = 0; round < 20; ++round)
      threads.for_each(tasks, [&](int64_t task, int) { part[static_cast<size_t>(task)] += task; });
    return std::accumulate(part.begin(), part.end(), int64_t{0});
  };
  int64_t other = 0;
  std::thread thread([&] { other = sum(300); });
  const int64_t own = sum(200);
  thread.join();
  EXPECT_EQ(own, 20 * 200 * 199 / 2);
  EXPECT_EQ(other, 20 * 300 * 299 / 2);
}

TEST(ThreadsDeathTest, DoNotNest) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const Threads threads(1);
  EXPECT_DEATH(threads.for_each(1, [&](int64_t, int) { threads.for_each(1, [](int64_t, int) {}); }),
               "parallel regions do not nest");
}

}  // namespace
}  // namespace pith

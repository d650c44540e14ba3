// What the system says the process holds is what the sessions hold: within the limit and a
// twentieth under pressure, and no more than what is left once they have ended.
#include <algorithm>
#include <fstream>
#include <gtest/gtest.h>
#include <unistd.h>

#include "base/random.h"
#include "runtime/scheduler.h"
#include "support/tiny_model.h"
#include "support/tiny_sessions.h"

namespace pith::test {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

size_t resident() {
  size_t total = 0, pages = 0;
  std::ifstream("/proc/self/statm") >> total >> pages;
  return pages * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

// Little to compute and much to hold: 128 KiB per token.
std::shared_ptr<const Model> large_model() {
  static const auto model = [] {
    TinyModel tiny;
    tiny.name = "wide";
    tiny.layers = 16;
    tiny.query_heads = tiny.heads = 8;
    tiny.dim = 256;
    tiny.context = 4096;
    return Model::load(write_tiny_model(tiny));
  }();
  return model;
}

// What is resident beside sessions: threads and scratch have been used once.
size_t warmed_up(Engine& engine, size_t tokens) {
  for (const char* spec : {"snapkv:budget=0.5", "full"}) {
    const auto session = engine.open(spec);
    engine.prefill(*session, tiny_tokens(tiny_model("llama"), static_cast<int>(tokens)));
    engine.generate(*session, 2, [](int32_t) { return true; });
  }
  return resident() - engine.pool().used_bytes();
}

TEST(ResidentMemory, FollowsWhatSessionsHold) {
  if (kSanitized) GTEST_SKIP() << "sanitizers hold memory of their own";
  Engine engine(large_model(), tiny_options(1, 64, 512 * kMiB));
  const size_t base = warmed_up(engine, 150);
  const PagePool& pool = engine.pool();
  // An empty slab may wait for each size of page, and kIdleBytes of freed pages among used ones; of
  // a head's last page, only what holds rows was ever touched.
  const auto expect_as_much = [&](const std::string& when) {
    constexpr size_t kSlack = PagePool::kIdleBytes + 3 * PagePool::kSlabBytes + kMiB;
    EXPECT_LE(resident(), base + pool.used_bytes() + kSlack) << when;
    EXPECT_GE(resident() + kSlack, base + pool.used_bytes() - pool.used_bytes() / 8) << when;
  };
  std::vector<std::unique_ptr<Session>> sessions;
  for (uint64_t i = 0; i < 8; ++i) {
    sessions.push_back(engine.open(i % 2 == 0 ? "full" : "snapkv:budget=0.5"));
    engine.prefill(*sessions.back(), tiny_tokens(tiny_model("llama"), 150, i));
    expect_as_much("session " + std::to_string(i));
  }
  EXPECT_GT(pool.used_bytes(), 100 * kMiB);
  // A third of the memory of all sessions goes, in between what stays.
  std::vector<Session*> all;
  for (const auto& session : sessions) all.push_back(session.get());
  const size_t held = pool.used_bytes();
  squeeze(all, held / 3);
  EXPECT_LE(pool.used_bytes(), held - held / 3);
  expect_as_much("after a squeeze");
  while (!sessions.empty()) {
    sessions.erase(sessions.begin() + static_cast<int64_t>(sessions.size() / 2));
    expect_as_much(std::to_string(sessions.size()) + " sessions left");
  }
  EXPECT_EQ(pool.used_bytes(), 0u);
}

// As Scheduler.KeepsThirtyTwoSessionsUnderAQuarterOfTheirMemory, with memory that the system sees.
TEST(ResidentMemory, OfManySessionsStaysWithinTheLimitAndATwentieth) {
  if (kSanitized) GTEST_SKIP() << "sanitizers hold memory of their own";
  const char* specs[] = {"full", "snapkv:budget=0.5", "full:cache=q8", "kivi:bits=4",
                         "streaming_llm:budget=0.6"};
  Random random(23);
  std::vector<Request> requests;
  size_t need = 0;
  const std::vector<int32_t> common = tiny_tokens(tiny_model("llama"), 60, 99);
  for (int i = 0; i < 32; ++i) {
    Request request{.prompt = {},
                    .max_tokens = static_cast<int>(random.below(4) == 0 ? 100 + random.below(60)
                                                                        : random.below(30)),
                    .spec = specs[random.below(5)],
                    .exact = random.below(3) == 0};
    if (random.below(3) == 0) request.prompt = common;
    const auto rest =
        tiny_tokens(tiny_model("llama"), 1 + static_cast<int>(random.below(300)), random.next());
    request.prompt.insert(request.prompt.end(), rest.begin(), rest.end());
    Engine engine(large_model(), tiny_options(2, 512, 512 * kMiB));
    const auto session = engine.open(request.spec);
    engine.make_up(*session, request.prompt);
    need += engine.pool().used_bytes();
    requests.push_back(std::move(request));
  }
  EngineOptions options = tiny_options(2, 512, need / 4);
  options.reuse_prefixes = true;
  Engine engine(large_model(), options);
  const size_t base = warmed_up(engine, 360), limit = engine.pool().limit_bytes();
  EXPECT_GT(limit, 80 * kMiB) << "too little for a twentieth of it to be seen";
  engine.prefixes()->release(limit);

  Scheduler scheduler(engine, {.remember_all = true});
  std::vector<int64_t> ids;
  size_t ended = 0, most = 0, held = 0, refused = 0;
  int preemptions = 0;
  int64_t rows = 0;
  for (const Request& request : requests) ids.push_back(scheduler.submit(request));
  for (int steps = 0; scheduler.step(); ++steps) {
    ASSERT_LT(steps, 100000) << "the scheduler goes round in circles";
    ASSERT_LE(engine.pool().used_bytes(), limit);
    most = std::max(most, resident());
    held = std::max(held, engine.pool().used_bytes());
    if (random.below(200) == 0) scheduler.cancel(ids[random.below(ids.size())]);
    for (const Answer& answer : scheduler.take_answers()) {
      ++ended;
      refused += answer.ending == Ending::refused;
      preemptions += answer.preemptions;
      rows += answer.rows_squeezed;
    }
  }
  for (const Answer& answer : scheduler.take_answers()) ended += answer.id > 0;
  EXPECT_EQ(ended, requests.size());
  EXPECT_EQ(refused, 0u);
  EXPECT_GT(preemptions + rows, 0) << "the limit did not bind, so this test shows nothing";
  EXPECT_LE(engine.pool().peak_bytes(), limit);
  EXPECT_LE(most, base + limit + limit / 20)
      << "limit " << limit / kMiB << " MiB, resident beyond the base " << (most - base) / kMiB;
  EXPECT_GE(held, limit - limit / 20) << "the limit was not approached, so this test shows less";
  RecordProperty("limit_mib", static_cast<int>(limit / kMiB));
  RecordProperty("resident_mib", static_cast<int>((most - base) / kMiB));

  engine.prefixes()->release(limit);
  EXPECT_EQ(engine.pool().used_bytes(), 0u);
  EXPECT_LE(resident(), base + PagePool::kIdleBytes + 4 * PagePool::kSlabBytes);
}

}  // namespace
}  // namespace pith::test

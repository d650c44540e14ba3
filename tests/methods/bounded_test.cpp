// Methods that reduce while generating hold a bounded cache for ever, through the whole engine.
#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <string>
#include <unistd.h>

#include "gtest/gtest.h"
#include "policy/registry.h"
#include "runtime/engine.h"
#include "support/tiny_model.h"
#include "support/toy_calibration.h"

namespace pith::test {
namespace {

// 20,000 generated tokens take a minute in all: they are run where PITH_SLOW_TESTS is set.
const bool kSlow = std::getenv("PITH_SLOW_TESTS") != nullptr;

size_t resident_bytes() {
  size_t all = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> all >> resident;
  return resident * static_cast<size_t>(::sysconf(_SC_PAGESIZE));
}

class BoundedGeneration : public ::testing::TestWithParam<const char*> {};

TEST_P(BoundedGeneration, NeverHoldsAPageMoreThanAfterTheFirstTokens) {
  TinyModel tiny = tiny_model("llama");
  tiny.context = 32768;
  Engine engine(Model::load(write_tiny_model(tiny)),
                {.threads = 1, .cache_bytes = size_t{64} << 20});
  const KvShape& shape = engine.model().config().shape;
  std::string spec = GetParam();
  if (spec.starts_with("razor")) spec += ",heads=" + toy_calibration(shape);
  const auto policy = make_policy(spec, shape);
  const auto session = engine.open(policy);
  engine.prefill(*session, tiny_tokens(tiny, 2000));
  Session* const one = session.get();

  const int cadence = policy->reduce_every, steps = kSlow ? 20000 : 400;
  ASSERT_GT(cadence, 0);
  const auto tokens = tiny_tokens(tiny, steps, 9);
  size_t limit = 0, resident = 0;
  int most_rows = 0;
  for (int i = 0; i < steps; ++i) {
    engine.decode({&one, 1}, {&tokens[static_cast<size_t>(i)], 1});
    const size_t bytes = session->store->bytes().total();
    if (i < 3 * cadence) {
      limit = std::max(limit, bytes);
      if (i + 1 == 3 * cadence) resident = resident_bytes();
      continue;
    }
    const size_t page = PagePool::page_cost(static_cast<size_t>(policy->store.page_rows) *
                                            static_cast<size_t>(shape.dim) * 2);
    ASSERT_LE(bytes, limit + page) << "token " << i;
    ASSERT_LE(engine.pool().used_bytes(), limit + page) << "token " << i;
    for (int l = 0; l < shape.layers; ++l)
      for (int h = 0; h < shape.heads; ++h)
        most_rows = std::max(most_rows, std::as_const(*session->store).at(l, h).rows());
  }
  EXPECT_GE(most_rows, 1024);
  EXPECT_LT(most_rows, 1024 + cadence);
  EXPECT_EQ(session->compressor.query_position(2000 + steps), 2000 + steps) << "positions go on";
  // Of the process: less than the pool's smallest step. Sanitizers keep what is freed.
  if (kSlow) {
    EXPECT_LT(resident_bytes(), resident + PagePool::kSlabBytes);
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, BoundedGeneration,
                         ::testing::Values("h2o:budget=1024", "tova:budget=1024",
                                           "streaming_llm:budget=1024",
                                           "razor:induction=0,echo=0,local=1020,factor=100"),
                         [](const auto& info) {
                           const std::string spec = info.param;
                           return spec.substr(0, spec.find(':'));
                         });

}  // namespace
}  // namespace pith::test

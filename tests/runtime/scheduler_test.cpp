// What a scheduler promises: every request ends, the limit holds, and who is exact answers as if it
// were alone.
#include "runtime/scheduler.h"

#include <algorithm>
#include <gtest/gtest.h>
#include <map>

#include "base/error.h"
#include "base/random.h"
#include "support/tiny_model.h"
#include "support/tiny_sessions.h"

namespace pith::test {
namespace {

std::vector<int32_t> prompt_of(int tokens, uint64_t seed) {
  return tiny_tokens(tiny_model("llama"), tokens, seed);
}

// Greedy tokens of a session that has an engine to itself.
std::vector<int32_t> alone(const Request& request) {
  Engine engine(loaded_tiny_model("llama"), tiny_options(1, 64));
  const auto session = engine.open(request.spec, request.sampling);
  std::span<const int32_t> turn = request.prompt;
  if (request.opening > 0 && prefix_use(*session->policy, engine.model().config().shape).opens) {
    engine.prefill(*session, turn.first(static_cast<size_t>(request.opening)));
    turn = turn.subspan(static_cast<size_t>(request.opening));
  }
  engine.prefill(*session, turn);
  std::vector<int32_t> tokens;
  engine.generate(*session, request.max_tokens, [&](int32_t token) {
    tokens.push_back(token);
    return true;
  });
  return tokens;
}

std::map<int64_t, Answer> run(Scheduler& scheduler, const PagePool& pool, int most_steps = 100000) {
  std::map<int64_t, Answer> answers;
  for (int i = 0; scheduler.step(); ++i) {
    EXPECT_LT(i, most_steps) << "the scheduler goes round in circles";
    if (i >= most_steps) break;
    EXPECT_LE(pool.used_bytes(), pool.limit_bytes());
    for (Answer& answer : scheduler.take_answers()) {
      const int64_t id = answer.id;
      EXPECT_TRUE(answers.emplace(id, std::move(answer)).second) << "a request ends once";
    }
  }
  return answers;
}

SamplingOptions greedy() {
  SamplingOptions sampling;
  sampling.temperature = 0;
  return sampling;
}

TEST(Scheduler, AnswersEveryRequestAsIfItWereAlone) {
  Engine engine(loaded_tiny_model("llama"), tiny_options(1, 64));
  Scheduler scheduler(engine);
  std::map<int64_t, Request> requests;
  const char* specs[] = {"full", "snapkv:budget=40", "h2o:budget=48", "streaming_llm:budget=24"};
  for (int i = 0; i < 8; ++i) {
    const Request request{.prompt = prompt_of(20 + 37 * i, static_cast<uint64_t>(i)),
                          .max_tokens = 5 + 3 * i,
                          .spec = specs[i % 4],
                          .sampling = greedy()};
    requests[scheduler.submit(request)] = request;
  }
  auto answers = run(scheduler, engine.pool());
  ASSERT_EQ(answers.size(), requests.size());
  for (const auto& [id, request] : requests) {
    EXPECT_EQ(answers[id].tokens, alone(request)) << request.spec;
    EXPECT_EQ(answers[id].preemptions, 0);
    EXPECT_EQ(answers[id].rows_squeezed, 0);
  }
  EXPECT_EQ(engine.pool().used_bytes(), 0u);
}

TEST(Scheduler, PreemptsTheYoungestAndGivesExactRequestsTheAnswerTheyWouldHaveHadAlone) {
  // The memory of one and a half of four sessions.
  SamplingOptions sampling;  // drawn, not greedy: the sampler's state has to survive
  sampling.seed = 5;
  std::map<int64_t, Request> requests;
  Engine measure(loaded_tiny_model("llama"), tiny_options(1, 64));
  const auto one = measure.open("full", sampling);
  measure.prefill(*one, prompt_of(100, 1));
  measure.generate(*one, 250, [](int32_t) { return true; });
  const size_t limit = std::max(measure.pool().peak_bytes(), 3 * measure.pool().used_bytes() / 2);

  Engine engine(loaded_tiny_model("llama"), tiny_options(1, 64, limit));
  Scheduler scheduler(engine);
  for (int i = 0; i < 4; ++i) {
    const Request request{.prompt = prompt_of(100, static_cast<uint64_t>(i)),
                          .max_tokens = 250,
                          .sampling = sampling,
                          .exact = true};
    requests[scheduler.submit(request)] = request;
  }
  auto answers = run(scheduler, engine.pool());
  ASSERT_EQ(answers.size(), requests.size());
  int preemptions = 0;
  for (const auto& [id, request] : requests) {
    EXPECT_EQ(answers[id].tokens, alone(request));
    EXPECT_EQ(answers[id].rows_squeezed, 0);
    preemptions += answers[id].preemptions;
  }
  EXPECT_EQ(answers.begin()->second.preemptions, 0) << "the oldest is never preempted";
  EXPECT_GT(preemptions, 0) << "the limit did not bind, so this test shows nothing";
  EXPECT_LE(engine.pool().peak_bytes(), limit);
  EXPECT_EQ(engine.pool().used_bytes(), 0u);
}

TEST(Scheduler, SqueezesBeforeItPreempts) {
  Engine measure(loaded_tiny_model("llama"), tiny_options(1, 64));
  const auto one = measure.open("full", greedy());
  measure.prefill(*one, prompt_of(300, 1));
  const size_t limit = 3 * measure.pool().peak_bytes() / 2;

  Engine engine(loaded_tiny_model("llama"), tiny_options(1, 64, limit));
  Scheduler scheduler(engine);
  for (int i = 0; i < 4; ++i)
    scheduler.submit({.prompt = prompt_of(200, static_cast<uint64_t>(i)),
                      .max_tokens = 100,
                      .sampling = greedy()});
  const auto answers = run(scheduler, engine.pool());
  int64_t squeezed = 0;
  for (const auto& [id, answer] : answers) {
    EXPECT_TRUE(answer.ending == Ending::length || answer.ending == Ending::stop) << answer.why;
    squeezed += answer.rows_squeezed;
  }
  EXPECT_EQ(answers.size(), 4u);
  EXPECT_GT(squeezed, 0);
  EXPECT_LE(engine.pool().peak_bytes(), limit);
}

// Four sessions in few bits, with three quarters of what they take.
TEST(Scheduler, SqueezesSessionsInFewBitsBeforeItPreempts) {
  for (const char* spec : {"kivi:bits=2", "kivi:bits=4", "kivi:bits=2,residual=64", "turboquant"}) {
    size_t limit = 0;
    for (const bool free : {true, false}) {
      Engine engine(loaded_tiny_model("llama"),
                    tiny_options(1, 64, free ? size_t{1} << 30 : limit));
      Scheduler scheduler(engine);
      for (int i = 0; i < 4; ++i)
        scheduler.submit({.prompt = prompt_of(60, static_cast<uint64_t>(i)),
                          .max_tokens = 300,
                          .spec = spec,
                          .sampling = greedy()});
      const auto answers = run(scheduler, engine.pool());
      int64_t squeezed = 0;
      for (const auto& [id, answer] : answers) {
        EXPECT_NE(answer.ending, Ending::refused) << spec << ": " << answer.why;
        EXPECT_EQ(answer.preemptions, 0) << spec;
        squeezed += answer.rows_squeezed;
      }
      EXPECT_EQ(squeezed > 0, !free) << spec;
      EXPECT_LT(squeezed, int64_t{4} * 4 * 360 / 2) << spec;
      if (free) limit = engine.pool().peak_bytes() / 4 * 3;
      EXPECT_TRUE(free || engine.pool().peak_bytes() <= limit);
    }
  }
}

TEST(Scheduler, RefusesWithASentenceWhatIsTooLargeByItself) {
  Engine engine(loaded_tiny_model("llama"), tiny_options(1, 64, size_t{64} << 10));
  Scheduler scheduler(engine);
  const int64_t large =
      scheduler.submit({.prompt = prompt_of(400, 1), .max_tokens = 10, .sampling = greedy()});
  const int64_t small =
      scheduler.submit({.prompt = prompt_of(10, 1), .max_tokens = 3, .sampling = greedy()});
  auto answers = run(scheduler, engine.pool());
  EXPECT_EQ(answers[large].ending, Ending::refused);
  EXPECT_NE(answers[large].why.find("raise the limit or lower the budget"), std::string::npos)
      << answers[large].why;
  EXPECT_NE(answers[small].ending, Ending::refused) << answers[small].why;
}

TEST(Scheduler, CancelsWhatWaitsWhatReadsAndWhatWrites) {
  Engine engine(loaded_tiny_model("llama"), tiny_options(1, 16));
  Scheduler scheduler(engine);
  const auto submit = [&](int tokens) {
    return scheduler.submit({.prompt = prompt_of(tokens, 3), .max_tokens = 50});
  };
  const int64_t writes = submit(8), reads = submit(200), waits = submit(100);
  for (int i = 0; i < 4; ++i) scheduler.step();
  for (const int64_t id : {writes, reads, waits, int64_t{99}}) scheduler.cancel(id);
  EXPECT_FALSE(scheduler.step());
  const auto answers = scheduler.take_answers();
  ASSERT_EQ(answers.size(), 3u);
  for (const Answer& answer : answers) EXPECT_EQ(answer.ending, Ending::cancelled);
  EXPECT_EQ(engine.pool().used_bytes(), 0u);
}

TEST(Scheduler, StopsARequestWhoseListenerHasEnough) {
  Engine engine(loaded_tiny_model("llama"), tiny_options(1));
  Scheduler scheduler(engine);
  int heard = 0;
  scheduler.submit({.prompt = prompt_of(10, 1),
                    .max_tokens = -1,
                    .sampling = greedy(),
                    .on_token = [&](int32_t) { return ++heard < 3; }});
  const auto answers = run(scheduler, engine.pool());
  EXPECT_EQ(heard, 3);
  EXPECT_EQ(answers.begin()->second.ending, Ending::cancelled);
  EXPECT_EQ(answers.begin()->second.tokens.size(), 3u);
}

TEST(Scheduler, RefusesARequestThatMakesNoSenseWhenItIsSubmitted) {
  Engine engine(loaded_tiny_model("llama"), tiny_options(1));
  Scheduler scheduler(engine);
  EXPECT_THROW(scheduler.submit({.prompt = {}}), Error);
  EXPECT_THROW(scheduler.submit({.prompt = {100000}}), Error);
  EXPECT_THROW(scheduler.submit({.prompt = {5}, .spec = "no_such_method"}), Error);
  EXPECT_FALSE(scheduler.step());
}

// 32 sessions of random lengths, methods and cancellations under a quarter of what they need.
TEST(Scheduler, KeepsThirtyTwoSessionsUnderAQuarterOfTheirMemory) {
  const char* specs[] = {"full",
                         "snapkv:budget=0.5",
                         "h2o:budget=64",
                         "streaming_llm:budget=0.4",
                         "snapkv+pyramidkv:budget=0.5",
                         "full:cache=q8",
                         "knorm:budget=0.6",
                         "streaming_llm:budget=64,rerotate=true",
                         "kivi:bits=4,group=32",
                         "tiers:f16=0.2,q4=0.4,q2=0.4,page=8",
                         "lazyllm:revive=1",
                         "h2o:mass=squares,budget=1.0",
                         "kvzip:budget=0.5"};
  const std::vector<int32_t> common = prompt_of(70, 4711);
  Random random(17);
  std::vector<Request> requests;
  size_t need = 0;
  for (int i = 0; i < 32; ++i) {
    Request request{.prompt = prompt_of(1 + static_cast<int>(random.below(100)), random.next()),
                    .max_tokens = static_cast<int>(random.below(200)),
                    .spec = specs[random.below(std::size(specs))],
                    .exact = random.below(3) == 0};
    if (random.below(2) == 0)
      request.prompt.insert(request.prompt.begin(), common.begin(), common.end());
    if (request.prompt.size() > common.size() && random.below(2) == 0)
      request.opening = static_cast<int>(common.size());
    request.sampling.seed = random.next() & 0xffff;
    Engine engine(loaded_tiny_model("llama"), tiny_options(1, 64));
    const auto session = engine.open(request.spec, request.sampling);
    engine.prefill(*session, request.prompt);
    engine.generate(*session, request.max_tokens, [](int32_t) { return true; });
    need += engine.pool().used_bytes();
    requests.push_back(std::move(request));
  }

  EngineOptions options = tiny_options(2, 64, need / 4);
  options.reuse_prefixes = true;
  Engine engine(loaded_tiny_model("llama"), options);
  Scheduler scheduler(engine, {.remember_all = true});
  std::map<int64_t, const Request*> of;
  std::map<int64_t, Answer> answers;
  std::vector<int64_t> cancelled;
  size_t submitted = 0;
  for (int steps = 0;; ++steps) {
    ASSERT_LT(steps, 20000) << "the scheduler goes round in circles";
    while (submitted < requests.size() && random.below(3) > 0) {
      const Request& request = requests[submitted++];
      const int64_t id = scheduler.submit(request);
      of[id] = &request;
      if (random.below(6) == 0) cancelled.push_back(id);
    }
    if (!cancelled.empty() && random.below(20) == 0) {
      scheduler.cancel(cancelled.back());
      cancelled.pop_back();
    }
    const bool busy = scheduler.step();
    ASSERT_LE(engine.pool().used_bytes(), engine.pool().limit_bytes());
    for (Answer& answer : scheduler.take_answers()) answers[answer.id] = std::move(answer);
    if (!busy && submitted == requests.size()) break;
  }
  EXPECT_EQ(answers.size(), requests.size());
  int preemptions = 0, reused = 0;
  int64_t squeezed = 0;
  for (const auto& [id, answer] : answers) {
    preemptions += answer.preemptions;
    reused += answer.reused_tokens;
    squeezed += answer.rows_squeezed;
    if (answer.ending == Ending::cancelled) continue;
    if (answer.ending == Ending::refused) {
      EXPECT_NE(answer.why.find("limit"), std::string::npos) << answer.why;
    } else if (of[id]->exact) {
      EXPECT_EQ(answer.tokens, alone(*of[id])) << of[id]->spec;
    }
  }
  EXPECT_GT(preemptions + squeezed, 0) << "the limit did not bind, so this test shows nothing";
  EXPECT_GT(reused, 0) << "no prompt was helped, so this test shows less";
  EXPECT_LE(engine.pool().peak_bytes(), need / 4);
  engine.prefixes()->release(engine.pool().limit_bytes());
  EXPECT_EQ(engine.pool().used_bytes(), 0u) << "nothing leaks";
}

}  // namespace
}  // namespace pith::test

#include "eval/runner.h"

#include <algorithm>
#include <cmath>
#include <gtest/gtest.h>

#include "eval/throughput.h"
#include "support/tiny_sessions.h"

namespace pith {
namespace {

constexpr const char* kSpec = "snapkv:budget=40";

Sample little_sample() {
  Sample sample;
  for (int i = 0; i < 12; ++i)
    sample.context += "Line " + std::to_string(i * 37 % 100) + " says nothing. ";
  sample.questions.push_back({"What does line 37 say?", " It says", {"nothing"}, {}});
  sample.questions.push_back({"And line 74?", " It says", {"nothing"}, {}});
  sample.max_new_tokens = 6;
  return sample;
}

class SampleRunnerTest : public ::testing::Test {
 protected:
  Engine engine{test::loaded_tiny_model("llama"), test::tiny_options(1)};
  SampleRunner runner{engine, std::nullopt};

  std::vector<Outcome> run(const std::string& spec, Protocol protocol, const Watch& watch = {}) {
    return runner.run(little_sample(), spec, protocol, Monitor::silent(), watch);
  }
  FullAnswers full(Protocol protocol) {
    FullAnswers answers;
    run("full", protocol, {.record = &answers});
    return answers;
  }
};

// Natural, in double precision, from the definition.
double divergence(std::span<const float> p, std::span<const float> q) {
  const auto logs = [](std::span<const float> logits) {
    double sum = 0;
    for (const float x : logits) sum += std::exp(static_cast<double>(x));
    std::vector<double> out;
    for (const float x : logits) out.push_back(static_cast<double>(x) - std::log(sum));
    return out;
  };
  const std::vector<double> lp = logs(p), lq = logs(q);
  double sum = 0;
  for (size_t i = 0; i < lp.size(); ++i) sum += std::exp(lp[i]) * (lp[i] - lq[i]);
  return sum;
}

TEST_F(SampleRunnerTest, FindsTheFullCacheEqualToItself) {
  for (const Protocol protocol : {Protocol::aware, Protocol::agnostic}) {
    const FullAnswers answers = full(protocol);
    ASSERT_EQ(answers.answers.size(), 2u);
    for (const Outcome& outcome : run("full", protocol, {.compare = &answers, .mass = true})) {
      EXPECT_EQ(outcome.divergence, 0);
      EXPECT_EQ(outcome.agreement, 1);
      EXPECT_NEAR(outcome.mass_kept.value(), 1, 1e-6);
    }
  }
}

TEST_F(SampleRunnerTest, ComparesWithWhatTheFullCacheAnswers) {
  const FullAnswers answers = full(Protocol::aware);
  const Sample sample = little_sample();
  const std::vector<Outcome> outcomes = run(kSpec, Protocol::aware, {.compare = &answers});
  for (size_t question = 0; question < 2; ++question) {
    // The same by hand: the prompt is read, and the full cache's answer is fed.
    const auto session = engine.open(kSpec, {.temperature = 0});
    const auto reference = engine.open("full", {.temperature = 0});
    const Tokenizer& tokenizer = engine.tokenizer();
    const Question& asked = sample.questions[question];
    std::vector<int32_t> prompt = tokenizer.encode_prompt(sample.context, true);
    for (const int32_t token : tokenizer.encode_more(asked.text + asked.prefix, false))
      prompt.push_back(token);
    engine.prefill(*session, prompt);
    engine.prefill(*reference, prompt);
    double sum = 0;
    int same = 0;
    const std::vector<int32_t>& fed = answers.answers[question].tokens;
    ASSERT_EQ(fed.size(), 6u);
    for (size_t i = 0; i < fed.size(); ++i) {
      sum += divergence(reference->logits, session->logits);
      const auto best = [](const std::vector<float>& x) {
        return std::max_element(x.begin(), x.end()) - x.begin();
      };
      same += best(reference->logits) == best(session->logits);
      EXPECT_EQ(best(reference->logits), fed[i]);
      Session* const both[] = {session.get(), reference.get()};
      const int32_t tokens[] = {fed[i], fed[i]};
      engine.decode(both, tokens);
    }
    EXPECT_GT(outcomes[question].divergence.value(), 0);
    EXPECT_NEAR(outcomes[question].divergence.value(), sum / 6, 1e-5 + 1e-3 * sum);
    EXPECT_DOUBLE_EQ(outcomes[question].agreement.value(), same / 6.0);
  }
}

TEST_F(SampleRunnerTest, ChangesNoAnswerByLookingOn) {
  for (const Protocol protocol : {Protocol::aware, Protocol::agnostic}) {
    const FullAnswers answers = full(protocol);
    const std::vector<Outcome> plain = run(kSpec, protocol),
                               watched = run(kSpec, protocol, {.compare = &answers, .mass = true});
    ASSERT_EQ(plain.size(), watched.size());
    for (size_t i = 0; i < plain.size(); ++i) {
      EXPECT_EQ(plain[i].output, watched[i].output);
      EXPECT_EQ(plain[i].prompt_bytes.total(), watched[i].prompt_bytes.total());
      EXPECT_EQ(plain[i].end_bytes.total(), watched[i].end_bytes.total());
      EXPECT_EQ(plain[i].peak_bytes, watched[i].peak_bytes);
      EXPECT_FALSE(plain[i].divergence || plain[i].mass_kept);
    }
  }
}

TEST_F(SampleRunnerTest, SaysHowMuchAttentionIsKept) {
  double last = 0;
  for (const char* const spec : {"snapkv:budget=40", "snapkv:budget=120", "full"}) {
    const std::vector<Outcome> outcomes = run(spec, Protocol::agnostic, {.mass = true});
    // One context, compressed once.
    EXPECT_EQ(outcomes[0].mass_kept, outcomes[1].mass_kept);
    EXPECT_GT(outcomes[0].mass_kept.value(), last);
    last = *outcomes[0].mass_kept;
  }
  EXPECT_LE(last, 1 + 1e-6);
}

TEST_F(SampleRunnerTest, TellsKeysFromValuesAndTheCompressionFromTheRest) {
  for (const std::string spec : {"full", "kivi:bits=2,value_bits=4", "snapkv:budget=40"})
    for (const Outcome& outcome : run(spec, Protocol::aware)) {
      const size_t pages = outcome.prompt_bytes.sealed + outcome.prompt_bytes.open;
      if (spec.starts_with("kivi"))
        EXPECT_LT(outcome.prompt_bytes.keys, pages / 2);
      else
        EXPECT_EQ(outcome.prompt_bytes.keys, pages / 2);
      EXPECT_GT(outcome.prompt_bytes.keys, 0u);
      EXPECT_GE(outcome.end_bytes.keys, outcome.prompt_bytes.keys);
      EXPECT_GE(outcome.peak_bytes, outcome.end_bytes.total() + engine.scratch_bytes());
      EXPECT_GT(outcome.compress_seconds, 0);
      EXPECT_LT(outcome.compress_seconds, outcome.first_seconds);
    }
}

// Beside the prompt that is kept for others, beside forks, and beside what an earlier spec left.
TEST_F(SampleRunnerTest, CountsWhatIsSharedAsIfEverySessionWereAlone) {
  EngineOptions options = test::tiny_options(1);
  options.reuse_prefixes = true;
  Engine sharing(test::loaded_tiny_model("llama"), options);
  SampleRunner beside(sharing, std::nullopt);
  for (const Protocol protocol : {Protocol::aware, Protocol::agnostic})
    for (const char* const spec : {"full", "kivi:bits=2,value_bits=4", "quest:pages=4", kSpec}) {
      const std::vector<Outcome> alone = run(spec, protocol);
      for (int again = 0; again < 2; ++again) {
        const std::vector<Outcome> shared =
            beside.run(little_sample(), spec, protocol, Monitor::silent());
        for (size_t i = 0; i < alone.size(); ++i)
          for (const auto held : {&Outcome::prompt_bytes, &Outcome::end_bytes}) {
            const CacheBytes &one = alone[i].*held, &other = shared[i].*held;
            for (const auto part : {&CacheBytes::sealed, &CacheBytes::open, &CacheBytes::keys,
                                    &CacheBytes::lanes, &CacheBytes::summaries})
              EXPECT_EQ(one.*part, other.*part)
                  << spec << ' ' << protocol_name(protocol) << ' ' << i << ' ' << again;
          }
      }
    }
  EXPECT_GT(sharing.prefixes()->stats().rows_shared, 0);
}

// Of different lengths, with further turns and without; some are over before others.
std::vector<Sample> several_samples() {
  std::vector<Sample> samples(4, little_sample());
  samples[1].context += samples[1].context;
  samples[1].max_new_tokens = 11;
  samples[2].turns = true;
  samples[2].questions.push_back({"What of line 11?", " It says", {"nothing"}, {}});
  samples[3].max_new_tokens = 1;
  return samples;
}

void expect_same(const Outcome& one, const Outcome& other) {
  EXPECT_EQ(one.question, other.question);
  EXPECT_EQ(one.output, other.output);
  EXPECT_EQ(one.score, other.score);
  EXPECT_EQ(one.prompt_tokens, other.prompt_tokens);
  EXPECT_EQ(one.generated_tokens, other.generated_tokens);
  EXPECT_EQ(one.prompt_bytes.total(), other.prompt_bytes.total());
  EXPECT_EQ(one.end_bytes.total(), other.end_bytes.total());
  EXPECT_EQ(one.divergence, other.divergence);
  EXPECT_EQ(one.agreement, other.agreement);
  EXPECT_EQ(one.mass_kept, other.mass_kept);
}

TEST_F(SampleRunnerTest, AnswersTheSameInBatches) {
  const std::vector<Sample> samples = several_samples();
  std::vector<const Sample*> asked;
  for (const Sample& sample : samples) asked.push_back(&sample);
  for (const Protocol protocol : {Protocol::aware, Protocol::agnostic}) {
    std::vector<FullAnswers> alone(4), batched(4);
    for (const std::string spec : {"full", kSpec, "kivi", "h2o:budget=40,reduce_every=2"}) {
      std::vector<std::vector<Outcome>> one;
      std::vector<Watch> watches;
      for (size_t i = 0; i < samples.size(); ++i) {
        Watch watch{.record = &alone[i]};
        watches.push_back({.record = &batched[i]});
        if (spec != "full") {
          watch = {.compare = &alone[i], .mass = true};
          watches.back() = {.compare = &batched[i], .mass = true};
        }
        one.push_back(runner.run(samples[i], spec, protocol, Monitor::silent(), watch));
      }
      for (const int together : {2, 3, 100}) {
        if (spec == "full") batched.assign(4, {});
        const auto many = runner.run(asked, spec, protocol, Monitor::silent(), watches, together);
        ASSERT_EQ(many.size(), one.size());
        for (size_t i = 0; i < one.size(); ++i) {
          ASSERT_EQ(many[i].size(), one[i].size());
          for (size_t question = 0; question < one[i].size(); ++question)
            expect_same(one[i][question], many[i][question]);
        }
      }
    }
    for (size_t i = 0; i < alone.size(); ++i)
      for (size_t question = 0; question < alone[i].answers.size(); ++question) {
        EXPECT_EQ(alone[i].answers[question].tokens, batched[i].answers[question].tokens);
        EXPECT_EQ(alone[i].answers[question].logits, batched[i].answers[question].logits);
      }
  }
}

TEST_F(SampleRunnerTest, AnswersFewerTogetherWhereMemoryIsShort) {
  const std::vector<Sample> samples = several_samples();
  const Sample* const asked[] = {&samples[0], &samples[1], &samples[2]};
  size_t most = 0;
  std::vector<std::vector<Outcome>> alone;
  for (const Sample* sample : asked) {
    alone.push_back(runner.run(*sample, "full", Protocol::aware, Monitor::silent()));
    most = std::max(most, engine.pool().peak_bytes());
  }
  Engine small(test::loaded_tiny_model("llama"), test::tiny_options(1, 512, most + most / 4));
  const auto together = SampleRunner(small, std::nullopt)
                            .run(asked, "full", Protocol::aware, Monitor::silent(), {}, 100);
  EXPECT_EQ(together.size(), alone.size());
  for (size_t i = 0; i < alone.size(); ++i)
    for (size_t question = 0; question < alone[i].size(); ++question)
      expect_same(alone[i][question], together[i][question]);
}

TEST_F(SampleRunnerTest, CountsTheSessionsThatALimitHolds) {
  const auto one = [&](const char* spec) {
    return measure_throughput(engine, spec, 200, 1, Monitor::silent());
  };
  for (const char* const spec : {"full", kSpec}) {
    const Throughput none = one(spec);
    EXPECT_EQ(none.sessions, 0);
    EXPECT_EQ(none.together, 0);
    EXPECT_GT(none.alone, 0);
    const Throughput three =
        measure_throughput(engine, spec, 200, 3 * none.session_bytes + 1, Monitor::silent());
    EXPECT_EQ(three.sessions, 3);
    EXPECT_GT(three.together, 0);
  }
  EXPECT_LT(one(kSpec).session_bytes, one("full").session_bytes);
  const Throughput many =
      measure_throughput(engine, kSpec, 64, uint64_t{1} << 40, Monitor::silent());
  EXPECT_EQ(many.sessions, Throughput::kSessions);
}

}  // namespace
}  // namespace pith

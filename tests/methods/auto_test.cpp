// `auto` from the file to the session: damaged profiles, the guard, warnings, and the run that
// measures.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <gtest/gtest.h>
#include <numeric>

#include "base/error.h"
#include "base/random.h"
#include "calibrate/calibration_file.h"
#include "calibrate/profile.h"
#include "policy/auto_choice.h"
#include "policy/guard.h"
#include "runtime/scheduler.h"
#include "support/refusals.h"
#include "support/same_bits.h"
#include "support/spec_sentences.h"
#include "support/tiny_sessions.h"
#include "support/toy_prompt.h"

namespace pith::test {
namespace {

ProfilePoint auto_point(const KvShape& shape, const std::string& spec, double score, double bytes,
                        float mass, size_t lengths = 2) {
  ProfilePoint point{spec, {}, false};
  for (size_t l = 0; l < lengths; ++l) {
    ProfileCell& cell = point.cells.emplace_back();
    cell.score = score;
    cell.bytes = cell.most_bytes = bytes;
    cell.first_seconds = 0.001;
    cell.mass = mass;
    cell.least_mass.assign(static_cast<size_t>(shape.layers * (shape.heads + 1)), mass);
  }
  return point;
}

// The full cache, and one spec that kept `mass` of the attention.
Profile auto_profile(const KvShape& shape, const std::string& spec, float mass) {
  Profile profile;
  profile.protocol = "query-aware";
  profile.lengths = {100, 1000};
  profile.samples = {2, 2};
  profile.points = {auto_point(shape, "full", 1, 1000, 1),
                    auto_point(shape, spec, 0.99, 100, mass)};
  return profile;
}

std::string write_profile(const Profile& profile, const KvShape& shape, std::string_view digest,
                          const std::string& name = "profile.gguf") {
  const std::string path = testing::TempDir() + name;
  std::filesystem::remove(path);
  add_calibration(
      path, digest,
      {.kind = "profile", .made_by = "a test", .seed = 1, .notes = profile_notes(profile)},
      profile_tensors(profile, shape));
  return path;
}

std::shared_ptr<const Policy> guarded(const std::string& spec, float mass, Wish wish = {},
                                      int tokens = 600) {
  wish.quality = 0.9;
  const KvShape shape = toy_shape();
  return decide({wish, "a file", auto_profile(shape, spec, mass), shape, ""}, tokens);
}

// Queries and keys by which all attention goes to a few rows, or to all alike.
void look_at(Cube q, Cube k, int first, int last) {
  for (int64_t i = 0; i < q.dim[0]; ++i)
    for (int64_t h = 0; h < q.dim[1]; ++h) {
      std::ranges::fill(q[i].row(h), 0.0f);
      q[i].row(h)[5] = 40;
    }
  for (int64_t h = 0; h < k.dim[0]; ++h)
    for (int64_t r = 0; r < k.dim[1]; ++r) {
      std::ranges::fill(k[h].row(r), 0.0f);
      k[h].row(r)[5] = r >= first && r < last ? 8.0f : 0.0f;
    }
}

TEST(AutoGuard, LeavesAPromptAloneThatCompresses) {
  ToyPrompt prompt(guarded("snapkv:budget=60", 0.9f), toy_shape(), 1, 1);
  prompt.plant = [](int, Cube q, Cube k, Cube) { look_at(q, k, 100, 110); };
  prompt.prefill(600);
  EXPECT_EQ(prompt.store().rows(), 8 * 60);
  const CompressionStats& stats = prompt.compressor().stats();
  EXPECT_EQ(stats.rows_guarded, 0);
  EXPECT_EQ(stats.heads_short, 0);
  EXPECT_GT(stats.mass_kept, 0.99 * stats.mass_seen);
}

TEST(AutoGuard, KeepsMoreOfAPromptThatDoesNotCompress) {
  // adakv shares out what a layer has, dynamickv takes rows back from layers below.
  for (const std::string spec : {"snapkv:budget=60", "adakv:budget=60", "dynamickv:budget=60"}) {
    ToyPrompt prompt(guarded(spec, 0.9f), toy_shape(), 2, 1);
    prompt.plant = [](int, Cube q, Cube k, Cube) { look_at(q, k, 0, 600); };
    prompt.prefill(600);
    const CompressionStats& stats = prompt.compressor().stats();
    EXPECT_GT(stats.rows_guarded, 0) << spec;
    EXPECT_EQ(stats.heads_short, 0) << spec;
    EXPECT_GT(stats.mass_kept, 0.88 * stats.mass_seen) << spec;
    // All rows get the same from queries that see all of them, so 88 % are needed, about.
    for (int l = 0; l < 4; ++l)
      for (int h = 0; h < 2; ++h) EXPECT_NEAR(prompt.kept(l, h).size(), 0.88 * 600, 20) << spec;
  }
}

TEST(AutoGuard, StaysWithinMemoryAndCountsTheHeadsThatAreShort) {
  Wish wish;
  wish.memory = 200'000;
  ToyPrompt prompt(guarded("snapkv:budget=60", 0.9f, wish), toy_shape(), 1, 1);
  prompt.plant = [](int, Cube q, Cube k, Cube) { look_at(q, k, 0, 600); };
  prompt.prefill(600);
  const CompressionStats& stats = prompt.compressor().stats();
  EXPECT_GT(stats.rows_guarded, 0);
  EXPECT_GT(stats.heads_short, 0);
  EXPECT_LE(prompt.store().bytes().total(), wish.memory);
  EXPECT_GT(prompt.store().bytes().total(), wish.memory / 2);
}

TEST(AutoGuard, LetsAllTokensTravelIfTooMuchAttentionWouldStayBehind) {
  const std::string spec = "fastkv:budget=60,tsp_layer=1,tsp_rate=0.2";
  for (const int last : {110, 600}) {
    ToyPrompt prompt(guarded(spec, 0.9f), toy_shape(), 1, 1);
    prompt.plant = [&](int, Cube q, Cube k, Cube) { look_at(q, k, 100, last); };
    prompt.prefill(600);
    EXPECT_EQ(prompt.rows_into(2) == 600, last == 600);
    EXPECT_EQ(prompt.compressor().stats().tokens_guarded > 0, last == 600);
  }
}

TEST(AutoGuard, CountsRowsForAShareAsSummedByHand) {
  const std::vector<float> scores = {9, 1, 5, 3, 7, 2}, mass = {1, 4, 2, 2, 1, 10};
  const Protect last{0, 1, 0};
  EXPECT_EQ(rows_for_share(scores, mass, 0.5, last), 1);   // 10 of 20
  EXPECT_EQ(rows_for_share(scores, mass, 0.55, last), 2);  // with the 9: 11
  EXPECT_EQ(rows_for_share(scores, mass, 0.7, last), 4);   // 7: 12, 5: 14
  EXPECT_EQ(rows_for_share(scores, mass, 1, last), 6);
  EXPECT_EQ(rows_for_share(scores, mass, 0, last), 1);
  EXPECT_DOUBLE_EQ(share_of_rows(scores, mass, 4, last), 0.7);
  EXPECT_DOUBLE_EQ(share_of_rows(scores, mass, 6, last), 1);
}

TEST(AutoGuard, MeasuresTheAttentionThatStayed) {
  Engine engine(loaded_tiny_model("llama"), tiny_options(1));
  const std::vector<int32_t> tokens = tiny_tokens(tiny_model("llama"), 300);
  const KvShape& own = engine.model().config().shape;
  for (const std::string spec : {"full", "snapkv:budget=50", "dynamickv:budget=60"}) {
    const auto session = open_tiny(engine, spec);
    KeptMass mass;
    session->observer = &mass;
    engine.prefill(*session, tokens);
    ASSERT_EQ(mass.shares().size(), static_cast<size_t>(own.layers * (own.heads + 1)));
    const auto [least, most] = std::ranges::minmax(mass.shares());
    EXPECT_LE(most, 1.0f);
    EXPECT_EQ(spec == "full", least == 1.0f) << spec;
    // Nothing more is asked of the same prompt by floors that it met.
    Profile profile = auto_profile(own, spec, 1);
    for (ProfileCell& cell : profile.points[1].cells) cell.least_mass = mass.shares();
    Wish wish;
    wish.quality = 0.9;
    const auto policy = decide({wish, "a file", profile, own, ""}, 300);
    const auto again = engine.open(policy);
    engine.prefill(*again, tokens);
    EXPECT_EQ(again->store->rows(), session->store->rows()) << spec;
    EXPECT_EQ(again->compressor.stats().rows_guarded, 0) << spec;
  }
}

TEST(AutoSession, WithEverythingKeptIsTheFullCacheBitForBit) {
  Engine engine(loaded_tiny_model("llama"), tiny_options(2));
  const ModelConfig& config = engine.model().config();
  const std::string path = write_profile(auto_profile(config.shape, "snapkv:budget=50", 0.5f),
                                         config.shape, config.digest);
  const std::vector<int32_t> tokens = tiny_tokens(tiny_model("llama"), 300);
  const auto full = engine.open("full");
  const std::vector<float> expected = answer(engine, *full, tokens, 5);
  const auto chosen = engine.open("auto:quality=1,calibration=" + path);
  EXPECT_EQ(answer(engine, *chosen, tokens, 5), expected);
  EXPECT_EQ(chosen->policy->spec, "full");
  EXPECT_TRUE(chosen->warnings.empty());
  // Guarded by floors of 1, a budget keeps everything, too.
  const std::string all = write_profile(auto_profile(config.shape, "snapkv:budget=50", 1.0f),
                                        config.shape, config.digest, "all.gguf");
  const auto held = engine.open("auto:quality=0.9,calibration=" + all);
  engine.prefill(*held, tokens);
  EXPECT_EQ(held->policy->spec, "snapkv:budget=50");
  EXPECT_GT(held->compressor.stats().rows_guarded, 0);
}

class Warnings final : public Monitor {
 public:
  void warn(std::string_view sentence) override { sentences.emplace_back(sentence); }
  std::vector<std::string> sentences;
};

TEST(AutoSession, IsDecidedByItsFirstPromptAndWarnsOfWhatIsNotAsAsked) {
  Engine engine(loaded_tiny_model("llama"), tiny_options(1));
  const ModelConfig& config = engine.model().config();
  const std::string path = write_profile(auto_profile(config.shape, "snapkv:budget=50", 0.5f),
                                         config.shape, config.digest);
  const std::string file = ",calibration=" + path;
  const std::vector<int32_t> tokens = tiny_tokens(tiny_model("llama"), 400);
  const auto session = engine.open("auto:memory=45KiB" + file);
  EXPECT_EQ(session->policy->spec, "auto:memory=45KiB" + file);
  Warnings heard;
  engine.prefill(*session, tokens, heard);
  EXPECT_EQ(session->policy->spec, "snapkv:budget=50");
  EXPECT_EQ(heard.sentences, session->warnings);
  // The profile promised 100 bytes a token; the session holds whole pages.
  const size_t held = session->store->bytes().total();
  EXPECT_EQ(session->warnings.empty(), held <= 45 << 10);
  // A conversation goes on with what was chosen; it holds more with every turn.
  for (int turn = 0; turn < 6; ++turn) engine.prefill(*session, tokens);
  EXPECT_EQ(session->policy->spec, "snapkv:budget=50");
  ASSERT_FALSE(session->warnings.empty());
  EXPECT_NE(session->warnings.back().find("45 KiB were asked for"), std::string::npos)
      << session->warnings.back();
  // A prompt that was given up decides nothing.
  const auto again = engine.open("auto:quality=0.9" + file);
  again->feed(std::span(tokens).first(20));
  EXPECT_EQ(again->policy->spec, "full");
  EXPECT_EQ(again->warnings.size(), 1u);
  again->abandon();
  again->feed(tokens);
  EXPECT_EQ(again->policy->spec, "snapkv:budget=50");
  again->abandon();
  // Nor does a wish that nothing fulfils open or end anything.
  const auto never = engine.open("auto:ttft=0.01ms" + file);
  const std::string told = told_by(Errc::bad_request, [&] { engine.prefill(*never, tokens); });
  EXPECT_NE(told.find("1e-05 s to the first token"), std::string::npos) << told;
  EXPECT_EQ(never->tokens.size(), 0u);
}

TEST(AutoSession, IsDecidedPerRequestOfAScheduler) {
  Engine engine(loaded_tiny_model("llama"), tiny_options(1));
  const ModelConfig& config = engine.model().config();
  const std::string path = write_profile(auto_profile(config.shape, "snapkv:budget=50", 0.5f),
                                         config.shape, config.digest);
  Scheduler scheduler(engine);
  for (const int count : {20, 400})
    scheduler.submit({.prompt = tiny_tokens(tiny_model("llama"), count),
                      .max_tokens = 3,
                      .spec = "auto:quality=0.9,calibration=" + path});
  while (scheduler.step()) {
  }
  std::vector<Answer> answers = scheduler.take_answers();
  ASSERT_EQ(answers.size(), 2u);
  std::ranges::sort(answers, {}, &Answer::id);
  EXPECT_EQ(answers[0].warnings.size(), 1u);
  EXPECT_TRUE(answers[1].warnings.empty());
}

TEST(AutoSpec, IsReadAndRefusedInASentence) {
  const KvShape shape = toy_shape();
  const std::string path = write_profile(auto_profile(shape, "snapkv:budget=50", 0.5f), shape, "m");
  const std::string file = ",calibration=" + path;
  EXPECT_EQ(answer("auto:ttft=2s,memory=512MiB" + file, shape),
            "ok: auto:memory=512MiB,ttft=2s" + file);
  EXPECT_EQ(answer("auto:calibration=" + path, shape),
            "auto: needs something to aim at: memory=512MiB, quality=0.98 or ttft=2s");
  EXPECT_EQ(answer("auto:quality=0.98", shape),
            "auto: 'calibration' is missing; `pith calibrate profile` makes the file");
  EXPECT_EQ(answer("auto:memory=0.5" + file, shape),
            "auto: 'memory' must be bytes, such as 512MiB");
  EXPECT_EQ(answer("auto:ttft=soon" + file, shape),
            "auto: 'ttft' must be a time such as 2s or 500ms, not 'soon'");
  EXPECT_EQ(answer("auto:quality=0.9,budget=0.1" + file, shape),
            "auto: 'budget' is what it chooses; leave it out");
  EXPECT_EQ(answer("auto:quality=0.9" + file + "+quest", shape),
            "'auto' chooses a whole spec and stands alone");
  EXPECT_EQ(answer("auto:qualty=0.9" + file, shape),
            "auto: needs something to aim at: memory=512MiB, quality=0.98 or ttft=2s");
  EXPECT_EQ(answer("auto:quality=1,qualty=0.9" + file, shape),
            "auto: no option 'qualty'; did you mean 'quality'?");
}

TEST(AutoProfile, IsReadBackAsItWasWrittenAndRefusedWhenDamaged) {
  const KvShape shape = toy_shape();
  const Profile profile = auto_profile(shape, "snapkv:budget=50", 0.5f);
  const std::string path = write_profile(profile, shape, "m");
  const Profile read = read_profile(*Calibration::load(path, "m"), shape);
  EXPECT_EQ(read.points[1].spec, "snapkv:budget=50");
  EXPECT_EQ(read.lengths, profile.lengths);
  EXPECT_EQ(read.points[1].cells[1].least_mass, profile.points[1].cells[1].least_mass);
  EXPECT_EQ(read.protocol, "query-aware");
  told_by(Errc::bad_file, [&] { (void)Calibration::load(path, "another"); });

  const auto spoiled = [&](const std::function<void(std::vector<CalibrationTensor>&,
                                                    std::vector<CalibrationNote>&)>& spoil) {
    std::vector<CalibrationTensor> tensors = profile_tensors(profile, shape);
    std::vector<CalibrationNote> notes = profile_notes(profile);
    spoil(tensors, notes);
    const std::string bad = testing::TempDir() + "spoiled.gguf";
    std::filesystem::remove(bad);
    add_calibration(bad, "m", {.kind = "profile", .made_by = "a test", .seed = 1, .notes = notes},
                    tensors);
    const std::string told =
        told_by(Errc::bad_file, [&] { (void)read_profile(*Calibration::load(bad), shape); });
    EXPECT_NE(told.find(bad), std::string::npos) << told;
    return told;
  };
  using Tensors = std::vector<CalibrationTensor>;
  using Notes = std::vector<CalibrationNote>;
  for (size_t t = 0; t + 1 < profile_tensors(profile, shape).size(); ++t) {  // the front is a note
    spoiled(
        [&](Tensors& tensors, Notes&) { tensors.erase(tensors.begin() + static_cast<long>(t)); });
    for (const float value : {NAN, -1.0f, 2e12f, INFINITY})
      spoiled([&](Tensors& tensors, Notes&) { tensors[t].values.back() = value; });
    if (t > 0)
      spoiled([&](Tensors& tensors, Notes&) {
        tensors[t].dims = {1};
        tensors[t].values.resize(1);
      });
  }
  spoiled([](Tensors&, Notes& notes) { notes[0].texts.clear(); });
  spoiled([](Tensors&, Notes& notes) { notes[0].texts.push_back("knorm:budget=0.1"); });
  const std::string told =
      spoiled([](Tensors&, Notes& notes) { notes[0].texts[1] = "auto:quality=1"; });
  EXPECT_NE(told.find("run `pith calibrate profile` again"), std::string::npos) << told;
  // A file that ends early, wherever it does.
  std::ifstream in(path, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(in)), {});
  for (size_t length = 0; length < bytes.size(); length += 97) {
    const std::string cut = testing::TempDir() + "cut.gguf";
    std::ofstream(cut, std::ios::binary) << bytes.substr(0, length);
    told_by(Errc::bad_file, [&] { (void)read_profile(*Calibration::load(cut), shape); });
  }
}

TEST(AutoProfile, NamesItsFileWhenItsSpecCannotBeUsed) {
  const KvShape shape = toy_shape();
  Wish wish;
  wish.quality = 0.9;
  const std::string told = told_by(Errc::bad_option, [&] {
    (void)decide({wish, "p.gguf", auto_profile(shape, "snapkw:budget=1", 0.5f), shape, ""}, 500);
  });
  EXPECT_TRUE(told.starts_with("p.gguf: the profile's spec 'snapkw:budget=1' cannot be used: "))
      << told;
}

// What a spec does with a sample, from nothing but their numbers.
ProfileSample measured_toy(const ProfileJob& job, const KvShape& shape) {
  Random random(static_cast<uint64_t>(1 + job.spec + 100 * (job.sample + 10 * job.task) +
                                      100'000 * job.length));
  ProfileSample sample;
  sample.score = job.spec == 0 ? 0.8 : 0.8 * static_cast<double>(random.below(3)) / 2;
  sample.prompt_tokens = 100.0 * (job.length + 1) + job.sample;
  sample.bytes = sample.prompt_tokens * (10.0 - job.spec);
  sample.first_seconds = 0.5;
  sample.token_seconds = 0.25;
  sample.mass = 0.5;
  for (int i = 0; i < shape.layers * (shape.heads + 1); ++i)
    sample.kept.push_back(random.uniform(0.0f, 1.0f));
  return sample;
}

TEST(AutoProfileRun, GivesTheSameFileAfterAnyNumberOfKills) {
  const KvShape shape = toy_shape();
  ProfilePlan plan;
  plan.specs = {"full", "snapkv:budget=0.2", "snapkv:budget=0.1"};
  plan.tasks = {"a", "b"};
  plan.lengths = {100, 200};
  plan.samples = 2;
  const auto bytes_of = [&](const Profile& profile) {
    const std::string path = write_profile(profile, shape, "m", "run.gguf");
    std::ifstream in(path, std::ios::binary);
    return std::string((std::istreambuf_iterator<char>(in)), {});
  };
  const auto measure = [&](const ProfileJob& job) { return measured_toy(job, shape); };
  const std::string whole = bytes_of(measure_profile(plan, shape, "", measure));
  for (const int step : {1, 5, 23}) {
    const std::string part = testing::TempDir() + "run.part";
    std::filesystem::remove(part);
    int runs = 0, measurements = 0;
    std::string found;
    while (found.empty()) {
      ASSERT_LT(++runs, 60);
      int left = step;
      try {
        found = bytes_of(measure_profile(plan, shape, part, [&](const ProfileJob& job) {
          if (left-- == 0) throw Error(Errc::interrupted, "killed");
          ++measurements;
          return measure(job);
        }));
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), Errc::interrupted);
      }
    }
    EXPECT_EQ(found, whole) << step;
    EXPECT_EQ(measurements, 24) << "nothing is measured twice";
  }
}

TEST(AutoProfileRun, AddsUpAsByHandAndRefusesAModelThatAnswersNothing) {
  const KvShape shape = toy_shape();
  ProfilePlan plan;
  plan.specs = {"full", "knorm:budget=0.5"};
  plan.tasks = {"a"};
  plan.lengths = {100};
  plan.samples = 4;
  const auto measure = [&](const ProfileJob& job) {
    ProfileSample sample;
    // 0.5, 1, 1, 1 and 0.5, 1, 1, 0 of the other.
    sample.score = job.sample == 0 ? 0.5 : job.spec == 1 && job.sample == 3 ? 0 : 1;
    sample.prompt_tokens = 90;
    sample.bytes = job.spec == 0 ? 900 : 90.0 * (job.sample + 1);
    sample.first_seconds = job.timed ? 3 : 1000;
    sample.token_seconds = job.timed ? 0.5 : 1000;
    sample.mass = 0.25 * job.sample;
    sample.kept.assign(static_cast<size_t>(shape.layers * (shape.heads + 1)),
                       1 - 0.25f * static_cast<float>(job.sample));
    return sample;
  };
  const Profile profile = measure_profile(plan, shape, "", measure);
  const ProfileCell& cell = profile.points[1].cells[0];
  EXPECT_FLOAT_EQ(cell.score, 2.5 / 3.5);
  // Differences 0, 0, 0, -1: mean -1/4, variance 3/16, of a mean score of 7/8.
  EXPECT_NEAR(cell.score_error, std::sqrt(3.0 / 16 / 3) / (7.0 / 8), 1e-6);
  EXPECT_FLOAT_EQ(cell.bytes, 2.5);
  EXPECT_FLOAT_EQ(cell.most_bytes, 4);
  EXPECT_FLOAT_EQ(cell.first_seconds, 3);
  EXPECT_FLOAT_EQ(cell.token_seconds, 0.5);
  EXPECT_FLOAT_EQ(cell.mass, 0.375);
  EXPECT_EQ(cell.least_mass.back(), 0.25f);
  EXPECT_EQ(profile.points[0].cells[0].score, 1);
  told_by(Errc::bad_request, [&] {
    (void)measure_profile(plan, shape, "", [&](const ProfileJob& job) {
      ProfileSample sample = measure(job);
      sample.score = 0;
      return sample;
    });
  });
}

TEST(AutoProfileRun, HasCandidatesThatAreSpecs) {
  for (const std::string& spec : profile_candidates())
    EXPECT_TRUE(answer(spec).starts_with("ok: ")) << answer(spec);
}

}  // namespace
}  // namespace pith::test

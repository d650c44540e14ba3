// Methods on the constructed recall model (docs/recall_model.md), through the whole engine: a
// method answers what it kept, so its claims can be counted.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <gtest/gtest.h>
#include <map>
#include <string>

#include "convert/synthesize.h"
#include "policy/calibration.h"
#include "policy/registry.h"
#include "runtime/engine.h"

namespace pith {
namespace {

Engine& engine() {
  static const std::vector<std::byte> bytes = recall_model_bytes();
  static Engine one(Model::load(GgufFile::parse(bytes, "recall")),
                    {.threads = 2, .cache_bytes = size_t{1} << 30});
  return one;
}

const RecallPrompt& prompt_of(int tokens, int needles) {
  static std::map<std::pair<int, int>, RecallPrompt> prompts;
  auto& prompt = prompts[{tokens, needles}];
  if (prompt.tokens.empty()) prompt = make_recall_prompt(tokens, needles, 3);
  return prompt;
}

struct Outcome {
  int answered = 0, rows_kept = 0;  // of the needles: asked again on forks; rows in either head
  size_t bytes = 0;
  int64_t rows = 0;
};

Outcome run(const std::string& spec, int tokens, int needles) {
  const RecallPrompt& prompt = prompt_of(tokens, needles);
  const auto session = engine().open(spec, {.temperature = 0});
  engine().prefill(*session, prompt.tokens);
  Outcome outcome;
  outcome.bytes = session->store->bytes().total();
  outcome.rows = session->store->rows();
  for (const RecallNeedle& needle : prompt.needles) {
    bool kept = false;
    for (const auto& [layer, head] : recall_retrieval_heads())
      kept |=
          std::ranges::binary_search(session->store->at(layer, head).positions(), needle.position);
    outcome.rows_kept += kept;
    const auto fork = session->fork();
    Session* const one = fork.get();
    engine().decode({&one, 1}, {&needle.key, 1});
    const auto best = std::ranges::max_element(fork->logits) - fork->logits.begin();
    outcome.answered += best == needle.value;
  }
  return outcome;
}

// The figures of the papers' claims take minutes: they are counted where PITH_SLOW_TESTS is set,
// and a short prompt with few needles stands in for them elsewhere.
const bool kSlow = std::getenv("PITH_SLOW_TESTS") != nullptr;
const int kTokens = kSlow ? 16384 : 2048, kNeedles = kSlow ? 20 : 4;
#define ONLY_SLOW() \
  if (!kSlow) GTEST_SKIP() << "takes minutes; set PITH_SLOW_TESTS=1"

TEST(Recall, ScorersThatLookFromTheEndKeepTheNeedlesAtFivePercent) {
  for (const char* spec :
       {"snapkv:budget=0.05", "criticalkv:budget=0.05", "adakv:budget=0.05",
        "adakv:budget=0.05+snapkv:window=32", "pyramidkv:budget=0.05+snapkv:window=32",
        "fastkv:budget=0.05,window=32,tsp_layer=1", "adakv:budget=0.05+criticalkv",
        "pyramidkv:budget=0.05+criticalkv", "dynamickv:budget=0.05+snapkv:window=32",
        "snapkv:budget=0.05+pyramidkv+chunkkv:chunk=4"}) {
    const Outcome o = run(spec, kTokens, kNeedles);
    EXPECT_EQ(o.rows_kept, kNeedles) << spec;
    EXPECT_EQ(o.answered, kNeedles) << spec;
  }
}

// One query sees one question: with one needle, TOVA and LazyLLM look from the end.
TEST(Recall, ScorersThatSeeOneQueryKeepTheNeedleItAsksFor) {
  ONLY_SLOW();
  for (const char* spec : {"tova:budget=0.05", "lazyllm:steps=1:0.3,recent=1+tova:budget=0.05"}) {
    const Outcome o = run(spec, kTokens, 1);
    EXPECT_EQ(o.rows_kept, 1) << spec;
    EXPECT_EQ(o.answered, 1) << spec;
  }
}

TEST(Recall, StreamingAloneForgetsWhatIsFarAway) {
  ONLY_SLOW();
  EXPECT_LT(run("streaming_llm:budget=0.05", kTokens, kNeedles).answered, 5);
}

TEST(Recall, ScorersThatDoNotAskAreReportedAsTheyAre) {
  ONLY_SLOW();
  for (const char* spec :
       {"h2o:budget=0.05", "observed:budget=0.05", "knorm:budget=0.05", "keydiff:budget=0.05",
        "expected:budget=0.05", "value_key_ratio:budget=0.05"}) {
    const Outcome o = run(spec, kTokens, kNeedles);
    RecordProperty(std::string("answered by ") + spec, o.answered);
    std::printf("[ reported ] %-28s %2d of %d rows kept, %2d answered\n", spec, o.rows_kept,
                kNeedles, o.answered);
    EXPECT_LE(o.answered, kNeedles);
  }
}

TEST(Recall, CoverageAnswersHoweverManyNeedlesThereAre) {
  ONLY_SLOW();
  std::map<int, int64_t> rows;
  for (const int needles : {1, 20, 200}) {
    const Outcome o = run("coverage:mass=0.99", kTokens, needles);
    EXPECT_EQ(o.answered, needles);
    rows[needles] = o.rows / 8;
  }
  // The smallest fixed budget that answers 20, by the same vote, fails at 200.
  const std::string vote = "snapkv:window=256,width=1,pool=none,budget=";
  int least = 256, most = 2048;  // bisection: more rows never lose an answer
  while (most - least > 16) {
    const int middle = (least + most) / 2;
    (run(vote + std::to_string(middle), kTokens, 20).answered == 20 ? most : least) = middle;
  }
  const int answered = run(vote + std::to_string(most), kTokens, 200).answered;
  EXPECT_LT(answered, 200);
  std::printf(
      "[ reported ] coverage keeps %ld, %ld and %ld rows a head for 1, 20 and 200 needles; "
      "a fixed budget of %d answers 20, and %d of 200\n",
      static_cast<long>(rows[1]), static_cast<long>(rows[20]), static_cast<long>(rows[200]), most,
      answered);
}

TEST(Recall, RazorAnswersEverythingFromAThirdOfTheBytes) {
  const KvShape& shape = engine().model().config().shape;
  CalibrationTensor induction{
      "heads.induction",
      {shape.query_heads, shape.layers},
      std::vector<float>(static_cast<size_t>(shape.query_heads * shape.layers))};
  CalibrationTensor echo = induction;
  echo.name = "heads.echo";
  for (const auto& [layer, head] : recall_retrieval_heads())
    induction.values[static_cast<size_t>(layer * shape.query_heads + head * shape.group())] = 1;
  const auto folder = std::filesystem::path(::testing::TempDir()) / "pith_recall_test";
  std::filesystem::create_directories(folder);
  const std::string file = (folder / "heads.gguf").string();
  save_calibration(file, engine().model().config().digest, "a test",
                   std::vector<CalibrationTensor>{induction, echo});
  const Outcome full = run("full", kTokens, kNeedles);
  EXPECT_EQ(full.answered, kNeedles);
  const Outcome razor =
      run("razor:induction=0.25,local=100,factor=10,heads=" + file, kTokens, kNeedles);
  EXPECT_EQ(razor.answered, kNeedles);
  EXPECT_LT(static_cast<double>(razor.bytes), 0.35 * static_cast<double>(full.bytes));
}

// Codes of words are +-1 in every channel, so the bounds of a page of 16 rows are nearly alike for
// all pages: this model is the worst case of an index of bounds. One that reads by mass notices.
TEST(Recall, ReadersByMassAnswerWhereBoundsSayLittle) {
  EXPECT_EQ(run("hierarchy:mass=0.99,dense_layers=1", kTokens, kNeedles).answered, kNeedles);
  for (const char* spec : {"quest:pages=16,dense_layers=1", "hierarchy:pages=16,dense_layers=1"})
    std::printf("[ reported ] %-34s %2d of %d answered\n", spec,
                run(spec, kTokens, kNeedles).answered, kNeedles);
}

}  // namespace
}  // namespace pith

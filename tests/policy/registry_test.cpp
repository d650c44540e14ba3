#include "policy/registry.h"

#include <filesystem>

#include "gtest/gtest.h"
#include "policy/calibration.h"
#include "support/spec_sentences.h"

namespace pith::test {
namespace {

// Methods that exist here alone: one that needs a file, one with options of every kind, and ones
// that fill the roles no method of the house fills yet.
const RegisterMethod needs_file{{
    .name = "test_file",
    .summary = "needs a calibration file",
    .source = "-",
    .build =
        [](Options& o, const KvShape& shape, Policy& p) {
          const Calibration& file = o.calibration("heads", "which heads", "pith calibrate heads");
          const double share = o.ratio("share", 0.15, "share of the heads");
          (void)share;
          p.protect.sink = static_cast<int>(file.tensor("test.sinks", 2)[0]);
          (void)shape;
        },
}};

const RegisterMethod options_of_every_kind{{
    .name = "test_options",
    .summary = "reads options of every kind",
    .source = "-",
    .build =
        [](Options& o, const KvShape& /*shape*/, Policy& /*p*/) {
          o.count("rounds", 3, "how often", 1, 9);
          o.number("heat", 0.5, "how hot", -2, 2);
          o.flag("loud", false, "whether");
          o.word("colour", "red", "red|green", "which");
          o.amount("portion", {.rows = 7}, "how much");
          o.file("adapter", "where");
          o.count_or("auto", "layer", 4, "where else", 0, 31);
        },
}};

class NoBudget final : public Budget {
 public:
  void assign(const ScoreBoard& /*board*/, BudgetTable& /*table*/) const override {}
};
const RegisterMethod budget_a{{
    .name = "test_budget_a",
    .summary = "brings a budget",
    .source = "-",
    .build = [](Options& /*options*/, const KvShape& /*shape*/,
                Policy& p) { p.budget = std::make_unique<NoBudget>(); },
}};
const RegisterMethod budget_b{{
    .name = "test_budget_b",
    .summary = "brings a budget too",
    .source = "-",
    .build = [](Options& /*options*/, const KvShape& /*shape*/,
                Policy& p) { p.budget = std::make_unique<NoBudget>(); },
}};

TEST(Registry, AnswersWithTheSentencesOfTheHouse) {
  EXPECT_EQ(answer("fastkv:tsp_rat=0.2,budget=0.1"),
            "fastkv: no option 'tsp_rat'; did you mean 'tsp_rate'?");
  EXPECT_EQ(answer("snapkv:budget=0.1+knorm"), "both 'snapkv' and 'knorm' bring a scorer");
  EXPECT_EQ(answer("snapkv"), "snapkv: needs budget=...");
  EXPECT_EQ(answer("test_file:share=0.2"),
            "test_file: 'heads' is missing; `pith calibrate heads` makes the file");
  EXPECT_EQ(answer("fastkv:tsp_rate=7"), "fastkv: 'tsp_rate' must be between 0 and 1");
}

TEST(Registry, SuggestsAMethodThatIsSpelledAlike) {
  EXPECT_EQ(answer("snapvk:budget=0.1"), "no method 'snapvk'; did you mean 'snapkv'?");
  EXPECT_EQ(answer("fast_kv"), "no method 'fast_kv'; did you mean 'fastkv'?");
  EXPECT_TRUE(answer("zzzzzz").starts_with("no method 'zzzzzz'; there are "));
  for (const Method& method : methods())
    EXPECT_NE(answer("zzzzzz").find(" " + std::string(method.name)), std::string::npos);
}

TEST(Registry, RefusesSpecsThatAreNotOne) {
  EXPECT_EQ(answer(""), "the spec is empty; 'full' keeps every row");
  EXPECT_EQ(answer("  \t"), "the spec is empty; 'full' keeps every row");
  EXPECT_EQ(answer("full+"), "a method is missing beside a '+' in 'full+'");
  EXPECT_EQ(answer("+full"), "a method is missing beside a '+' in '+full'");
  EXPECT_EQ(answer("full + full"), "'full' is named twice");
  EXPECT_EQ(answer("snapkv:"), "snapkv: an option has no name; write key=value");
  EXPECT_EQ(answer("snapkv:budget=0.1,"), "snapkv: an option has no name; write key=value");
  EXPECT_EQ(answer("snapkv:=3"), "snapkv: an option has no name; write key=value");
  EXPECT_EQ(answer("snapkv:budget"), "snapkv: 'budget' has no value; write key=value");
  EXPECT_EQ(answer("snapkv:budget="), "snapkv: 'budget' has no value; write key=value");
  EXPECT_EQ(answer("test_options:adapter=\"a"),
            "a quote is not closed in 'test_options:adapter=\"a'");
  EXPECT_EQ(answer("test_options:adapter=a\"b\"c"),
            "test_options: 'adapter' has a quote inside its value");
}

TEST(Registry, RefusesAnOptionThatIsGivenTwice) {
  EXPECT_EQ(answer("snapkv:window=3,window=4,budget=64"), "snapkv: 'window' is given twice");
  EXPECT_EQ(answer("snapkv:budget=64,budget=64"), "snapkv: 'budget' is given twice");
  EXPECT_EQ(answer("fastkv:budget=0.1+snapkv:budget=0.2"),
            "both 'fastkv' and 'snapkv' give 'budget', which counts for the whole spec");
}

TEST(Registry, RefusesTwoMethodsThatFillTheSameRole) {
  EXPECT_EQ(answer("streaming_llm:budget=64+knorm"),
            "both 'streaming_llm' and 'knorm' bring a scorer");
  EXPECT_EQ(answer("test_budget_a+full+test_budget_b"),
            "both 'test_budget_a' and 'test_budget_b' bring a budget");
}

TEST(Registry, RefusesABudgetThatTheProtectedRowsDoNotFitInto) {
  EXPECT_EQ(answer("snapkv:budget=16"),
            "snapkv: 'budget' must be at least 32 rows (sink + recent always stay)");
  EXPECT_EQ(answer("snapkv:budget=32"), "ok: snapkv:budget=32");
  EXPECT_EQ(
      answer("snapkv:budget=1KiB"),
      "snapkv: 'budget' must be more than 1KiB, enough for 32 rows (sink + recent always stay)");
  EXPECT_EQ(answer("snapkv:recent=4,budget=64"),
            "snapkv: 'recent' must be between 32 and 16777216");
  EXPECT_EQ(answer("full:budget=0.1"),
            "full: keeps every row; name a method that chooses, or no budget");
}

TEST(Registry, RefusesWhatFastkvCannotDo) {
  EXPECT_EQ(answer("fastkv:tsp_rate=0.2,tsp_len=100"),
            "fastkv: give tsp_rate (a share of the prompt) or tsp_len (tokens), not both");
  EXPECT_EQ(answer("fastkv:budget=8"), "fastkv: 'budget' must be more than the window of 8 rows");
  EXPECT_EQ(answer("fastkv:budget=4096"),
            "fastkv: 'tsp_len' must be at least the budget of 4096 rows");
  EXPECT_EQ(answer("fastkv:budget=0.5"),
            "fastkv: 'tsp_rate' must be at least the budget of 0.5; later layers cannot keep rows "
            "that never reach them");
  EXPECT_EQ(answer("fastkv:tsp_layer=32"), "fastkv: 'tsp_layer' must be between 0 and 31");
  EXPECT_EQ(answer("fastkv:tsp_layer=auto"),
            "fastkv: 'calibration' is missing; `pith calibrate tsp` makes the file");
  EXPECT_EQ(answer("fastkv:calibration=x.gguf"),
            "fastkv: 'calibration' is only read with tsp_layer=auto");
  EXPECT_EQ(answer("fastkv:width=6"),
            "fastkv: 'width' must be odd, so that both sides have as many neighbours");
}

TEST(Registry, RefusesValuesOfTheWrongKindInWords) {
  EXPECT_EQ(answer("test_options:rounds=ten"),
            "test_options: 'rounds' must be a whole number, not 'ten'");
  EXPECT_EQ(answer("test_options:rounds=10"), "test_options: 'rounds' must be between 1 and 9");
  EXPECT_EQ(answer("test_options:rounds=99999999999999999999"),
            "test_options: 'rounds' must be between 1 and 9");
  EXPECT_EQ(answer("test_options:heat=3"), "test_options: 'heat' must be between -2 and 2");
  EXPECT_EQ(answer("test_options:heat=nan"), "test_options: 'heat' must be a number, not 'nan'");
  EXPECT_EQ(answer("test_options:loud=maybe"),
            "test_options: 'loud' must be true or false, not 'maybe'");
  EXPECT_EQ(answer("test_options:colour=red|green"),
            "test_options: 'colour' must be one of red|green, not 'red|green'");
  EXPECT_EQ(answer("test_options:portion=some"),
            "test_options: 'portion' must be rows (2048), a share of the prompt (0.1) or bytes "
            "(512MiB), not 'some'");
  EXPECT_EQ(answer("test_options:layer=never"),
            "test_options: 'layer' must be a whole number, not 'never'");
  EXPECT_EQ(answer("snapkv:budget=64,page=4"), "snapkv: 'page' must be between 8 and 1024");
  // A common option is the fault of the method behind which it stands.
  EXPECT_EQ(answer("fastkv+test_options:cache=f64"),
            "test_options: 'cache' must be one of f16|bf16|f32|q8|e4m3|e5m2, not 'f64'");
}

TEST(Registry, ShowsUnprintableAndEndlessTextInASentence) {
  EXPECT_EQ(answer("\x01\xff"),
            "no method '\\x01\\xff'; there are " +
                answer("zzzzzz").substr(std::string("no method 'zzzzzz'; there are ").size()));
  const std::string sentence = answer(std::string(100000, 'x'));
  EXPECT_LT(sentence.size(), 1000u);
  EXPECT_NE(sentence.find("xxx...'"), std::string::npos);
}

TEST(Registry, PrintsASpecThatParsesToTheSamePolicy) {
  const std::vector<std::pair<std::string, std::string>> specs = {
      {"full", "full"},
      {"  full\n", "full"},
      {"snapkv:budget=0.10", "snapkv:budget=0.1"},
      {"snapkv : budget = 2048 , window=32", "snapkv:budget=2048"},
      {"snapkv:budget=1048576KiB", "snapkv:budget=1GiB"},
      {"snapkv:budget=1.5GiB", "snapkv:budget=1536MiB"},
      {"snapkv:budget=1.0", "snapkv:budget=1.0"},
      {"fastkv:budget=0.1,tsp_rate=0.2,tsp_layer=15", "fastkv"},
      {"fastkv:tsp_layer=3 + snapkv:window=16,budget=0.05",
       "fastkv:tsp_layer=3,budget=0.05+snapkv:window=16"},
      {"snapkv:window=16+fastkv:budget=0.05", "snapkv:window=16,budget=0.05+fastkv"},
      {"fastkv:tsp_len=4096,budget=512", "fastkv:tsp_len=4096,budget=512"},
      {"fastkv:tsp_rate=1,budget=1.0,cache=f32,page=64",
       "fastkv:tsp_rate=1,budget=1.0,page=64,cache=f32"},
      {"streaming_llm:recent=508", "streaming_llm:recent=508"},
      {"streaming_llm:budget=512,rerotate=yes,reduce_every=16",
       "streaming_llm:rerotate=true,budget=512"},
      {"streaming_llm:budget=512,reduce_every=16", "streaming_llm:budget=512,reduce_every=16"},
      {"knorm:sink=4,recent=8,budget=100,reduce_every=5",
       "knorm:budget=100,sink=4,recent=8,reduce_every=5"},
      {"test_options:colour=green,loud=on,heat=-1e-1,layer=auto,portion=0.25",
       "test_options:heat=-0.1,loud=true,colour=green,portion=0.25,layer=auto"},
      {"test_options:adapter=\"a + b, c.gguf\"", "test_options:adapter=\"a + b, c.gguf\""},
  };
  for (const auto& [spec, canonical] : specs) {
    EXPECT_EQ(answer(spec), "ok: " + canonical);
    EXPECT_EQ(answer(canonical), "ok: " + canonical);
  }
}

TEST(Registry, ReadsCommonOptionsBehindAnyMethod) {
  const auto policy = make_policy(
      "fastkv+test_options:budget=0.05,sink=4,recent=50,page=64,reduce_every=7,"
      "cache=f32",
      llama_shape());
  EXPECT_EQ(policy->amount.share, 0.05);
  EXPECT_EQ(policy->protect.sink, 4);
  EXPECT_EQ(policy->protect.recent, 50);
  EXPECT_EQ(policy->store.page_rows, 64);
  EXPECT_EQ(policy->reduce_every, 7);
  EXPECT_EQ(policy->store.k, Quant::f32);
  EXPECT_EQ(policy->store.v, Quant::f32);
  EXPECT_EQ(policy->store.open, Quant::f32);
}

TEST(Registry, AFormatOfCodesLeavesOpenPagesPlain) {
  const auto coded = make_policy("full:cache=q8", llama_shape());
  EXPECT_EQ(coded->store.k, Quant::q8_keys);
  EXPECT_EQ(coded->store.v, Quant::q8_values);
  EXPECT_EQ(coded->store.open, Quant::f16);
  EXPECT_EQ(coded->spec, "full:cache=q8");
  EXPECT_EQ(make_policy("knorm:budget=64,cache=bf16", llama_shape())->store.open, Quant::bf16);
}

TEST(Registry, ProtectsWhatAnyMethodOfASpecProtects) {
  const auto policy = make_policy("streaming_llm:budget=0.1+fastkv", llama_shape());
  EXPECT_EQ(policy->protect.sink, 4);
  EXPECT_EQ(policy->protect.recent, 8);
  EXPECT_EQ(make_policy("knorm:budget=64", llama_shape())->protect.recent, 32);
  EXPECT_EQ(make_policy("knorm:budget=64,recent=0", llama_shape())->protect.recent, 1);
}

TEST(Registry, AsksForNothingThatNobodyLooksAt) {
  EXPECT_EQ(make_policy("full", llama_shape())->demand().window_queries, 0);
  EXPECT_EQ(make_policy("knorm:budget=0.1", llama_shape())->demand().window_queries, 0);
  EXPECT_EQ(make_policy("snapkv:budget=0.1", llama_shape())->demand().window_queries, 32);
  EXPECT_FALSE(make_policy("snapkv:budget=0.1", llama_shape())->demand().decode_probs);
  EXPECT_TRUE(
      make_policy("snapkv:budget=0.1,reduce_every=8", llama_shape())->demand().decode_probs);
}

TEST(Registry, RefusesACalibrationFileOfAnotherModel) {
  const std::filesystem::path folder =
      std::filesystem::path(::testing::TempDir()) / "pith_registry_test";
  std::filesystem::create_directories(folder);
  const std::string path = (folder / "heads.gguf").string();
  save_calibration(path, "model-a", "a test",
                   std::vector<CalibrationTensor>{{"test.sinks", {2}, {6, 0}}});
  const std::string spec = "test_file:heads=" + path;
  EXPECT_EQ(make_policy(spec, llama_shape(), "model-a")->protect.sink, 6);
  EXPECT_EQ(make_policy(spec, llama_shape())->protect.sink, 6);
  try {
    make_policy(spec, llama_shape(), "model-b");
    FAIL() << "a file of another model was taken";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Errc::bad_file);
    EXPECT_EQ(std::string(error.what()),
              path +
                  ": made for another model (its digest is model-a, this model's model-b); "
                  "calibrate this one");
  }
  std::filesystem::remove_all(folder);
}

TEST(Registry, ListsMethodsByName) {
  std::string last;
  for (const Method& method : methods()) {
    EXPECT_LT(last, method.name);
    last = method.name;
  }
  EXPECT_NE(find_method("fastkv"), nullptr);
  EXPECT_EQ(find_method("fast"), nullptr);
}

}  // namespace
}  // namespace pith::test

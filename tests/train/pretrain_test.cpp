// Whole runs on a small text: from nothing to a model that the engine runs.
#include "train/pretrain.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <map>
#include <sstream>

#include "base/error.h"
#include "gguf/gguf.h"
#include "model/model.h"
#include "runtime/engine.h"
#include "support/small_texts.h"
#include "tensor/codec.h"
#include "train/checkpoint.h"
#include "train/examination.h"
#include "train/materials.h"
#include "train/model_card.h"
#include "train/tasks.h"

namespace pith {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

// A folder of this test's own, with texts and a configuration.
class TrainerRun : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::path(::testing::TempDir()) / "pith_train" / test->name();
    fs::remove_all(folder_);
    test::write_small_texts(folder_ / "texts");
    fs::create_directories(folder_ / "run");
    write_config("recall");
  }
  void TearDown() override { fs::remove_all(folder_); }

  void write_config(const std::string& beginning, int feed_forward = 64, double rate = 1e-3) {
    std::ofstream(folder_ / "config.json")
        << R"({"name": "small", "texts": ["texts"], "held_out": ["apart"], "seed": 5,
               "vocabulary_tokens": 400, "rate": )"
        << rate << R"(, "beginning": ")" << beginning << R"(",
               "model": {"layers": 3, "width": 224, "query_heads": 4, "heads": 2, "head_dim": 32,
                         "context": 256, "rope_base": 1e10, "feed_forward": )"
        << feed_forward << R"(},
               "warm_up_tokens": 500, "measure_tokens": 3000, "checkpoint_seconds": 0,
               "stages": [{"tokens": 4000, "length": 32, "rows": 4, "mix": {"copy": 1, "text": 1}},
                          {"tokens": 3000, "length": 128, "rows": 2,
                           "mix": {"needles": 2, "text": 1}}]})";
  }
  TrainConfig config() const { return read_train_config((folder_ / "config.json").string()); }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  // Losses by step.
  std::map<int64_t, double> run(const std::string& name, int64_t stop_after = 0,
                                int64_t die_at = 0) {
    PretrainOptions options;
    options.folder = path(name);
    options.threads = 2;
    options.stop_after = stop_after;
    std::map<int64_t, double> losses;
    pretrain(config(), options, Monitor::silent(), [&](const CurvePoint& point) {
      if (!point.held_out) losses[point.step] = point.loss;
      if (die_at > 0 && point.step == die_at) std::_Exit(9);
    });
    return losses;
  }
  static std::vector<float> values(const GgufTensor& tensor) {
    std::vector<float> out(static_cast<size_t>(tensor.elements()));
    const size_t bytes = row_bytes(tensor.dtype, tensor.dims[0]);
    for (int64_t row = 0; row < tensor.rows(); ++row)
      decode_row(tensor.dtype, tensor.data.data() + static_cast<size_t>(row) * bytes,
                 tensor.dims[0], out.data() + row * tensor.dims[0]);
    return out;
  }
  static std::string content(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    std::stringstream text;
    text << in.rdbuf();
    return text.str();
  }

  fs::path folder_;
};
using TrainerRunDeathTest = TrainerRun;

// The curve without the times.
std::string untimed(const std::string& csv) {
  std::stringstream in(csv);
  std::string out;
  for (std::string line; std::getline(in, line);) {
    std::stringstream cells(line);
    int column = 0;
    for (std::string cell; std::getline(cells, cell, ','); ++column)
      if (column != 5) out += cell + ",";
    out += "\n";
  }
  return out;
}

TEST_F(TrainerRunDeathTest, ARunThatWasKilledGoesOnToTheSameLosses) {
  const std::map<int64_t, double> whole = run("whole");
  ASSERT_GT(whole.size(), 40u);
  EXPECT_EXIT(run("killed", 0, 27), ::testing::ExitedWithCode(9), "");
  const std::map<int64_t, double> rest = run("killed");
  EXPECT_EQ(rest.begin()->first, 21) << "it goes on from the checkpoint of step 20";
  for (const auto& [step, loss] : rest) EXPECT_EQ(loss, whole.at(step)) << "step " << step;
  EXPECT_EQ(untimed(content(path("killed/loss.csv"))), untimed(content(path("whole/loss.csv"))));
  EXPECT_EQ(content(path("killed/small-q8_0.gguf")), content(path("whole/small-q8_0.gguf")));
  EXPECT_THAT(content(path("whole/loss.svg")), HasSubstr("</svg>"));
}

TEST_F(TrainerRun, ItsModelsGiveTheEngineTheTrainersLogits) {
  run("run", 20);
  const std::string checkpoint = path("run/checkpoint.gguf"), model = path("model.gguf");
  export_checkpoint(checkpoint, model, DType::f32);
  const auto file = GgufFile::open(model);
  EXPECT_FALSE(file->has_tensor("train.moment1"));
  const NetworkShape shape = read_shape(*file);
  Learner learner(shape, {});
  learner.set_parameters(read_parameters(*file, shape));
  const auto tokenizer = Tokenizer::load(*file);
  std::vector<int32_t> tokens = {tokenizer->begin_token()};
  for (const int32_t token : tokenizer->encode(test::small_text(77, 9), false))
    tokens.push_back(token);
  tokens.resize(200);
  const std::vector<float> expected = learner.logits(tokens);

  EngineOptions options;
  options.threads = 1;
  Engine engine(Model::load(model), options);
  const auto session = engine.open("full");
  double worst = 0, largest = 0;
  const auto vocab = static_cast<size_t>(shape.vocab);
  engine.prefill_all(*session, tokens, [&](int row, std::span<const float> logits) {
    for (size_t i = 0; i < vocab; ++i) {
      const double wanted = expected[static_cast<size_t>(row) * vocab + i];
      largest = std::max(largest, std::fabs(wanted));
      worst = std::max(worst, std::fabs(wanted - logits[i]));
    }
  });
  EXPECT_GT(largest, 1);
  EXPECT_LE(worst, 1e-3);
}

// A rate that changes no float: what comes out is what went in.
TEST_F(TrainerRun, ARunThatBeginsWithAModelHasItsWeightsAndItsVocabulary) {
  run("run", 20);
  export_checkpoint(path("run/checkpoint.gguf"), path("first.gguf"), DType::q8_0);
  write_config("first.gguf", 64, 1e-50);
  run("again", 1);
  EXPECT_FALSE(fs::exists(path("again/vocabulary.model"))) << "no vocabulary was learnt";
  export_checkpoint(path("again/checkpoint.gguf"), path("second.gguf"), DType::f32);
  const auto first = GgufFile::open(path("first.gguf")),
             second = GgufFile::open(path("second.gguf"));
  ASSERT_EQ(first->tensors().size(), second->tensors().size());
  for (const GgufTensor& tensor : first->tensors())
    EXPECT_EQ(values(tensor), values(second->tensor(tensor.name))) << tensor.name;
  for (const GgufEntry& entry : first->entries()) {
    if (!entry.key.starts_with("tokenizer.")) continue;
    const auto same = std::ranges::find(second->entries(), entry.key, &GgufEntry::key);
    ASSERT_NE(same, second->entries().end()) << entry.key;
    EXPECT_TRUE(std::ranges::equal(entry.raw, same->raw)) << entry.key;
  }
}

TEST_F(TrainerRun, ItRefusesToBeginWithAModelOfAnotherShape) {
  run("run", 1);
  export_checkpoint(path("run/checkpoint.gguf"), path("first.gguf"), DType::q8_0);
  const auto refusal = [&] {
    try {
      run("again", 1);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  write_config("first.gguf", 96);
  EXPECT_EQ(refusal(), "beginning: " + path("first.gguf") +
                           " has another 'feed_forward' than the configuration");
  write_config("first.txt");
  EXPECT_THAT(refusal(), HasSubstr("'beginning' is 'first.txt'"));
}

TEST_F(TrainerRun, ItsVocabularyIsSentencepiecesOwn) {
  const Materials m = prepare_materials(config(), path("run"), Monitor::silent());
  const std::string text =
      "The captain said 40962 quietly: {\"key-9\": \"<x>\"};\n  Two blanks, tab\there.\n"
      "caf\xc3\xa9 \xe2\x82\xac"
      "5 -- END.";
  std::ofstream(path("text.txt"), std::ios::binary) << text;
  const std::string program =
      (fs::read_symlink("/proc/self/exe").parent_path() / "pith-train-vocabulary").string();
  const std::string command = program + " --encode " + path("run/vocabulary.model") + " < " +
                              path("text.txt") + " > " + path("tokens.txt");
  ASSERT_EQ(std::system(command.c_str()), 0);
  std::vector<int32_t> expected;
  std::ifstream in(path("tokens.txt"));
  for (int32_t token; in >> token;) expected.push_back(token);
  ASSERT_FALSE(expected.empty());
  EXPECT_EQ(m.tokenizer->encode(text, false), expected);
  EXPECT_EQ(m.tokenizer->decode(expected), text);
}

TEST_F(TrainerRun, SamplesHoldTheirAnswersAndAreTheTokensOfTheirText) {
  const Materials m = prepare_materials(config(), path("run"), Monitor::silent());
  const TaskSource source{*m.tokenizer, *m.learnt};
  for (const Task& task : tasks()) {
    int answers = 0;
    for (uint64_t seed = 0; seed < 20; ++seed) {
      Random random(seed, 7);
      const int length = std::max(task.shortest, seed % 2 == 0 ? 300 : 700);
      const Sample sample = make_sample(task, source, random, length);
      ASSERT_EQ(sample.tokens.size(), static_cast<size_t>(length)) << task.name;
      ASSERT_EQ(sample.roles.size(), sample.tokens.size()) << task.name;
      EXPECT_EQ(sample.tokens[0], m.tokenizer->begin_token());
      std::string text;
      for (size_t i = 1; i < sample.tokens.size(); ++i)
        text += m.tokenizer->piece(sample.tokens[i]);
      // Random tokens need not be what their text is cut into.
      if (task.name != "copy") {
        std::vector<int32_t> again = m.tokenizer->encode(text, false);
        again.insert(again.begin(), m.tokenizer->begin_token());
        EXPECT_EQ(again, sample.tokens) << task.name << ": " << text;
      }
      for (size_t i = 1; i < sample.tokens.size(); ++i) {
        if (sample.roles[i] != TokenRole::answer || sample.roles[i - 1] == TokenRole::answer)
          continue;
        ++answers;
        std::string before, answer;
        for (size_t j = 1; j < i; ++j) before += m.tokenizer->piece(sample.tokens[j]);
        for (size_t j = i; j < sample.tokens.size() && sample.roles[j] == TokenRole::answer; ++j)
          answer += m.tokenizer->piece(sample.tokens[j]);
        // Lists of several answers are looked up word by word; the last one may be cut.
        std::stringstream words(answer);
        for (std::string word; words >> word;) {
          if (word == "and") continue;
          if (word.back() == ',') word.pop_back();
          EXPECT_THAT(before, HasSubstr(word)) << task.name;
        }
      }
    }
    if (task.name != "text" && task.name != "copy" && task.name != "repeat") {
      EXPECT_GT(answers, 0) << task.name;
    }
  }
}

TEST_F(TrainerRun, LookupsSayTheirAnswerAtTheirDepth) {
  const Materials m = prepare_materials(config(), path("run"), Monitor::silent());
  for (const Lookup lookup : {Lookup::passkey, Lookup::needle, Lookup::eight_needles}) {
    for (const double depth : {0.0, 0.5, 1.0}) {
      Random random(3, 9);
      const LookupPrompt prompt =
          make_lookup(lookup, *m.tokenizer, *m.held_out, random, 2000, depth);
      EXPECT_EQ(prompt.tokens.size(), 2000u);
      const std::string answer = m.tokenizer->decode(prompt.answer);
      std::string text = m.tokenizer->decode(prompt.tokens);
      const size_t question = text.rfind('\n');
      ASSERT_NE(question, std::string::npos);
      const size_t at = text.find(answer + ".");
      ASSERT_NE(at, std::string::npos) << answer;
      EXPECT_NEAR(static_cast<double>(at) / static_cast<double>(question), depth, 0.2);
      EXPECT_EQ(text.find(answer, question), std::string::npos);
    }
  }
  Random random(3, 9);
  EXPECT_TRUE(
      make_lookup(Lookup::eight_needles, *m.tokenizer, *m.held_out, random, 200, 0).tokens.empty());
}

TEST_F(TrainerRun, ItsCardHasWhatTheEngineMeasured) {
  run("run", 20);
  const std::string model = path("model.gguf");
  export_checkpoint(path("run/checkpoint.gguf"), model, DType::q8_0);
  const Materials m = prepare_materials(config(), path("run"), Monitor::silent());
  const auto file = GgufFile::open(model);
  EngineOptions engine_options;
  engine_options.threads = 1;
  Engine engine(Model::load(file), engine_options);
  ExaminationOptions options;
  options.samples = 1;
  options.depths = 2;
  options.text_windows = 2;
  const Examination result = examine(engine, *m.held_out, options, Monitor::silent());
  EXPECT_EQ(result.context, 256);
  EXPECT_GT(result.text_tokens, 400);
  EXPECT_GT(result.bits_per_byte, 0.5);
  EXPECT_LT(result.bits_per_byte, 8);
  EXPECT_LT(result.second_copy, result.first_copy) << "it copies from the beginning";
  ASSERT_FALSE(result.lookups.empty());
  EXPECT_EQ(result.lookups[0].right.size(), 2u);
  const std::string card = model_card(config(), *file, result);
  EXPECT_THAT(card, HasSubstr("# small"));
  EXPECT_THAT(card, HasSubstr("Held out, and used for the figures above: apart."));
  EXPECT_THAT(card, HasSubstr("| passkey | `full` | 224 |"));
  EXPECT_THAT(card, HasSubstr("`streaming_llm:sink=4,recent=128`"));
}

TEST_F(TrainerRun, TextHeldOutIsNeverLearnt) {
  const Materials m = prepare_materials(config(), path("run"), Monitor::silent());
  EXPECT_EQ(m.tokenizer->decode({m.held_out->tokens().begin(), m.held_out->tokens().end()}),
            flow_text(test::small_text(3, 400)));
  const std::string learnt =
      m.tokenizer->decode({m.learnt->tokens().begin(), m.learnt->tokens().end()});
  EXPECT_EQ(learnt.find(test::small_text(3, 5)), std::string::npos);
}

}  // namespace
}  // namespace pith

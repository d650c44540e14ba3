#include "train/train_config.h"

#include <filesystem>
#include <fstream>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "train/corpus.h"
#include "train/loss_curve.h"

namespace pith {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

const std::string kModel =
    R"("model": {"layers": 2, "width": 64, "query_heads": 4, "heads": 2, "head_dim": 16,
                 "feed_forward": 64, "context": 128})";
const std::string kStages =
    R"("stages": [{"tokens": 1e3, "length": 32, "rows": 2, "mix": {"text": 1}},
                  {"tokens": 3000, "length": 128, "rows": 1, "mix": {"copy": 1}}])";

std::string config_path(const std::string& text) {
  const fs::path folder = fs::path(::testing::TempDir()) / "pith_train_config";
  fs::create_directories(folder);
  std::ofstream(folder / "config.json") << text;
  return (folder / "config.json").string();
}

std::string refusal(const std::string& text) {
  try {
    read_train_config(config_path(text));
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Errc::bad_option);
    return error.what();
  }
  return "";
}

TEST(TrainerConfig, ReadsStagesAndFindsTextsBesideItself) {
  const TrainConfig config = read_train_config(config_path(
      R"({"name": "x", "texts": ["books"], "rate": 0.01, "floor": 0.1, "warm_up_tokens": 100, )" +
      kModel + "," + kStages + "}"));
  EXPECT_EQ(config.total_tokens(), 4000);
  EXPECT_EQ(config.texts[0], (fs::path(::testing::TempDir()) / "pith_train_config/books").string());
  EXPECT_EQ(stage_at(config, 999).length, 32);
  EXPECT_EQ(stage_at(config, 1000).length, 128);
  EXPECT_EQ(stage_at(config, 1000000).length, 128);
}

TEST(TrainerConfig, RateWarmsUpAndFallsToItsFloor) {
  TrainConfig config;
  config.rate = 0.01;
  config.floor = 0.1;
  config.warm_up_tokens = 100;
  config.stages.push_back({10000, 32, 1, {{"text", 1.0}}});
  EXPECT_NEAR(rate_at(config, 49), 0.005, 1e-5);
  EXPECT_NEAR(rate_at(config, 5000), 0.0055, 1e-6);
  EXPECT_NEAR(rate_at(config, 10000), 0.001, 1e-9);
  EXPECT_NEAR(rate_at(config, 99999), 0.001, 1e-9);
}

TEST(TrainerConfig, RefusesWhatItDoesNotKnow) {
  const std::string start = R"({"name": "x", "texts": ["t"], )";
  EXPECT_THAT(refusal(start + "\"speed\": 1, " + kModel + "," + kStages + "}"),
              HasSubstr("'speed'"));
  EXPECT_THAT(refusal(start + kModel + R"(, "stages": [{"tokens": 9, "length": 32, "rows": 1,
                                           "mix": {"dreams": 1}}]})"),
              HasSubstr("unknown task 'dreams'"));
  EXPECT_THAT(refusal(start + kModel + R"(, "stages": [{"tokens": 9, "length": 256, "rows": 1,
                                           "mix": {"text": 1}}]})"),
              HasSubstr("longer than the model's context"));
  EXPECT_THAT(refusal(start + R"("model": {"layers": 2, "width": 65}, )" + kStages + "}"),
              HasSubstr("'width'"));
  EXPECT_THAT(refusal("{"), HasSubstr("JSON"));
  EXPECT_THAT(refusal(R"({"texts": ["t"], )" + kModel + "," + kStages + "}"), HasSubstr("'name'"));
}

TEST(TrainerTexts, FlowsLinesIntoParagraphs) {
  EXPECT_EQ(flow_text("It was a long  line that was broken\r\nto fit the page, and ended\nhere.\n"
                      "Another one began.\n\nAfter a gap\n"),
            "It was a long line that was broken to fit the page, and ended here.\n"
            "Another one began.\nAfter a gap");
}

TEST(TrainerCurve, IsReadBackAndCutAtTheCheckpoint) {
  const std::string path = (fs::path(::testing::TempDir()) / "pith_curve.csv").string();
  fs::remove(path);
  CurvePoint point;
  point.score.roles[static_cast<size_t>(TokenRole::text)] = {12.5, 5, 3};
  {
    CurveFile curve(path, 0);
    for (const int64_t step : {20, 40, 60}) {
      point.step = step;
      point.tokens = 10 * step;
      curve.add(point);
    }
  }
  const CurveFile curve(path, 40);
  ASSERT_EQ(curve.points().size(), 2u);
  EXPECT_EQ(curve.points()[1].tokens, 400);
  const RoleScore& text = curve.points()[1].score.roles[static_cast<size_t>(TokenRole::text)];
  EXPECT_EQ(text.targets, 5);
  EXPECT_EQ(text.right, 3);
  EXPECT_NEAR(text.loss, 12.5, 1e-4);
  EXPECT_THAT(curve_svg(curve.points(), "title"), HasSubstr("stroke=\"#4269d0\""));
}

}  // namespace
}  // namespace pith

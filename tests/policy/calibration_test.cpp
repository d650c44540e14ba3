#include "policy/calibration.h"

#include <filesystem>
#include <fstream>

#include "gtest/gtest.h"
#include "support/refusals.h"

namespace pith::test {
namespace {

class CalibrationFile : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(::testing::TempDir()) / "pith_calibration_test" /
              ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string path(const char* name) const { return (folder_ / name).string(); }

 private:
  std::filesystem::path folder_;
};

TEST_F(CalibrationFile, ReadsBackTheTensorsThatWereSaved) {
  const std::vector<CalibrationTensor> tensors = {{"tsp.layer", {1}, {3}},
                                                  {"tsp.overlap", {2, 3}, {1, 2, 3, 4, 5, 6}}};
  save_calibration(path("a.gguf"), "abc", "pith calibrate tsp", tensors);
  const auto file = Calibration::load(path("a.gguf"), "abc");
  EXPECT_EQ(file->model_digest(), "abc");
  EXPECT_TRUE(file->has("tsp.overlap"));
  EXPECT_FALSE(file->has("tsp.rate"));
  const std::span<const float> overlap = file->tensor("tsp.overlap", 6);
  EXPECT_EQ(std::vector<float>(overlap.begin(), overlap.end()), tensors[1].values);
  EXPECT_EQ(file->tensor("tsp.layer", 1)[0], 3);
}

TEST_F(CalibrationFile, RefusesATensorThatIsMissingOrOfAnotherSize) {
  save_calibration(path("a.gguf"), "abc", "a test",
                   std::vector<CalibrationTensor>{{"x", {4}, {1, 2, 3, 4}}});
  const auto file = Calibration::load(path("a.gguf"));
  EXPECT_NE(refusal([&] { file->tensor("y", 4); }).find("y"), std::string::npos);
  EXPECT_NE(refusal([&] { file->tensor("x", 5); }).find("x"), std::string::npos);
}

TEST_F(CalibrationFile, RefusesFilesThatAreSomethingElse) {
  EXPECT_NE(refusal([&] { Calibration::load(path("none.gguf")); }).find("none.gguf"),
            std::string::npos);
  std::ofstream(path("text.gguf")) << "not a gguf file at all, but long enough to look at";
  EXPECT_NE(refusal([&] { Calibration::load(path("text.gguf")); }).find("text.gguf"),
            std::string::npos);
}

TEST_F(CalibrationFile, RefusesTheFileOfAnotherModel) {
  save_calibration(path("a.gguf"), "abc", "a test",
                   std::vector<CalibrationTensor>{{"x", {1}, {1}}});
  EXPECT_EQ(
      refusal([&] { Calibration::load(path("a.gguf"), "abd"); }),
      path("a.gguf") +
          ": made for another model (its digest is abc, this model's abd); calibrate this one");
}

TEST(BlankCalibration, HasEveryTensorAndTheyAreZero) {
  const auto blank = Calibration::blank();
  EXPECT_TRUE(blank->has("anything"));
  const std::span<const float> a = blank->tensor("a", 3), b = blank->tensor("b", 2);
  EXPECT_EQ(a.size(), 3u);
  EXPECT_EQ(a[2], 0);
  EXPECT_EQ(b[1], 0);
}

}  // namespace
}  // namespace pith::test

#include <algorithm>
#include <filesystem>
#include <gtest/gtest.h>
#include <numeric>

#include "base/error.h"
#include "policy/calibration.h"
#include "policy/registry.h"
#include "support/recorded_rows.h"
#include "support/toy_prompt.h"

namespace pith::test {
namespace {

TEST(Qfilter, KeepsTheKeysThatPointAlongTheQueries) {
  const auto folder = std::filesystem::path(::testing::TempDir()) / "pith_qfilter_test";
  std::filesystem::create_directories(folder);
  const std::string path = (folder / "q.gguf").string();
  std::vector<float> directions(4 * 2 * 16);
  for (size_t i = 0; i < directions.size(); ++i)
    directions[i] = 0.1f * static_cast<float>(i * 7 % 11) - 0.4f;
  save_calibration(path, "m", "a test",
                   std::vector<CalibrationTensor>{{"queries.direction", {16, 2, 4}, directions}});
  ToyPrompt prompt("qfilter:budget=40,sink=0,recent=1,calibration=" + path);
  std::vector<RecordedLayer> layers;
  record_layers(prompt, layers);
  prompt.prefill(200);
  for (int l = 0; l < 4; ++l)
    for (int h = 0; h < 2; ++h) {
      std::vector<double> scores;
      for (int64_t r = 0; r < 199; ++r) {
        double score = 0;
        for (size_t d = 0; d < 16; ++d)
          score += double{layers[static_cast<size_t>(l)].keys()[h].row(r)[d]} *
                   double{directions[static_cast<size_t>(l * 2 + h) * 16 + d]};
        scores.push_back(score);
      }
      std::vector<int32_t> order(199);
      std::iota(order.begin(), order.end(), 0);
      std::ranges::stable_sort(order, std::greater(),
                               [&](int32_t r) { return scores[static_cast<size_t>(r)]; });
      order.resize(39);
      order.push_back(199);
      std::ranges::sort(order);
      EXPECT_EQ(prompt.kept(l, h), order);
    }
  std::filesystem::remove_all(folder);
}

TEST(Qfilter, SaysWhichCommandMakesItsFile) {
  try {
    make_policy("qfilter:budget=0.1", toy_shape());
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(),
                 "qfilter: 'calibration' is missing; `pith calibrate queries` makes the file");
  }
}

}  // namespace
}  // namespace pith::test

// headkv and uncomp: what heads keep by a file, or by the entropy of their queries.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numeric>

#include "base/random.h"
#include "gtest/gtest.h"
#include "policy/calibration.h"
#include "policy/entropy.h"
#include "policy/registry.h"
#include "support/spec_sentences.h"
#include "support/toy_prompt.h"

namespace pith::test {
namespace {

std::string file_of(const char* name, std::vector<CalibrationTensor> tensors) {
  const auto folder = std::filesystem::path(::testing::TempDir()) / "pith_head_budgets_test";
  std::filesystem::create_directories(folder);
  const std::string path = (folder / name).string();
  save_calibration(path, "m", "a test", tensors);
  return path;
}

TEST(Headkv, SharesOnePartByImportanceAndTheRestEvenly) {
  std::vector<float> scores(16, 0.0f);
  scores[4 + 2] = 0.6f;  // layer 1, KV head 1
  scores[4 + 3] = 0.2f;
  scores[12] = 0.4f;  // layer 3, KV head 0
  const std::string file = file_of("headkv.gguf", {{"heads.retrieval", {4, 4}, scores}});
  ToyPrompt prompt("headkv:budget=62,beta=2,heads=" + file);
  prompt.prefill(600);
  // 30 rows above the window of 32, 240 in all: half of them by importance (2/3 and 1/3).
  for (int l = 0; l < 4; ++l)
    for (int h = 0; h < 2; ++h) {
      const int extra = l == 1 && h == 1 ? 80 : l == 3 && h == 0 ? 40 : 0;
      EXPECT_EQ(prompt.kept(l, h).size(), static_cast<size_t>(32 + 15 + extra)) << l << h;
    }
}

TEST(Headkv, IsEvenWithoutAnyImportance) {
  const std::string file =
      file_of("zero.gguf", {{"heads.retrieval", {4, 4}, std::vector<float>(16, 0.0f)}});
  ToyPrompt prompt("headkv:budget=60,heads=" + file), even("snapkv:budget=60");
  prompt.prefill(300);
  even.prefill(300);
  EXPECT_EQ(prompt.heads(), even.heads());
}

TEST(Headkv, NamesTheCommandThatMakesItsFile) {
  EXPECT_EQ(answer("headkv:budget=64"),
            "headkv: 'heads' is missing; `pith calibrate heads` makes the file");
}

// Jacobi's rotations, which have nothing in common with what the engine does.
std::vector<double> jacobi(std::vector<double> a, int n) {
  const auto at = [&](int r, int c) -> double& { return a[static_cast<size_t>(r * n + c)]; };
  for (int sweep = 0; sweep < 60; ++sweep)
    for (int p = 0; p < n; ++p)
      for (int q = p + 1; q < n; ++q) {
        if (std::abs(at(p, q)) < 1e-300) continue;
        const double theta = (at(q, q) - at(p, p)) / (2 * at(p, q));
        const double t = (theta >= 0 ? 1 : -1) / (std::abs(theta) + std::sqrt(theta * theta + 1));
        const double c = 1 / std::sqrt(t * t + 1), s = t * c;
        for (int k = 0; k < n; ++k) {
          const double x = at(k, p), y = at(k, q);
          at(k, p) = c * x - s * y;
          at(k, q) = s * x + c * y;
        }
        for (int k = 0; k < n; ++k) {
          const double x = at(p, k), y = at(q, k);
          at(p, k) = c * x - s * y;
          at(q, k) = s * x + c * y;
        }
      }
  std::vector<double> values;
  for (int i = 0; i < n; ++i) values.push_back(at(i, i));
  std::ranges::sort(values, std::greater());
  return values;
}

TEST(Entropy, FindsTheEigenvaluesOfSymmetricMatrices) {
  Random random(4);
  for (const int n : {1, 2, 3, 8, 33, 64}) {
    std::vector<double> a(static_cast<size_t>(n * n));
    for (int i = 0; i < n; ++i)
      for (int j = 0; j <= i; ++j)
        a[static_cast<size_t>(i * n + j)] = a[static_cast<size_t>(j * n + i)] = random.normal();
    const auto found = symmetric_eigenvalues(a, n), expected = jacobi(a, n);
    for (int i = 0; i < n; ++i)
      EXPECT_NEAR(found[static_cast<size_t>(i)], expected[static_cast<size_t>(i)], 1e-9);
  }
  // Several alike, and none.
  EXPECT_EQ(symmetric_eigenvalues({0, 0, 0, 0}, 2), (std::vector<double>{0, 0}));
  for (const double value : symmetric_eigenvalues({1, 0, 0, 0, 1, 0, 0, 0, 1}, 3))
    EXPECT_NEAR(value, 1, 1e-12);
}

TEST(Entropy, CountsTheDirectionsOfRows) {
  // Four directions in equal parts, centred: three of them are left, each with a third.
  std::vector<float> rows;
  for (int r = 0; r < 40; ++r)
    for (int d = 0; d < 16; ++d) rows.push_back(d == r % 4 ? 3.0f : 0.0f);
  const auto values = spectrum(ConstMat::packed(rows.data(), {40, 16}));
  for (int i = 0; i < 3; ++i) EXPECT_NEAR(values[static_cast<size_t>(i)], 1.0 / 3, 1e-6);
  EXPECT_NEAR(values[3], 0, 1e-6);
  EXPECT_NEAR(truncated_entropy(values, 16), std::log(3) / std::log(16), 1e-6);
  EXPECT_NEAR(truncated_entropy(values, 2), 2.0 / 3 * std::log(3) / std::log(16), 1e-6);
  EXPECT_NEAR(truncated_entropy(values, 0), std::log(3) / std::log(16), 1e-6) << "the elbow";
}

TEST(Uncomp, GivesHeadsWithHighEntropyMoreRows) {
  ToyPrompt prompt("uncomp:budget=68,reduce_every=0,truncate=16");
  prompt.plant = [](int layer, Cube q, Cube, Cube) {
    for (int64_t i = 0; i < q.dim[0]; ++i)  // one KV head of each layer asks for two things only
      for (int g = 0; g < 2; ++g) {
        const auto row = q[i].row((layer % 2) * 2 + g);
        for (size_t d = 2; d < 16; ++d) row[d] *= 0.01f;
      }
  };
  prompt.prefill(400);
  for (int l = 0; l < 4; ++l) {
    const size_t poor = prompt.kept(l, l % 2).size(), rich = prompt.kept(l, 1 - l % 2).size();
    EXPECT_EQ(rich, 8u + 80) << "two thirds of 120";
    EXPECT_EQ(poor, 8u + 40);
  }
}

TEST(Uncomp, ReadsEntropiesFromAFile) {
  std::vector<float> entropy(16, 0.5f);
  for (size_t l = 0; l < 4; ++l) entropy[l * 4 + 2] = entropy[l * 4 + 3] = 0.9f;
  const std::string file = file_of(
      "uncomp.gguf", {{"entropy.heads", {4, 4}, entropy}, {"entropy.stage", {4}, {0, 0, 1, 2}}});
  ToyPrompt prompt("uncomp:budget=68,ratio=3,reduce_every=0,calibration=" + file);
  prompt.prefill(400);
  for (int l = 0; l < 4; ++l) {
    EXPECT_EQ(prompt.kept(l, 0).size(), 8u + 30);
    EXPECT_EQ(prompt.kept(l, 1).size(), 8u + 90);
  }
  ToyPrompt stages("uncomp:budget=1.0,stages=true,least=100,calibration=" + file);
  stages.prefill(500);
  EXPECT_EQ(stages.rows_into(1), 500);
  EXPECT_EQ(stages.rows_into(2), 300);
  EXPECT_EQ(stages.rows_into(3), 100);
}

TEST(Uncomp, HoldsItsBudgetsWhileGenerating) {
  ToyPrompt prompt("uncomp:budget=40");
  prompt.prefill(200);
  const int64_t rows = prompt.store().rows();
  EXPECT_EQ(rows, 8 * 40);
  prompt.decode(60);
  EXPECT_EQ(prompt.store().rows(), rows);
}

TEST(Uncomp, SaysWhereStagesComeFrom) {
  EXPECT_EQ(answer("uncomp:budget=0.1,stages=true", toy_shape()),
            "uncomp: stages=true needs calibration=... for a model of 4 layers; make the file with "
            "`pith calibrate entropy`");
  EXPECT_EQ(answer("uncomp:budget=0.1,stages=true"), "ok: uncomp:stages=true,budget=0.1");
}

}  // namespace
}  // namespace pith::test

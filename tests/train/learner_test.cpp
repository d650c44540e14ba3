// Learning without texts: rows of random tokens.
#include "train/learner.h"

#include <algorithm>
#include <cmath>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/random.h"
#include "support/network_shapes.h"
#include "train/beginning.h"

namespace pith {
namespace {

NetworkShape recall_shape() {
  return test::recall_shape(512, 1024);
}

// Random tokens, and the same again.
Batch second_copies(const NetworkShape& shape, int rows, int length, uint64_t seed) {
  Random random(seed);
  Batch batch;
  batch.rows = rows;
  batch.length = length;
  for (int row = 0; row < rows; ++row) {
    const size_t first = batch.tokens.size();
    const int half = (length + 1) / 2;
    for (int i = 0; i <= length; ++i) {
      const auto drawn = static_cast<int32_t>(random.below(static_cast<uint64_t>(shape.vocab)));
      const bool again = i >= half;
      batch.tokens.push_back(again ? batch.tokens[first + static_cast<size_t>(i - half)] : drawn);
      batch.roles.push_back(i > half + 3 ? TokenRole::copy : TokenRole::context);
    }
  }
  return batch;
}

LearnerOptions plain_options() {
  LearnerOptions options;
  options.weights = {0.1f, 1, 1, 4};
  return options;
}

TEST(TrainerBeginning, CopiesBeforeAnyTraining) {
  const NetworkShape shape = recall_shape();
  Learner learner(shape, plain_options());
  learner.set_parameters(first_weights(shape, Beginning::recall, {}, 3));
  const auto right = [&](int length) {
    const BatchScore score =
        learner.measure(1, [&](int) { return second_copies(shape, 4, length, 9); });
    const RoleScore& copy = score.roles[static_cast<size_t>(TokenRole::copy)];
    return static_cast<double>(copy.right) / static_cast<double>(copy.targets);
  };
  EXPECT_GT(right(128), 0.8);
  EXPECT_GT(right(1000), 0.5);
}

TEST(TrainerBeginning, RandomWeightsDoNotCopy) {
  const NetworkShape shape = recall_shape();
  Learner learner(shape, plain_options());
  learner.set_parameters(first_weights(shape, Beginning::random, {}, 3));
  const BatchScore score = learner.measure(1, [&](int) { return second_copies(shape, 4, 128, 9); });
  const RoleScore& copy = score.roles[static_cast<size_t>(TokenRole::copy)];
  EXPECT_LT(static_cast<double>(copy.right), 0.1 * static_cast<double>(copy.targets));
}

TEST(TrainerBeginning, RefusesANetworkTooNarrowForTheCircuit) {
  NetworkShape shape = recall_shape();
  shape.width = 192;
  try {
    first_weights(shape, Beginning::recall, {}, 3);
    FAIL() << "a narrow network was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Errc::bad_option);
    EXPECT_NE(std::string(error.what()).find("width"), std::string::npos) << error.what();
  }
}

TEST(TrainerLearner, FindsTheSameGradientsWhenLayersRunTwice) {
  const NetworkShape shape = recall_shape();
  const Batch batch = second_copies(shape, 2, 96, 1);
  std::vector<float> kept, recomputed;
  for (std::vector<float>* out : {&kept, &recomputed}) {
    LearnerOptions options = plain_options();
    options.recompute_from = out == &kept ? 1000 : 1;
    Learner learner(shape, options);
    learner.set_parameters(first_weights(shape, Beginning::recall, {}, 3));
    learner.gradients(batch, *out);
  }
  double most = 0, difference = 0;
  for (size_t i = 0; i < kept.size(); ++i) {
    most = std::max(most, std::fabs(double{kept[i]}));
    difference = std::max(difference, std::fabs(double{kept[i]} - recomputed[i]));
  }
  EXPECT_GT(most, 1e-4);
  EXPECT_LT(difference, 1e-5 * most);
}

// Loss of a few steps, of `parts` parts on `threads` threads.
std::vector<double> losses(int parts, int threads, std::vector<float>* parameters = nullptr) {
  const NetworkShape shape = recall_shape();
  LearnerOptions options = plain_options();
  options.threads = threads;
  Learner learner(shape, options);
  learner.set_parameters(first_weights(shape, Beginning::recall, {}, 3));
  std::vector<double> out;
  for (uint64_t step = 0; step < 4; ++step) {
    const auto make = [&](int part) {
      Batch all = second_copies(shape, 4, 64, 100 + step), cut;
      const int rows = all.rows / parts;
      cut.rows = rows;
      cut.length = all.length;
      const auto first = static_cast<ptrdiff_t>(part) * rows * (all.length + 1);
      const auto count = static_cast<ptrdiff_t>(rows) * (all.length + 1);
      cut.tokens.assign(all.tokens.begin() + first, all.tokens.begin() + first + count);
      cut.roles.assign(all.roles.begin() + first, all.roles.begin() + first + count);
      return cut;
    };
    out.push_back(learner.step(parts, make, 1e-3).loss);
  }
  if (parameters != nullptr) *parameters = learner.parameters();
  return out;
}

TEST(TrainerLearner, TakesTheSameStepsEveryTime) {
  std::vector<float> first, second;
  EXPECT_EQ(losses(2, 2, &first), losses(2, 2, &second));
  EXPECT_EQ(first, second);
}

TEST(TrainerLearner, TakesTheSameStepsHoweverTheRowsAreCut) {
  const std::vector<double> whole = losses(1, 1), cut = losses(4, 3);
  for (size_t i = 0; i < whole.size(); ++i) EXPECT_NEAR(whole[i], cut[i], 1e-4);
  EXPECT_LT(whole.back(), whole.front());
}

TEST(TrainerLearner, RefusesADeviceThatIsNotThere) {
  LearnerOptions options;
  options.device = "abacus";
  EXPECT_THROW(Learner(recall_shape(), options), Error);
}

}  // namespace
}  // namespace pith

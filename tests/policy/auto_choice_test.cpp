// The choice of `auto`, against another that tries everything, over random profiles.
#include "policy/auto_choice.h"

#include <algorithm>
#include <cmath>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/random.h"
#include "policy/policy.h"

namespace pith {
namespace {

// Numbers with few digits, so that equal ones are common.
double drawn(Random& random, double low, double high) {
  return low + (high - low) * static_cast<double>(random.below(21)) / 20;
}

Profile random_profile(Random& random) {
  Profile profile;
  const size_t lengths = 1 + random.below(4);
  for (size_t l = 0; l < lengths; ++l) {
    profile.lengths.push_back(1000.0 * std::pow(2.0, static_cast<double>(l)));
    profile.samples.push_back(4);
  }
  const size_t points = 1 + random.below(12);
  for (size_t p = 0; p < points; ++p) {
    ProfilePoint& point = profile.points.emplace_back();
    point.spec = "spec" + std::to_string(p);
    for (const double length : profile.lengths) {
      ProfileCell& cell = point.cells.emplace_back();
      cell.score = drawn(random, 0.8, 1.02);
      cell.score_error = drawn(random, 0, 0.04);
      cell.bytes = drawn(random, 10, 1000);
      cell.most_bytes = cell.bytes * drawn(random, 1, 1.5);
      cell.first_seconds = length * drawn(random, 0.5, 1.5) / 1000;
      cell.least_mass = {static_cast<float>(drawn(random, 0, 1)), 1};
    }
  }
  mark_front(profile);
  return profile;
}

struct Worth {
  double score, bytes, most, first;
};

// What a spec is worth for a prompt, written down case by case.
Worth worth_of(const Profile& profile, size_t p, double n) {
  const std::vector<double>& at = profile.lengths;
  const std::vector<ProfileCell>& cells = profile.points[p].cells;
  const size_t last = at.size() - 1;
  const auto sure = [&](size_t l) {
    return p == 0 ? 1 : std::min(1.0, std::max(0.0, cells[l].score - cells[l].score_error));
  };
  double least = 1;
  for (size_t l = 0; l <= last; ++l) least = std::min(least, sure(l));
  const auto whole = [&](size_t l) {
    return Worth{sure(l), at[l] * cells[l].bytes, at[l] * cells[l].most_bytes,
                 cells[l].first_seconds};
  };
  if (n <= at[0]) {
    Worth w = whole(0);
    if (n < at[0] * 7 / 8) w.score = least;
    return w;
  }
  if (n >= at[last]) {
    Worth w = whole(last);
    w.score = n > at[last] * 9 / 8 ? least : sure(last);
    w.bytes *= n / at[last];
    w.most *= n / at[last];
    const double each = cells[last].first_seconds / at[last];
    double slope = each / at[last];
    if (last > 0) {
      const double before = cells[last - 1].first_seconds / at[last - 1];
      slope = std::min(slope, std::max(0.0, (each - before) / (at[last] - at[last - 1])));
    }
    w.first = n * (each + slope * (n - at[last]));
    return w;
  }
  size_t l = 0;
  while (at[l + 1] < n) ++l;
  const double part = (n - at[l]) / (at[l + 1] - at[l]);
  const auto mixed = [&](double low, double high) { return n * ((1 - part) * low + part * high); };
  Worth w{};
  w.score = n == at[l + 1] ? sure(l + 1) : std::min(sure(l), sure(l + 1));
  w.bytes = mixed(cells[l].bytes, cells[l + 1].bytes);
  w.most = mixed(cells[l].most_bytes, cells[l + 1].most_bytes);
  w.first = mixed(cells[l].first_seconds / at[l], cells[l + 1].first_seconds / at[l + 1]);
  return w;
}

TEST(AutoChoice, IsTheBestOfAllThatFitOverRandomProfiles) {
  Random random(11);
  int chosen = 0, refused = 0;
  for (int round = 0; round < 4000; ++round) {
    const Profile profile = random_profile(random);
    Wish wish;
    if (random.below(2) > 0) wish.quality = drawn(random, 0.85, 0.995);
    if (random.below(2) > 0) wish.memory = 37 + static_cast<uint64_t>(drawn(random, 1e5, 4e6));
    if (random.below(3) == 0) wish.ttft = 0.00123 + drawn(random, 0.5, 10);
    const int n = static_cast<int>(drawn(random, 400, 10000));
    const bool below = n<profile.lengths.front() * 7 / 8, above = n> profile.lengths.back() * 9 / 8;
    const double quality = below || above ? 1 - (1 - wish.quality) / 2 : wish.quality;
    int best = -1;
    Worth of_best{};
    for (size_t p = 0; p < profile.points.size(); ++p) {
      const Worth w = worth_of(profile, p, n);
      if ((wish.quality > 0 && w.score < quality) ||
          (wish.memory > 0 && w.most > static_cast<double>(wish.memory)) ||
          (wish.ttft > 0 && w.first > wish.ttft))
        continue;
      const bool better =
          best < 0 || (wish.quality == 0 && w.score > of_best.score) ||
          ((wish.quality > 0 || w.score == of_best.score) && w.bytes < of_best.bytes * (1 - 1e-9));
      if (better) best = static_cast<int>(p), of_best = w;
      if (below && p == 0) break;  // everything stays if it may
    }
    try {
      const Choice choice = choose(profile, wish, n);
      ++chosen;
      ASSERT_GE(best, 0) << choice.spec;
      const auto found = std::ranges::find(profile.points, choice.spec, &ProfilePoint::spec);
      const Worth w = worth_of(profile, static_cast<size_t>(found - profile.points.begin()), n);
      EXPECT_NEAR(w.bytes, of_best.bytes, 1e-6 * of_best.bytes) << round;
      if (wish.quality == 0) {
        EXPECT_EQ(w.score, of_best.score) << round;
      }
      EXPECT_NEAR(choice.bytes, w.bytes, 1e-6 * w.bytes);
      EXPECT_NEAR(choice.most_bytes, w.most, 1e-6 * w.most);
      EXPECT_NEAR(choice.first_seconds, w.first, 1e-9 * w.first);
      EXPECT_EQ(choice.warnings.size(), below || above ? 1u : 0u);
      EXPECT_EQ(choice.floors.empty(), found == profile.points.begin());
    } catch (const Error& error) {
      ++refused;
      EXPECT_EQ(error.code(), Errc::bad_request);
      EXPECT_EQ(best, -1) << error.what();
    }
  }
  EXPECT_GT(chosen, 500);
  EXPECT_GT(refused, 500);
}

ProfilePoint priced(const std::string& spec, double score, double bytes, double seconds) {
  ProfilePoint point{spec, {}, false};
  for (const double length : {1024.0, 4096.0}) {
    ProfileCell& cell = point.cells.emplace_back();
    cell.score = score;
    cell.bytes = cell.most_bytes = bytes;
    cell.first_seconds = seconds * length / 4096;
    cell.least_mass = {0.75f, 0.5f, 1.0f};
  }
  return point;
}

Profile three_points() {
  Profile profile;
  profile.lengths = {1024, 4096};
  profile.samples = {4, 4};
  profile.points = {priced("full", 1, 1024, 4), priced("half", 0.99, 512, 4),
                    priced("tenth", 0.9, 102.4, 2)};
  return profile;
}

std::string told_when_refused(const Wish& wish, int tokens) {
  try {
    return "chose " + choose(three_points(), wish, tokens).spec;
  } catch (const Error& error) {
    return error.what();
  }
}

TEST(AutoChoice, RefusesWhatNothingGivesAndSaysWhatIsNearest) {
  EXPECT_EQ(told_when_refused({.memory = uint64_t{1} << 21, .quality = 0.98}, 4096), "chose half");
  EXPECT_EQ(told_when_refused({.memory = uint64_t{1} << 20, .quality = 0.98}, 4096),
            "auto: nothing that was measured gives 0.98 of the full cache's score and 1 MiB for a "
            "prompt of 4,096 tokens; 'tenth' keeps 0.9 of the full cache's score and keeps to the "
            "rest, 'half' takes 2 MiB and keeps to the rest");
  EXPECT_EQ(told_when_refused({.memory = 100 << 10}, 4096),
            "auto: nothing that was measured gives 100 KiB for a prompt of 4,096 tokens; 'tenth' "
            "takes 409.6 KiB");
  EXPECT_EQ(told_when_refused({.ttft = 1}, 4096),
            "auto: nothing that was measured gives 1 s to the first token for a prompt of 4,096 "
            "tokens; 'tenth' takes 2 s");
  // No two of three go together.
  EXPECT_EQ(told_when_refused({.memory = 100 << 10, .quality = 0.98, .ttft = 1}, 4096),
            "auto: nothing that was measured gives 0.98 of the full cache's score and 100 KiB and "
            "1 s to the first token for a prompt of 4,096 tokens; 'full' keeps 1 of the full "
            "cache's score, 'tenth' takes 409.6 KiB, 'tenth' takes 2 s");
}

TEST(AutoChoice, IsCarefulAndWarnsWhereNothingWasMeasured) {
  const Profile profile = three_points();
  const Choice inside = choose(profile, {.quality = 0.99}, 2000);
  EXPECT_EQ(inside.spec, "half");
  EXPECT_EQ(inside.floors, (std::vector<float>{0.75f - 0.02f, 0.5f - 0.02f, 1.0f - 0.02f}));
  const Choice longer = choose(profile, {.quality = 0.98}, 100'000);
  EXPECT_EQ(longer.spec, "half");
  EXPECT_EQ(longer.warnings.at(0),
            "auto: nothing was measured for a prompt of 100,000 tokens, only from 1,024 to 4,096; "
            "'half' is a guess from 4,096; `pith calibrate profile --lengths` measures more");
  EXPECT_EQ(choose(profile, {.quality = 0.985}, 100'000).spec, "full");
  const Choice shorter = choose(profile, {.quality = 0.5}, 30);
  EXPECT_EQ(shorter.spec, "full");
  EXPECT_EQ(shorter.warnings.size(), 1u);
  EXPECT_TRUE(shorter.floors.empty());
  EXPECT_EQ(choose(profile, {.quality = 0.5, .tokens = 4000}, 30).spec, "tenth")
      << "the session is to hold more than its first prompt";
}

TEST(AutoChoice, KeepsEverythingWhereNothingMayBeLost) {
  Profile profile = three_points();
  profile.points[1].cells[0].score = profile.points[1].cells[1].score = 1;
  EXPECT_EQ(choose(profile, {.quality = 1}, 2000).spec, "full")
      << "a measurement cannot promise it of anything else";
  EXPECT_EQ(choose(profile, {.quality = 0.999}, 2000).spec, "half");
}

TEST(AutoChoice, FindsTheFront) {
  Profile profile = three_points();
  profile.points.push_back(priced("worse", 0.9, 200, 1));
  mark_front(profile);
  std::vector<bool> front;
  for (const ProfilePoint& p : profile.points) front.push_back(p.front);
  EXPECT_EQ(front, (std::vector<bool>{true, true, true, false}));
}

}  // namespace
}  // namespace pith

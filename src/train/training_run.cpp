#include "train/training_run.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "base/error.h"
#include "base/output_file.h"

namespace pith {
namespace {

using Clock = std::chrono::steady_clock;

// The last of the points, with the mean loss and all targets.
CurvePoint mean_of(const std::vector<CurvePoint>& points) {
  CurvePoint mean = points.back();
  mean.loss = 0;
  mean.score = {};
  for (const CurvePoint& point : points) {
    mean.loss += point.loss / static_cast<double>(points.size());
    mean.score += point.score;
  }
  return mean;
}

}  // namespace

TrainingRun::TrainingRun(RunPlan plan, Monitor& monitor,
                         const std::function<void(const CurvePoint&)>& report)
    : plan_(std::move(plan)), monitor_(monitor), report_(report) {}

const std::string& TrainingRun::make_folder() const {
  std::error_code error;
  std::filesystem::create_directories(plan_.folder, error);
  if (error) throw Error(Errc::io, plan_.folder + ": cannot be made: " + error.message());
  return plan_.folder;
}

std::string TrainingRun::path(const std::string& name) const {
  return (std::filesystem::path(plan_.folder) / name).string();
}

void TrainingRun::go_on(int64_t steps, int64_t tokens, double seconds) {
  steps_ = steps;
  tokens_ = tokens;
  seconds_ = seconds;
}

double TrainingRun::elapsed() const {
  return seconds_ + std::chrono::duration<double>(Clock::now() - started_).count();
}

bool TrainingRun::finished() const {
  const auto [done, total] = progress();
  return done >= total;
}

void TrainingRun::complete(CurvePoint& point) const {
  point.step = steps_;
  point.tokens = tokens_;
  point.seconds = elapsed();
}

CurvePoint TrainingRun::step() {
  int64_t learnt = 0;
  CurvePoint point = learn(learnt);
  ++steps_;
  tokens_ += learnt;
  complete(point);
  return point;
}

void TrainingRun::measure() {
  CurvePoint point = measured();
  point.held_out = true;
  complete(point);
  curve_->add(point);
  report_(point);
}

void TrainingRun::save() {
  save_state();
  write_file(path("loss.svg"), curve_svg(curve_->points(), plan_.name));
}

void TrainingRun::go() {
  curve_.emplace(path("loss.csv"), steps_);
  started_ = Clock::now();
  auto saved = started_;
  if (steps_ == 0) measure();
  int64_t last = plan_.last_step;
  if (plan_.stop_after > 0) last = std::min(last, steps_ + plan_.stop_after);
  std::vector<CurvePoint> row;
  while (!finished() && steps_ < last) {
    if (monitor_.stopped()) {
      save();
      monitor_.check();
    }
    row.push_back(step());
    report_(row.back());
    const bool whole = steps_ % plan_.steps_per_row == 0;
    if (whole || steps_ == last) {
      curve_->add(mean_of(row));
      row.clear();
    }
    if (measures_now()) measure();
    // Only between rows of the curve, so that a run that was killed writes the same rows again.
    if (whole && Clock::now() - saved > std::chrono::seconds(plan_.checkpoint_seconds)) {
      save();
      saved = Clock::now();
    }
    const auto [done, total] = progress();
    monitor_.progress(plan_.work, done, total);
  }
  save();
  if (finished()) finish();
}

}  // namespace pith

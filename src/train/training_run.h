// What all training runs do in the same way: the loop over steps, the curve, checkpoints, and going
// on from them. A run lies in one folder:
//
//   checkpoint.gguf    its state
//   loss.csv loss.svg  what it has come to
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "base/progress.h"
#include "train/loss_curve.h"

namespace pith {

// How a run is reported and kept.
struct RunPlan {
  std::string name, folder;
  const char* work;                                         // as the monitor hears it
  int64_t steps_per_row = 1;                                // of loss.csv
  int64_t last_step = std::numeric_limits<int64_t>::max();  // of all starts, where it is known
  int64_t stop_after = 0;                                   // steps of this start; 0: to the end
  int checkpoint_seconds = 600;
};

class TrainingRun {
 public:
  virtual ~TrainingRun() = default;
  TrainingRun(const TrainingRun&) = delete;
  TrainingRun& operator=(const TrainingRun&) = delete;

  // To the end, or as far as the plan lets this start go. Stopped by the monitor, it leaves a
  // checkpoint and throws interrupted.
  void go();

 protected:
  // `report` hears of every step and of every measurement; it and the monitor outlive the run.
  TrainingRun(RunPlan plan, Monitor& monitor, const std::function<void(const CurvePoint&)>& report);

  const std::string& make_folder() const;  // throws io
  std::string path(const std::string& name) const;
  std::string checkpoint() const { return path("checkpoint.gguf"); }
  // Where a checkpoint was read: the run goes on from there.
  void go_on(int64_t steps, int64_t tokens, double seconds);

  int64_t steps() const { return steps_; }
  int64_t tokens() const { return tokens_; }  // learnt from
  double elapsed() const;                     // seconds, over all starts
  void measure();                             // and write it down

  struct Progress {
    int64_t done, total;
  };

 private:
  virtual Progress progress() const = 0;  // done once it is total, or more
  // One step; adds the tokens it learnt from to `learnt`. Here and in `measured`, length, rate,
  // loss and score of the point are set.
  virtual CurvePoint learn(int64_t& learnt) = 0;
  virtual bool measures_now() const = 0;
  virtual CurvePoint measured() = 0;  // of what is held out
  virtual void save_state() = 0;
  virtual void finish() {}  // behind the last checkpoint

  CurvePoint step();
  void complete(CurvePoint& point) const;
  void save();
  bool finished() const;

  const RunPlan plan_;
  Monitor& monitor_;
  const std::function<void(const CurvePoint&)>& report_;
  std::optional<CurveFile> curve_;
  int64_t steps_ = 0, tokens_ = 0;
  double seconds_ = 0;  // of earlier starts
  std::chrono::steady_clock::time_point started_;
};

}  // namespace pith

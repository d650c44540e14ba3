// What all calibrations share: results that join others in one file with a note of where they come
// from, and sums that survive a kill.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/progress.h"
#include "policy/calibration.h"
#include "policy/policy.h"

namespace pith {

class Engine;

// Where a calibration's numbers come from; told by `pith inspect`.
struct CalibrationOrigin {
  std::string kind;              // "heads": its tensors are named heads.*
  std::string made_by;           // the command
  std::string text_digest = {};  // of the text it read; empty: none
  uint64_t seed = 0;
  std::vector<CalibrationNote> notes = {};  // their names begin with the kind, too
};

// Sixteen hex digits that name a text or token ids.
std::string text_digest(std::span<const std::byte> bytes);
std::string text_digest(std::span<const std::vector<int32_t>> prompts);

// Writes tensors into the calibration file at `path`, which need not exist. Those of the same kind
// are replaced, those of other kinds stay with their origins. Throws bad_file, and leaves the file
// alone, if it is something else or belongs to another model.
void add_calibration(const std::string& path, std::string_view model_digest,
                     const CalibrationOrigin& origin, std::span<const CalibrationTensor> tensors);

// Sums over the samples of a run. With a path, they are written there after every sample; a run
// that is begun again with the same signature (whatever decides the numbers) goes on behind the
// last sample, to the same bits. Sums are floats, so that the file holds exactly what is in memory.
class SampleSums {
 public:
  // `zero` names and shapes the sums. A file of another signature is overwritten.
  SampleSums(std::string path, std::string signature, std::vector<CalibrationTensor> zero);

  int done() const { return done_; }  // samples
  std::span<float> at(size_t tensor) { return sums_[tensor].values; }
  std::span<const float> at(size_t tensor) const { return sums_[tensor].values; }
  void finish_sample();  // one more, and saves

 private:
  void save() const;
  std::string path_, signature_;
  std::vector<CalibrationTensor> sums_;
  int done_ = 0;
};

// Reads a prompt with the full cache, of which nothing stays, while `observer` looks on. Stops when
// the monitor says so, and reports no progress: samples are what is counted.
class PromptObserver;
void look_at_prompt(Engine& engine, std::span<const int32_t> prompt, PromptObserver& observer,
                    const Monitor& monitor);

// Passes the wish to stop on, and no progress.
class OnlyStops final : public Monitor {
 public:
  explicit OnlyStops(const Monitor& monitor) : monitor_(monitor) {}
  bool stopped() const override { return monitor_.stopped(); }

 private:
  const Monitor& monitor_;
};

}  // namespace pith

// The course of a training run as a table and as a picture.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "train/sample.h"

namespace pith {

// One row of loss.csv: what was learnt from since the row before, or, `held_out`, what the network
// says of samples that it never learns from.
struct CurvePoint {
  int64_t step = 0, tokens = 0;
  bool held_out = false;
  int length = 0;
  double rate = 0, seconds = 0;  // seconds: since the run began, over all its parts
  double loss = 0;
  BatchScore score;
};

// Appends to a CSV file, with its heading if it is new. Rows of steps after `keep_steps` are
// removed first: a run that was killed goes on from its last checkpoint.
class CurveFile {
 public:
  CurveFile(std::string path, int64_t keep_steps);  // throws io
  void add(const CurvePoint& point);
  const std::vector<CurvePoint>& points() const { return points_; }

 private:
  std::string path_;
  std::vector<CurvePoint> points_;
};

// Losses over tokens, by role; drawn are the means of neighbouring points.
std::string curve_svg(const std::vector<CurvePoint>& points, const std::string& title);

}  // namespace pith

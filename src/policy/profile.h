// What `pith calibrate profile` found out about candidate specs on one model and machine: what they
// score, hold and take as a prompt grows. `auto` chooses from it (policy/auto_choice.h).
#pragma once

#include <span>
#include <string>
#include <vector>

#include "policy/calibration.h"
#include "tensor/kv_shape.h"

namespace pith {

// One spec at one length.
struct ProfileCell {
  double score = 0;                  // of the full cache's; may be above 1
  double score_error = 0;            // its standard error
  double bytes = 0, most_bytes = 0;  // per token of a prompt, once it is read: mean and most
  double first_seconds = 0;          // from nothing to the first token of an answer
  double token_seconds = 0;          // of each token after it
  double mass = 0;                   // mean share of the last queries' attention that stays
  std::vector<float> least_mass;     // [layers, heads + 1] see KeptMass; the least of any sample
};

struct ProfilePoint {
  std::string spec;
  std::vector<ProfileCell> cells;  // [lengths]
  bool front = false;              // nothing that scores as much at every length holds less
};

struct Profile {
  std::string protocol, machine;
  std::vector<std::string> tasks;
  std::vector<double> lengths;       // mean tokens of the prompts, ascending
  std::vector<int> samples;          // [lengths]
  std::vector<ProfilePoint> points;  // the first is the full cache
};

// The points that are on the front, as ProfilePoint::front.
void mark_front(Profile& profile);

// What a calibration file holds of it. Throws bad_file, naming the file and what is wrong with it.
Profile read_profile(const Calibration& file, const KvShape& shape);

// The same as tensors and texts of kind "profile".
std::vector<CalibrationTensor> profile_tensors(const Profile& profile, const KvShape& shape);
std::vector<CalibrationNote> profile_notes(const Profile& profile);

}  // namespace pith

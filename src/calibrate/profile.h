// Measures what specs cost a model, for `auto` (policy/auto_choice.h). What a spec does with a
// sample is measured by the caller, who knows tasks; here it is planned, added up and kept.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/progress.h"
#include "policy/profile.h"

namespace pith {

struct ProfilePlan {
  std::vector<std::string> specs;  // canonical, each once; the first is the full cache
  std::vector<std::string> tasks;
  std::vector<int> lengths;  // asked for, ascending
  int samples = 4;           // of each task at each length
  uint64_t seed = 42;        // sample i has seed + i
  std::string protocol, machine;
  std::string settings;  // what else decides the numbers: model, chat template, texts
};

// What is measured when no spec is named: selections and budgets with pages of 16, 8, 4 and 2 bits.
std::vector<std::string> profile_candidates();

// One spec on one sample.
struct ProfileJob {
  int length = 0, task = 0, sample = 0, spec = 0;  // indices into the plan
  // Whether its time counts. Of the other samples work may be shared among specs.
  bool timed = false;
};
struct ProfileSample {
  double score = 0;
  double prompt_tokens = 0, bytes = 0;  // held once the prompt is read
  double first_seconds = 0, token_seconds = 0;
  double mass = 0;
  std::vector<float> kept;  // [layers, heads + 1] KeptMass::shares
};

// Runs all jobs of a plan, sample by sample and all specs of each. With a path, sums are kept there
// after every job; a run that is begun again with the same plan goes on behind the last one and
// gives the same numbers (times are those that were measured then). Reports tokens of prompts.
Profile measure_profile(const ProfilePlan& plan, const KvShape& shape,
                        const std::string& progress_file,
                        const std::function<ProfileSample(const ProfileJob&)>& measure,
                        Monitor& monitor = Monitor::silent());

// "AMD EPYC 7R13, 2 threads, avx2"
std::string machine_line(int threads);

}  // namespace pith

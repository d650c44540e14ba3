// Directions that keys and values of each head are stored in, and how many of them (ZACK,
// arXiv:2408.04107; methods.md 5.2, 5.3).
//
// Keys: the eigenvectors of the second moments of keys and of the group's queries, both after RoPE
// and QK norms, each divided by its trace. Values: the same of values and of the output
// projection's columns. What a direction is worth follows from both moments, in a unit that is
// measured for keys and values of each layer; the number of directions is the smallest that keeps
// the target, measured by generating the ends of the prompts again.
//
// Unturned keys (Palu, Eigen Attention; methods.md 5.4 B): the same of keys before RoPE, and of
// queries as these keys meet them, that is turned by the distance between both; the mean is over
// all pairs of a query and an older key of a prompt of mean length, or within the layer's window.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/progress.h"
#include "calibrate/calibration_file.h"
#include "policy/low_rank.h"

namespace pith {

struct BasisOptions {
  double target = 0.99;  // share of tokens whose most likely successor is the full cache's
  int step = 16;         // ranks are multiples of it
  int judged = 256;      // tokens of each prompt that are generated again; fewer in short ones
};

struct BasisFinding {
  HeadBases bases;
  std::vector<int> ranks;  // [2, layers, heads]
  double agreement = 1;    // measured with these ranks
  // The same where keys are stored before their rotation.
  std::vector<int> unturned_ranks;
  double unturned_agreement = 1;
};

// The moments are kept in `progress_file` from prompt to prompt. Both throw bad_request if there
// are no prompts, or none of two tokens. HeadBases::harm is in nats per token, as far as it adds
// up.
HeadBases find_bases(Engine& engine, std::span<const std::vector<int32_t>> prompts,
                     const BasisOptions& options, const std::string& progress_file = {},
                     Monitor& monitor = Monitor::silent());
BasisFinding find_basis(Engine& engine, std::span<const std::vector<int32_t>> prompts,
                        const BasisOptions& options, const std::string& progress_file = {},
                        Monitor& monitor = Monitor::silent());

// What caches in some ranks do to a model's answers, over the last `judged` tokens of all prompts.
struct RankJudgement {
  double divergence = 0;  // mean KL from the full cache's successors, nats
  double agreement = 0;   // share of tokens whose most likely successor is the full cache's
};
std::vector<RankJudgement> judge_ranks(Engine& engine,
                                       std::span<const std::vector<int32_t>> prompts, int judged,
                                       const HeadBases& bases,
                                       std::span<const std::vector<int>> candidates,
                                       const Monitor& monitor = Monitor::silent());

}  // namespace pith

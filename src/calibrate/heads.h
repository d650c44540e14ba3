// Which heads retrieve: what RazorAttention, HeadKV and the papers on retrieval heads measure
// (methods.md 3.2, 9.8), with no more memory than a prompt takes.
//
// Two kinds of samples. Random tokens, repeated: how much a token attends to its earlier
// occurrences (echo) and to what followed them (induction). Needles, a few tokens at a random depth
// of a haystack whose key comes again at the end: how much the head attends to the needle while it
// is copied (retrieval), and how often the row it attends to most is the very token that comes next
// (copy).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/progress.h"
#include "calibrate/calibration_file.h"

namespace pith {

struct HeadOptions {
  int repeated = 2500;  // random tokens of the sequence that comes four times
  int sequences = 1;    // such sequences
  int needles = 8;      // prompts with a needle
  int tokens = 2048;    // of such a prompt
  int value = 4;        // tokens of a needle's value; its key has as many
  double least = 0.1;   // induction or copy score from which a head retrieves
  uint64_t seed = 1;
};

// All [layers, query_heads].
struct HeadFinding {
  std::vector<float> echo, induction, retrieval, copy;  // between 0 and 1
  std::vector<float> logit;  // largest |scale q.k| in models with ALiBi; 0 elsewhere
  // (layer, key/value head) with a query head whose induction or copy score is at least `least`.
  std::vector<std::pair<int, int>> retrieving;
};

// The tokens of a repeating sample: the begin token, then four times the same random ones.
std::vector<int32_t> repeated_sequence(const Engine& engine, const HeadOptions& options,
                                       int sample);

// `haystack`: tokens that needles are hidden in; empty: random ones. `progress_file`: where sums
// are kept between samples, empty: nowhere. Throws bad_request where prompts are too short.
HeadFinding find_heads(Engine& engine, std::span<const int32_t> haystack,
                       const HeadOptions& options, const std::string& progress_file = {},
                       Monitor& monitor = Monitor::silent());

// heads.echo, heads.induction, heads.retrieval, heads.copy, heads.logit [layers, query_heads].
std::vector<CalibrationTensor> head_tensors(const HeadFinding& finding, const KvShape& shape);

}  // namespace pith

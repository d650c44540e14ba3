// Shapes of public models, and what else their files say. Data for synthesize.h.
#pragma once

#include <string_view>

#include "convert/hf_config.h"
#include "convert/vocabulary.h"

namespace pith {

struct Geometry {
  HfConfig config;
  bool qkv_bias = false;
  int specials = 0;  // control tokens at the end of the vocabulary
};

Geometry find_geometry(std::string_view name);  // throws bad_option, naming the known

// A byte-level vocabulary of exactly this size: the 256 bytes, merges of short English letter
// groups, unused tokens, and the control tokens of the model's family.
Vocabulary geometry_vocabulary(const Geometry& geometry);

}  // namespace pith

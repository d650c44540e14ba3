// The vocabulary of a Hugging Face folder, put together from tokenizer.model or tokenizer.json and
// what the files beside it say of special tokens and chat templates.
#pragma once

#include "base/progress.h"
#include "convert/hf_config.h"
#include "convert/vocabulary.h"

namespace pith {

// Exactly config.vocab tokens.
Vocabulary read_hf_vocabulary(const std::string& folder, const HfConfig& config, Monitor& monitor);

}  // namespace pith

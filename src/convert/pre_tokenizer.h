// Which of GGUF's named pre-tokenisers splits text as a tokenizer.json says.
#pragma once

#include <string>

#include "convert/json_file.h"

namespace pith {

// Of a byte-level BPE tokenizer.json. Empty: none of the known ones.
std::string name_pre_tokenizer(const JsonView& tokenizer);

}  // namespace pith

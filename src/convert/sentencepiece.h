// tokenizer.model: a SentencePiece model, which is a protocol buffer. Only the few fields a
// vocabulary needs are read, by a reader of our own that trusts no length.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "base/progress.h"
#include "convert/vocabulary.h"

namespace pith {

// False for files that are certainly something else, such as a list of tiktoken ranks.
bool looks_like_sentencepiece(std::span<const std::byte> bytes);

// Throws bad_file, or unsupported for models that are not BPE.
Vocabulary read_sentencepiece(std::span<const std::byte> bytes, const std::string& name,
                              Monitor& monitor);

}  // namespace pith

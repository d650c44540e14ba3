// tokenizer.json, Hugging Face's own format, as a GGUF vocabulary: byte-level BPE keeps its
// merges; BPE with byte fallback (Llama 2, Gemma) becomes SentencePiece-style scores.
#pragma once

#include "base/progress.h"
#include "convert/json_file.h"
#include "convert/vocabulary.h"

namespace pith {

// `limit`: ids are below it. Throws bad_file, or unsupported for tokenizers that are not BPE.
Vocabulary read_tokenizer_json(const JsonView& tokenizer, int64_t limit, Monitor& monitor);

// Tokens added to a vocabulary after it was trained: [{"id", "content", "special"}, ...].
void add_tokens(Vocabulary& vocabulary, const JsonView& tokenizer, int64_t limit);

}  // namespace pith

// Vocabularies small enough to know by heart, for tests of tokenizers without any data.
#pragma once

#include <initializer_list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "support/vocabularies.h"

namespace pith::test {

inline constexpr int64_t kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5,
                         kByte = 6;

// "<unk>" 0, "<s>" 1, "</s>" 2, the 256 bytes from 3 on, then `pieces` with their scores, with
// U+2581 for a blank already in place.
std::unique_ptr<OwnedSpec> small_sentencepiece(
    const std::vector<std::pair<std::string, float>>& pieces);

// The 256 bytes in order, then what `merges` make ("l o" makes "lo"), then `special` as control
// tokens. Pre-tokeniser "gpt-2".
std::unique_ptr<OwnedSpec> small_byte_level(const std::vector<std::string>& merges,
                                            const std::vector<std::string>& special = {});

// One more token at the end; its id.
int32_t add_token(OwnedSpec& owned, std::string name, int64_t type, float score = 0);

// A blank as SentencePiece names spell it.
inline const std::string kMark = "\xe2\x96\x81";

}  // namespace pith::test

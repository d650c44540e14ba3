// The words of the recall model: two-syllable words that a SentencePiece-style tokenizer puts
// together from the pieces listed before them, so that text works as well as token ids. The
// vocabulary is the same for every seed.
//
//   names    "Luni"   capitalised; keys. The model never answers one.
//   values   "toru"   answers; used for nothing else
//   fillers  "hiri"   the haystack
#pragma once

#include <cstdint>

#include "convert/vocabulary.h"

namespace pith {

struct RecallWords {
  static constexpr int32_t kUnknown = 0, kBegin = 1, kEnd = 2;
  static constexpr int32_t kBytes = 3;      // 256 of them
  static constexpr int32_t kLetters = 259;  // the space mark, letters, punctuation, digits
  static constexpr int32_t kPieces = 330;   // parts of words
  static constexpr int32_t kNames = 602, kValues = 1602, kFillers = 2602;
  static constexpr int32_t kSize = 4096;
  static constexpr int kNameCount = kValues - kNames, kValueCount = kFillers - kValues,
                       kFillerCount = kSize - kFillers;
  static constexpr int32_t kFullStop = kLetters + 1 + 52;

  static bool is_name(int32_t token) { return token >= kNames && token < kValues; }
  // After which nothing is looked up: ends of sentences and of the text.
  static bool ends_sentence(int32_t token) {
    return token == kEnd || token == kBytes + '\n' || (token >= kFullStop && token < kFullStop + 3);
  }
};

Vocabulary recall_vocabulary();

}  // namespace pith

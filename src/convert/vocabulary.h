// A vocabulary on its way into a GGUF file, wherever it came from.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "gguf/gguf.h"

namespace pith {

// The numbers of tokenizer.ggml.token_type.
enum class TokenKind : int32_t {
  normal = 1,
  unknown = 2,
  control = 3,
  user_defined = 4,
  unused = 5,
  byte = 6,
};

struct Vocabulary {
  std::string model;  // "llama" (SentencePiece-style) or "gpt2" (byte-level BPE)
  std::string pre = "default";
  std::vector<std::string> tokens;
  std::vector<TokenKind> kinds;     // [tokens]
  std::vector<float> scores;        // [tokens] for "llama"; empty for "gpt2"
  std::vector<std::string> merges;  // "left right", for "gpt2"
  int32_t begin = -1, end = -1, unknown = -1, padding = -1, end_of_turn = -1;  // -1: none
  bool add_begin = false, add_end = false;
  bool add_space_prefix = false;                                     // "llama" only
  std::string chat_template;                                         // empty: none
  std::vector<std::pair<std::string, std::string>> named_templates;  // besides chat_template

  int size() const { return static_cast<int>(tokens.size()); }
  // Of tokens that no merge may make: far below every learned score.
  static constexpr float kNeverMerged = -1e9f;
  // Sets token `id`, growing the vocabulary with unused tokens up to it.
  void set(int32_t id, std::string text, TokenKind kind, float score = 0);
  void pad_to(int size);  // with unused tokens "[PAD17]"
};

// A token matched in text as a whole: special ones only when asked to.
void add_token(Vocabulary& vocabulary, int32_t id, std::string text, bool special);

void write_vocabulary(GgufWriter& out, const Vocabulary& vocabulary);

}  // namespace pith

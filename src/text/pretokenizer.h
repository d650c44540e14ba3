// Text to words: what byte-level BPE merges within and never across. Each name a GGUF file may
// carry in tokenizer.ggml.pre stands for a list of regular expressions; every expression splits
// the pieces its predecessors left into its matches and what lies between them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace pith {

struct Word {
  size_t begin, bytes;
};

// What a name stands for.
struct PreTokenizerRule {
  std::string_view names;  // separated by blanks
  std::vector<std::string_view> patterns;
  bool whole_words = false;  // a word that is a token is that token, whatever the merges say
  bool adds_begin = false;   // unless the file says otherwise
};

// Throws unsupported, with the known names, if there is none. `source` is named in the message.
const PreTokenizerRule& find_pre_tokenizer(std::string_view name, const std::string& source);
// All of them, sorted.
std::vector<std::string_view> pre_tokenizer_names();
// The name for a file from before there were names.
std::string_view pre_tokenizer_of_architecture(std::string_view architecture);

// Compiled once; any number of threads may split.
class PreTokenizer {
 public:
  explicit PreTokenizer(const PreTokenizerRule& rule);
  PreTokenizer(const PreTokenizer&) = delete;
  PreTokenizer& operator=(const PreTokenizer&) = delete;
  ~PreTokenizer();

  // Words in order, without gaps; their bytes are the text. A run of bytes that is not UTF-8 is a
  // word of its own. Linear in the text.
  std::vector<Word> split(std::string_view text) const;

 private:
  struct Expression;
  std::vector<std::unique_ptr<Expression>> expressions_;
};

}  // namespace pith

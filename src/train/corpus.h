// Texts to train on and texts held out: plain text files, flowed into paragraphs and turned into
// tokens once.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/progress.h"
#include "base/random.h"
#include "text/tokenizer.h"

namespace pith {

struct TextFile {
  std::string name;  // without folder and ending
  std::string text;  // flowed
};

// Lines that were broken to fit a page become paragraphs, runs of blanks one blank.
std::string flow_text(std::string_view text);

// All *.txt files of the folders, in the order of their names. Throws io.
std::vector<TextFile> read_texts(std::span<const std::string> folders);

// Documents as tokens, end to end.
class Corpus {
 public:
  Corpus(std::span<const TextFile* const> files, const Tokenizer& tokenizer, Monitor& monitor);

  std::span<const uint16_t> tokens() const { return tokens_; }
  // `count` tokens of one document (fewer where it ends before), from the begin of a sentence.
  std::span<const uint16_t> passage(Random& random, int count) const;
  // A word of letters from anywhere, common ones more often, lower case; between 5 and 12 letters.
  std::string word(Random& random, const Tokenizer& tokenizer) const;
  // How often each token occurs, as a share of all.
  std::vector<float> shares() const;
  bool begins_sentence(size_t at) const;  // tokens()[at]

 private:
  std::vector<uint16_t> tokens_;
  std::vector<size_t> ends_;                                      // of documents
  std::vector<uint8_t> ends_sentence_, begins_word_, ends_line_;  // [vocab]
};

}  // namespace pith

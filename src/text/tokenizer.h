// Text to tokens and back, from the vocabulary a GGUF file carries: SentencePiece-style BPE with
// byte fallback ("llama"), byte-level BPE with the pre-tokenisers GGUF names ("gpt2").
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace pith {

class GgufFile;

class Tokenizer {
 public:
  // Throws bad_file, unsupported. The tokenizer does not refer to the file afterwards.
  static std::unique_ptr<Tokenizer> load(const GgufFile& file);
  virtual ~Tokenizer() = default;

  // No begin or end token is added. With parse_special, the text of special tokens ("<s>",
  // "<|eot_id|>") becomes those tokens; without, it is text like any other. User-defined tokens
  // are always taken. Any bytes may come: those that are not UTF-8 survive a round trip where the
  // vocabulary has a token per byte, and become U+FFFD where it lacks them.
  virtual std::vector<int32_t> encode(std::string_view text, bool parse_special) const = 0;
  // Text that goes on right behind other text: encode, but a SentencePiece model puts no blank in
  // front of it.
  virtual std::vector<int32_t> encode_more(std::string_view text, bool parse_special) const = 0;
  // encode with the begin (and end) token the model was trained with, each once: a template that
  // spells one out adds no second.
  std::vector<int32_t> encode_prompt(std::string_view text, bool parse_special) const;
  // Bytes of one token; not necessarily whole characters. Control tokens have none.
  virtual std::string_view piece(int32_t token) const = 0;
  // The token's name in the vocabulary, for listings: "<s>", U+2581 "the".
  virtual std::string_view name(int32_t token) const = 0;
  virtual int32_t find(std::string_view name) const = 0;  // the token of that name; -1: none
  // All of them; removes the space a SentencePiece model puts in front of every stretch of text.
  virtual std::string decode(const std::vector<int32_t>& tokens) const = 0;

  virtual int size() const = 0;
  virtual bool ends_generation(int32_t token) const = 0;
  virtual int32_t begin_token() const = 0;  // -1: none
  virtual int32_t end_token() const = 0;    // -1: none
  virtual bool adds_begin() const = 0;
  virtual bool adds_end() const = 0;
};

// Gives out only whole UTF-8 characters of a stream of pieces; the rest waits for the next piece.
// Bytes that cannot become a character pass unchanged: all that was fed comes out, in order.
class Utf8Stream {
 public:
  std::string feed(std::string_view piece);
  std::string flush();  // what is left at the end, broken or not

 private:
  std::string waiting_;
};

}  // namespace pith

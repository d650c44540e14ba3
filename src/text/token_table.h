// A vocabulary as a model file states it, and the checked form both tokenizers stand on: names,
// pieces, types, special tokens. A TokenTable owns its text; nothing points into the file.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/tokenizer.h"

namespace pith {

// What a file says, unchecked. Views need to live only until the tokenizer is made.
struct VocabularySpec {
  std::string source = "vocabulary";    // named in messages: the file
  std::string_view model;               // "llama" or "gpt2"
  std::optional<std::string_view> pre;  // of "gpt2"; nothing: guessed from the architecture
  std::string_view architecture;
  std::vector<std::string_view> tokens;
  std::vector<float> scores;             // of "llama": one per token
  std::vector<int64_t> types;            // TokenType, one per token; empty: all normal
  std::vector<std::string_view> merges;  // of "gpt2": "left right", best first
  std::optional<int64_t> begin, end, unknown;
  std::vector<int64_t> more_ends;  // further tokens that end a generation: of a turn, a message
  std::optional<bool> adds_begin, adds_end, adds_space;
};

VocabularySpec read_vocabulary(const GgufFile& file);
// Throws bad_file where the parts contradict each other, unsupported for another model.
std::unique_ptr<Tokenizer> make_tokenizer(const VocabularySpec& spec);

enum class TokenType : uint8_t {
  undefined = 0,
  normal = 1,
  unknown = 2,
  control = 3,
  user_defined = 4,
  unused = 5,
  byte = 6,
};

// How names spell pieces: U+2581 for a blank and "<0x0A>" for a byte, or a letter for every byte.
enum class Spelling { marked_blanks, byte_letters };

// Many short texts in one string.
class TextList {
 public:
  void push_back(std::string_view text) {
    chars_ += text;
    ends_.push_back(chars_.size());
  }
  std::string_view operator[](size_t i) const {
    const size_t begin = i == 0 ? 0 : ends_[i - 1];
    return std::string_view(chars_).substr(begin, ends_[i] - begin);
  }
  size_t size() const { return ends_.size(); }

 private:
  std::string chars_;
  std::vector<size_t> ends_;
};

class TokenTable {
 public:
  TokenTable(const VocabularySpec& spec, Spelling spelling);
  TokenTable(const TokenTable&) = delete;  // the maps hold views of the lists
  TokenTable& operator=(const TokenTable&) = delete;

  int size() const { return static_cast<int>(types_.size()); }
  TokenType type(int32_t token) const { return types_[token]; }
  std::string_view name(int32_t token) const { return names_[token]; }
  std::string_view piece(int32_t token) const { return pieces_[token]; }
  // By name, any type; by piece, normal ones ("llama": unused ones too). -1: none.
  int32_t find(std::string_view name) const { return look_up(by_name_, name); }
  int32_t find_piece(std::string_view piece) const { return look_up(by_piece_, piece); }
  int32_t byte(uint8_t value) const { return bytes_[value]; }  // -1: none
  size_t longest_piece() const { return longest_piece_; }      // of those find_piece knows

  int32_t begin() const { return begin_; }
  int32_t end() const { return end_; }
  int32_t unknown() const { return unknown_; }
  bool ends_generation(int32_t token) const { return ends_[token]; }
  // Set apart from text before it is merged, with parse_special only unless user-defined.
  bool is_special(int32_t token) const {
    return types_[token] == TokenType::control || types_[token] == TokenType::unknown ||
           types_[token] == TokenType::user_defined;
  }
  // A user-defined token is found by what it stands for, the others by their names.
  std::string_view special_text(int32_t token) const {
    return types_[token] == TokenType::user_defined ? pieces_[token] : names_[token];
  }
  // The longest special token whose text `text` begins with; -1: none.
  int32_t match_special(std::string_view text, bool parse_special) const;

  [[noreturn]] static void fail(const VocabularySpec& spec, const std::string& what);

 private:
  using Map = std::unordered_map<std::string_view, int32_t>;
  static int32_t look_up(const Map& map, std::string_view text) {
    const auto found = map.find(text);
    return found == map.end() ? -1 : found->second;
  }
  void read_tokens(const VocabularySpec& spec, Spelling spelling);
  void push_piece(const VocabularySpec& spec, Spelling spelling, int32_t token);
  void read_special(const VocabularySpec& spec);
  void index_special();

  TextList names_, pieces_;
  std::vector<TokenType> types_;
  std::vector<bool> ends_;
  Map by_name_, by_piece_;
  int32_t bytes_[256];
  size_t longest_piece_ = 0;
  int32_t begin_ = -1, end_ = -1, unknown_ = -1;
  // Texts of special tokens, sorted; those that begin with byte b are [first_[b], first_[b + 1]).
  std::vector<std::pair<std::string_view, int32_t>> special_;
  uint32_t first_[257];
};

// Shared by both tokenizers: everything but how plain text becomes tokens.
class VocabularyTokenizer : public Tokenizer {
 public:
  std::vector<int32_t> encode(std::string_view text, bool parse_special) const final {
    return encode_from(text, parse_special, /*first=*/true);
  }
  std::vector<int32_t> encode_more(std::string_view text, bool parse_special) const final {
    return encode_from(text, parse_special, /*first=*/false);
  }
  std::string_view piece(int32_t token) const final;
  std::string_view name(int32_t token) const final;
  int32_t find(std::string_view name) const final { return table_.find(name); }
  int size() const final { return table_.size(); }
  bool ends_generation(int32_t token) const final;
  int32_t begin_token() const final { return table_.begin(); }
  int32_t end_token() const final { return table_.end(); }
  bool adds_begin() const final { return adds_begin_; }
  bool adds_end() const final { return adds_end_; }

 protected:
  VocabularyTokenizer(const VocabularySpec& spec, Spelling spelling, bool adds_begin);
  // What one call of encode carries from fragment to fragment.
  struct Scratch {
    virtual ~Scratch() = default;
  };
  virtual std::unique_ptr<Scratch> make_scratch() const = 0;
  // A stretch of text without special tokens, never empty. `first`: nothing, or a special token,
  // stands before it.
  virtual void encode_text(std::string_view text, bool first, Scratch& scratch,
                           std::vector<int32_t>& out) const = 0;

  const TokenTable table_;
  bool skips_blanks_after_special_ = false;

 private:
  std::vector<int32_t> encode_from(std::string_view text, bool parse_special, bool first) const;

  bool adds_begin_, adds_end_;
};

std::unique_ptr<Tokenizer> make_byte_level_bpe(const VocabularySpec& spec);
std::unique_ptr<Tokenizer> make_sentencepiece(const VocabularySpec& spec);

}  // namespace pith

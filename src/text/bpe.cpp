// Byte-level BPE ("gpt2"): text is split into words, every byte of a word is a token, and pairs of
// tokens become one in the order of the model's list of merges.
#include <bit>

#include "base/error.h"
#include "gguf/names.h"
#include "text/merges.h"
#include "text/pretokenizer.h"
#include "text/token_table.h"
#include "text/utf8.h"

namespace pith {
namespace {

// Pairs of tokens to what they become; open addressing, at most half full.
class PairTable {
 public:
  explicit PairTable(size_t pairs)
      : slots_(std::bit_ceil(2 * pairs + 2)), shift_(64 - std::countr_zero(slots_.size())) {}

  // The first entry of a pair stays.
  void add(int32_t left, int32_t right, MergedPair merged) {
    Slot& slot = slots_[place(key_of(left, right))];
    if (slot.key != kEmpty) return;
    slot = {key_of(left, right), merged};
  }
  MergedPair find(int32_t left, int32_t right) const {
    return slots_[place(key_of(left, right))].merged;
  }

 private:
  static constexpr uint64_t kEmpty = UINT64_MAX;  // tokens are not negative
  struct Slot {
    uint64_t key = kEmpty;
    MergedPair merged;
  };
  static uint64_t key_of(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  size_t place(uint64_t key) const {
    const size_t mask = slots_.size() - 1;
    size_t at = key * 0x9e3779b97f4a7c15u >> shift_;
    while (slots_[at].key != key && slots_[at].key != kEmpty) at = (at + 1) & mask;
    return at;
  }
  std::vector<Slot> slots_;
  int shift_;
};

class ByteLevelBpe final : public VocabularyTokenizer {
 public:
  ByteLevelBpe(const VocabularySpec& spec, const PreTokenizerRule& rule)
      : VocabularyTokenizer(spec, Spelling::byte_letters, rule.adds_begin),
        splitter_(rule),
        whole_words_(rule.whole_words),
        pairs_(spec.merges.size()) {
    if (spec.merges.empty() && table_.longest_piece() > 1)
      TokenTable::fail(spec,
                       "tokenizer.ggml.merges is missing or empty, so byte-level BPE ('gpt2') "
                       "cannot join bytes to tokens; convert the model again from a folder whose "
                       "tokenizer.json has its merges");
    for (size_t i = 0; i < spec.merges.size(); ++i) add_merge(spec, i);
    for (int byte = 0; byte < 256; ++byte) lacks_bytes_ |= table_.byte(byte) < 0;
  }

  std::string decode(const std::vector<int32_t>& tokens) const override {
    std::string text;
    for (const int32_t token : tokens) text += piece(token);
    return text;
  }

 protected:
  // A word seen before is copied from where its tokens lie in the output.
  struct Words final : Scratch {
    struct Place {
      size_t begin, tokens;
    };
    std::unordered_map<std::string_view, Place> seen;
    Merger merger;
  };

  std::unique_ptr<Scratch> make_scratch() const override { return std::make_unique<Words>(); }

  void encode_text(std::string_view text, bool, Scratch& scratch,
                   std::vector<int32_t>& out) const override {
    auto& words = static_cast<Words&>(scratch);
    for (const Word& word : splitter_.split(text))
      encode_word(text.substr(word.begin, word.bytes), words, out);
  }

 private:
  static constexpr size_t kLongestKeptWord = 48;

  void add_merge(const VocabularySpec& spec, size_t i) {
    const std::string_view merge = spec.merges[i];
    const size_t blank = merge.find(' ', 1);
    const std::string place = "tokenizer.ggml.merges[" + std::to_string(i) + "]";
    if (blank == std::string_view::npos || blank + 1 == merge.size())
      TokenTable::fail(
          spec, place + " is " + shown_name(merge) + " instead of two tokens with a blank between");
    const std::string_view left = merge.substr(0, blank), right = merge.substr(blank + 1);
    const auto token = [&](std::string_view name) {
      const int32_t found = table_.find(name);
      if (found < 0)
        TokenTable::fail(
            spec, place + " names " + shown_name(name) + ", which is no token of the vocabulary");
      return found;
    };
    const std::string both = std::string(left) + std::string(right);
    pairs_.add(token(left), token(right), {static_cast<uint32_t>(i), token(both)});
  }

  void encode_word(std::string_view word, Words& words, std::vector<int32_t>& out) const {
    const bool keeps = word.size() <= kLongestKeptWord;
    if (keeps) {
      const auto [place, added] = words.seen.try_emplace(word, Words::Place{out.size(), 0});
      if (!added) {
        const auto [begin, tokens] = place->second;
        for (size_t i = 0; i < tokens; ++i) out.push_back(out[begin + i]);
        return;
      }
    }
    const size_t begin = out.size();
    merge_word(word, words.merger, out);
    if (keeps) words.seen[word].tokens = out.size() - begin;
  }

  void merge_word(std::string_view word, Merger& merger, std::vector<int32_t>& out) const {
    if (whole_words_) {
      if (const int32_t token = table_.find_piece(word); token >= 0) {
        out.push_back(token);
        return;
      }
    }
    std::string replaced;
    if (lacks_bytes_ && utf8_length(word) == 0) word = replaced = with_replacements(word);
    merger.clear();
    for (size_t i = 0; i < word.size(); ++i)
      merger.add(static_cast<uint32_t>(i), table_.byte(static_cast<uint8_t>(word[i])));
    merger.merge([&](const Merger::Symbol& left, const Merger::Symbol& right) {
      return left.token < 0 || right.token < 0 ? MergedPair{}
                                               : pairs_.find(left.token, right.token);
    });
    for (uint32_t i = merger.first(); i != Merger::kEnd; i = merger.at(i).next)
      if (const int32_t token = merger.at(i).token; token >= 0)
        out.push_back(token);
      else if (table_.unknown() >= 0)
        out.push_back(table_.unknown());
  }

  // Of bytes that are no UTF-8, those without a token become U+FFFD.
  std::string with_replacements(std::string_view word) const {
    std::string text;
    for (const char byte : word)
      if (table_.byte(static_cast<uint8_t>(byte)) >= 0)
        text += byte;
      else
        text += "\xef\xbf\xbd";
    return text;
  }

  PreTokenizer splitter_;
  bool whole_words_;
  bool lacks_bytes_ = false;
  PairTable pairs_;
};

}  // namespace

std::unique_ptr<Tokenizer> make_byte_level_bpe(const VocabularySpec& spec) {
  const std::string_view name =
      spec.pre ? *spec.pre : pre_tokenizer_of_architecture(spec.architecture);
  return std::make_unique<ByteLevelBpe>(spec, find_pre_tokenizer(name, spec.source));
}

}  // namespace pith

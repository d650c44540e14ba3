// SentencePiece's BPE ("llama"): every character is a symbol, and the adjacent pair whose text is
// the token of the highest score becomes one. Characters without a token become their bytes.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "text/marks.h"
#include "text/merges.h"
#include "text/token_table.h"
#include "text/utf8.h"

namespace pith {
namespace {

class SentencePiece final : public VocabularyTokenizer {
 public:
  explicit SentencePiece(const VocabularySpec& spec)
      : VocabularyTokenizer(spec, Spelling::marked_blanks, /*adds_begin=*/true),
        adds_space_(spec.adds_space.value_or(true)) {
    rank_tokens(spec);
    for (int32_t token = 0; token < size(); ++token) {
      const bool unused = table_.type(token) == TokenType::unused;
      if (!unused && table_.type(token) != TokenType::normal) continue;
      has_unused_ |= unused;
      const std::string_view piece = table_.piece(token);
      for (size_t i = 1; i < piece.size(); ++i)
        blanks_only_lead_ &= piece[i] != ' ' || piece[i - 1] == ' ';
    }
    // Phi-3's tokenizer swallows the blanks after its special tokens; the file does not say so.
    skips_blanks_after_special_ = spec.architecture == "phi3";
  }

  std::string decode(const std::vector<int32_t>& tokens) const override {
    std::string text;
    bool first = true;
    for (const int32_t token : tokens) {
      std::string_view piece = this->piece(token);
      const bool special = token >= 0 && token < size() && table_.is_special(token);
      if (first && !special && adds_space_ && piece.starts_with(' ')) piece.remove_prefix(1);
      text += piece;
      first = special;
    }
    return text;
  }

 protected:
  struct Words final : Scratch {
    struct Place {
      size_t begin, tokens;
    };
    Merger merger;
    std::string text;                                         // of the fragment in hand
    std::unordered_map<std::string_view, Place> seen;         // words of it
    std::unordered_map<std::string_view, size_t> left_bytes;  // of unused tokens: where to split
  };

  std::unique_ptr<Scratch> make_scratch() const override { return std::make_unique<Words>(); }

  void encode_text(std::string_view text, bool first, Scratch& scratch,
                   std::vector<int32_t>& out) const override {
    auto& words = static_cast<Words&>(scratch);
    words.seen.clear();
    words.text.clear();
    if (adds_space_ && first) words.text += ' ';
    while (!text.empty()) {
      const size_t mark = std::min(text.find(kMarkedBlank), text.size());
      words.text += text.substr(0, mark);
      text.remove_prefix(mark);
      if (text.empty()) break;
      words.text += ' ';
      text.remove_prefix(kMarkedBlank.size());
    }
    if (!blanks_only_lead_) {
      encode_word(words.text, words, out);
      return;
    }
    // No token has a blank after anything else, so nothing merges across such a place.
    const std::string_view whole = words.text;
    for (size_t begin = 0; begin < whole.size();) {
      size_t end = std::min(whole.find_first_not_of(' ', begin), whole.size());
      end = std::min(whole.find(' ', end), whole.size());
      encode_word(whole.substr(begin, end - begin), words, out);
      begin = end;
    }
  }

 private:
  static constexpr size_t kLongestKeptWord = 48;

  // Tokens of equal score have equal ranks: of these the leftmost pair is merged first.
  void rank_tokens(const VocabularySpec& spec) {
    if (spec.scores.size() != spec.tokens.size())
      TokenTable::fail(spec, "tokenizer.ggml.scores has " + std::to_string(spec.scores.size()) +
                                 " entries for " + std::to_string(spec.tokens.size()) + " tokens");
    const auto& scores = spec.scores;
    if (const auto bad = std::ranges::find_if(scores, [](float s) { return std::isnan(s); });
        bad != scores.end())
      TokenTable::fail(spec, "tokenizer.ggml.scores[" + std::to_string(bad - scores.begin()) +
                                 "] is not a number");
    std::vector<int32_t> order(scores.size());
    std::iota(order.begin(), order.end(), 0);
    std::ranges::sort(order, [&](int32_t a, int32_t b) { return scores[a] > scores[b]; });
    ranks_.resize(scores.size());
    uint32_t rank = 0;
    for (size_t i = 0; i < order.size(); ++i) {
      if (i > 0 && scores[order[i]] != scores[order[i - 1]]) ++rank;
      ranks_[order[i]] = rank;
    }
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
    merge_word(word, words, out);
    if (keeps) words.seen[word].tokens = out.size() - begin;
  }

  void merge_word(std::string_view word, Words& words, std::vector<int32_t>& out) const {
    Merger& merger = words.merger;
    words.left_bytes.clear();
    merger.clear();
    for (size_t at = 0; at < word.size();) {
      const int length = std::max(utf8_length(word.substr(at)), 1);
      merger.add(static_cast<uint32_t>(at), table_.find_piece(word.substr(at, length)));
      at += length;
    }
    const auto bytes = static_cast<uint32_t>(word.size());
    merger.merge([&](const Merger::Symbol& left, const Merger::Symbol& right) {
      const uint32_t end = merger.end(right, bytes);
      if (end - left.begin > table_.longest_piece()) return MergedPair{};
      const std::string_view piece = word.substr(left.begin, end - left.begin);
      const int32_t token = table_.find_piece(piece);
      if (token < 0) return MergedPair{};
      if (has_unused_ && table_.type(token) == TokenType::unused)
        words.left_bytes[piece] = right.begin - left.begin;
      return MergedPair{ranks_[token], token};
    });
    for (uint32_t i = merger.first(); i != Merger::kEnd; i = merger.at(i).next) {
      const Merger::Symbol& symbol = merger.at(i);
      put(word.substr(symbol.begin, merger.end(symbol, bytes) - symbol.begin), symbol.token, words,
          out);
    }
  }

  // Unused tokens take part in merging and come apart again afterwards.
  void put(std::string_view text, int32_t token, const Words& words,
           std::vector<int32_t>& out) const {
    if (has_unused_ && token >= 0 && table_.type(token) == TokenType::unused) {
      if (const auto found = words.left_bytes.find(text); found != words.left_bytes.end()) {
        const std::string_view left = text.substr(0, found->second);
        const std::string_view right = text.substr(found->second);
        put(left, table_.find_piece(left), words, out);
        put(right, table_.find_piece(right), words, out);
        return;
      }
    }
    if (token >= 0) {
      out.push_back(token);
      return;
    }
    const bool has_bytes = std::ranges::all_of(
        text, [&](char c) { return table_.byte(static_cast<uint8_t>(c)) >= 0; });
    if (has_bytes) {
      for (const char c : text) out.push_back(table_.byte(static_cast<uint8_t>(c)));
    } else if (const int32_t unknown = table_.unknown(); unknown >= 0) {
      // A run of unknown characters is one unknown token.
      if (out.empty() || out.back() != unknown) out.push_back(unknown);
    }
  }

  bool adds_space_;
  bool has_unused_ = false;
  bool blanks_only_lead_ = true;  // in every piece
  std::vector<uint32_t> ranks_;
};

}  // namespace

std::unique_ptr<Tokenizer> make_sentencepiece(const VocabularySpec& spec) {
  // Files that do not number their special tokens name them as SentencePiece does.
  VocabularySpec named = spec;
  const auto by_name = [&](std::optional<int64_t>& id, std::string_view name) {
    const auto found = std::ranges::find(spec.tokens, name);
    if (!id && found != spec.tokens.end()) id = found - spec.tokens.begin();
  };
  by_name(named.begin, "<s>");
  by_name(named.end, "</s>");
  by_name(named.unknown, "<unk>");
  return std::make_unique<SentencePiece>(named);
}

}  // namespace pith

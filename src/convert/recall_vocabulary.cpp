#include "convert/recall_vocabulary.h"

#include "base/error.h"

namespace pith {
namespace {

constexpr std::string_view kSpaceMark = "\xe2\x96\x81";
constexpr std::string_view kConsonants = "bdfghjklmnprstvz";
constexpr std::string_view kVowels = "aeiou";
constexpr std::string_view kPunctuation = ".?!,:;'-";  // the first three end a sentence
constexpr int kSyllables = 80, kPairs = kSyllables * kSyllables;

std::string syllable(int index) {
  return {kConsonants[static_cast<size_t>(index / 5)], kVowels[static_cast<size_t>(index % 5)]};
}

std::string word(int pair) {
  return syllable(pair / kSyllables) + syllable(pair % kSyllables);
}

std::string capitalised(std::string word) {
  word[0] = static_cast<char>(word[0] - 'a' + 'A');
  return word;
}

std::string marked(const std::string& text) {
  return std::string(kSpaceMark) + text;
}

}  // namespace

// Words of four letters, consonant and vowel in turn: the only neighbours that merge are those of
// one syllable, so every order of merges ends at the same token.
Vocabulary recall_vocabulary() {
  Vocabulary v;
  v.model = "llama";
  v.begin = RecallWords::kBegin;
  v.end = RecallWords::kEnd;
  v.unknown = RecallWords::kUnknown;
  v.add_begin = true;
  v.add_space_prefix = true;
  const auto add = [&](std::string text, TokenKind kind = TokenKind::normal) {
    const int32_t id = v.size();
    const bool learned = kind == TokenKind::normal;
    v.set(id, std::move(text), kind, learned ? static_cast<float>(RecallWords::kLetters - id) : 0);
  };
  add("<unk>", TokenKind::unknown);
  add("<s>", TokenKind::control);
  add("</s>", TokenKind::control);
  static constexpr char kHex[] = "0123456789ABCDEF";
  for (int byte = 0; byte < 256; ++byte)
    add(std::string("<0x") + kHex[byte / 16] + kHex[byte % 16] + ">", TokenKind::byte);

  PITH_CHECK(v.size() == RecallWords::kLetters, "the layout of recall_vocabulary.h");
  add(std::string(kSpaceMark));
  for (char c = 'a'; c <= 'z'; ++c) add({c});
  for (char c = 'A'; c <= 'Z'; ++c) add({c});
  for (const char c : kPunctuation) add({c});
  for (char c = '0'; c <= '9'; ++c) add({c});

  PITH_CHECK(v.size() == RecallWords::kPieces, "the layout of recall_vocabulary.h");
  for (const char c : kConsonants) add(marked({c}));
  for (const char c : kConsonants) add(marked(capitalised({c})));
  for (int i = 0; i < kSyllables; ++i) add(syllable(i));
  for (int i = 0; i < kSyllables; ++i) add(marked(syllable(i)));
  for (int i = 0; i < kSyllables; ++i) add(marked(capitalised(syllable(i))));

  // Multiples of a number prime to 6400 visit every pair of syllables once, well mixed.
  PITH_CHECK(v.size() == RecallWords::kNames, "the layout of recall_vocabulary.h");
  for (int i = 0; i < RecallWords::kNameCount; ++i)
    add(marked(capitalised(word((i * 3989 + 11) % kPairs))));
  for (int i = 0; i < RecallWords::kValueCount + RecallWords::kFillerCount; ++i)
    add(marked(word((i * 2741 + 17) % kPairs)));
  PITH_CHECK(v.size() == RecallWords::kSize, "the layout of recall_vocabulary.h");
  return v;
}

}  // namespace pith

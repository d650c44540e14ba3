#include <algorithm>
#include <gtest/gtest.h>
#include <map>
#include <rapidcheck/gtest.h>

#include "support/small_vocabularies.h"
#include "text/utf8.h"

namespace pith::test {
namespace {

using Ids = std::vector<int32_t>;

constexpr int32_t kFirstByte = 3, kFirstPiece = 259;

std::vector<std::string> names(const Tokenizer& tokenizer, const Ids& tokens) {
  std::vector<std::string> out;
  for (const int32_t token : tokens) out.emplace_back(tokenizer.name(token));
  return out;
}

std::vector<std::string> encoded(const Tokenizer& tokenizer, std::string_view text,
                                 bool parse_special = false) {
  return names(tokenizer, tokenizer.encode(text, parse_special));
}

using Names = std::vector<std::string>;

std::unique_ptr<OwnedSpec> low_lower() {
  return small_sentencepiece({{kMark, -1},
                              {"l", -2},
                              {"o", -3},
                              {"w", -4},
                              {"e", -5},
                              {"r", -6},
                              {"lo", -0.5f},
                              {"low", -0.4f},
                              {kMark + "low", -0.3f},
                              {"er", -0.2f}});
}

TEST(SentencePiece, MergesThePairOfTheHighestScoreFirst) {
  const auto tokenizer = make_tokenizer(low_lower()->spec);
  EXPECT_EQ(encoded(*tokenizer, "low"), (Names{kMark + "low"}));
  EXPECT_EQ(encoded(*tokenizer, "lower low"), (Names{kMark + "low", "er", kMark + "low"}));
  EXPECT_EQ(encoded(*tokenizer, ""), Names{});
}

TEST(SentencePiece, MergesTheLeftmostOfPairsOfEqualScore) {
  const auto owned = small_sentencepiece({{kMark, 0}, {"a", 0}, {"aa", -1}});
  owned->spec.adds_space = false;
  EXPECT_EQ(encoded(*make_tokenizer(owned->spec), "aaaaa"), (Names{"aa", "aa", "a"}));
  const auto crossed = small_sentencepiece({{"a", 0}, {"b", 0}, {"c", 0}, {"ab", -1}, {"bc", -1}});
  crossed->spec.adds_space = false;
  EXPECT_EQ(encoded(*make_tokenizer(crossed->spec), "abc"), (Names{"ab", "c"}));
}

TEST(SentencePiece, PutsNoBlankInFrontOfTextThatGoesOn) {
  const auto owned = low_lower();
  const int32_t end = add_token(*owned, "<end>", kControl);
  const auto tokenizer = make_tokenizer(owned->spec);
  EXPECT_EQ(names(*tokenizer, tokenizer->encode_more("low", true)), (Names{"low"}));
  EXPECT_EQ(names(*tokenizer, tokenizer->encode_more(" low", true)), (Names{kMark + "low"}));
  // Behind a special token a new stretch begins.
  EXPECT_EQ(names(*tokenizer, tokenizer->encode_more("low<end>low", true)),
            (Names{"low", std::string(tokenizer->name(end)), kMark + "low"}));
}

TEST(SentencePiece, PutsOneBlankInFrontAndTakesItBackUnlessToldNotTo) {
  const auto owned = low_lower();
  const auto with = make_tokenizer(owned->spec);
  EXPECT_EQ(encoded(*with, " low"), (Names{kMark, kMark + "low"}));
  EXPECT_EQ(with->decode(with->encode(" low", false)), " low");
  owned->spec.adds_space = false;
  const auto without = make_tokenizer(owned->spec);
  EXPECT_EQ(encoded(*without, "low"), (Names{"low"}));
  EXPECT_EQ(encoded(*without, " low"), (Names{kMark + "low"}));
  EXPECT_EQ(without->decode(without->encode(" low", false)), " low");
}

TEST(SentencePiece, SpellsCharactersWithoutATokenAsTheirBytes) {
  const auto tokenizer = make_tokenizer(low_lower()->spec);
  EXPECT_EQ(encoded(*tokenizer, "\xe4\xb8\x80"), (Names{kMark, "<0xE4>", "<0xB8>", "<0x80>"}));
  EXPECT_EQ(tokenizer->piece(kFirstByte + 0xe4), "\xe4");
}

TEST(SentencePiece, KeepsBytesThatAreNoUtf8) {
  const auto tokenizer = make_tokenizer(low_lower()->spec);
  EXPECT_EQ(encoded(*tokenizer, "lo\xff\xe4low"), (Names{kMark, "lo", "<0xFF>", "<0xE4>", "low"}));
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("lo\xff\xe4low", false)), "lo\xff\xe4low");
}

TEST(SentencePiece, MakesOneUnknownTokenOfARunWhereThereAreNoBytes) {
  OwnedSpec owned;
  owned.spec.model = "llama";
  add_token(owned, "<unk>", kUnknown);
  add_token(owned, "a", kNormal);
  owned.spec.adds_space = false;
  const auto tokenizer = make_tokenizer(owned.spec);
  EXPECT_EQ(encoded(*tokenizer,
                    "axyz\xe4\xb8\x80"
                    "a"),
            (Names{"a", "<unk>", "a"}));
}

TEST(SentencePiece, ReadsTheMarkInTextAsABlank) {
  const auto tokenizer = make_tokenizer(low_lower()->spec);
  EXPECT_EQ(encoded(*tokenizer, "low" + kMark + "low"), encoded(*tokenizer, "low low"));
}

TEST(SentencePiece, TakesSpecialTokensOutOfTextOnlyWhenAsked) {
  const auto tokenizer = make_tokenizer(low_lower()->spec);
  EXPECT_EQ(encoded(*tokenizer, "<s>low</s>low", true),
            (Names{"<s>", kMark + "low", "</s>", kMark + "low"}));
  const Ids as_text = tokenizer->encode("<s>low", false);
  EXPECT_EQ(std::ranges::count(as_text, 1), 0);
  EXPECT_EQ(tokenizer->decode(as_text), "<s>low");
}

TEST(SentencePiece, NeverTakesTheNameOfAByteForTheByte) {
  const auto tokenizer = make_tokenizer(low_lower()->spec);
  for (const bool parse_special : {false, true}) {
    const Ids tokens = tokenizer->encode("<0x41>", parse_special);
    EXPECT_EQ(std::ranges::count(tokens, kFirstByte + 0x41), 0);
    EXPECT_EQ(tokenizer->decode(tokens), "<0x41>");
  }
}

TEST(SentencePiece, AlwaysTakesUserDefinedTokensTheLongestFirst) {
  const auto owned = low_lower();
  owned->spec.adds_space = false;
  add_token(*owned, kMark + kMark, kUserDefined);
  add_token(*owned, kMark + kMark + kMark, kUserDefined);
  add_token(*owned, "  x", kUserDefined);
  const auto tokenizer = make_tokenizer(owned->spec);
  EXPECT_EQ(encoded(*tokenizer, "low   low"), (Names{"low", kMark + kMark + kMark, "low"}));
  EXPECT_EQ(encoded(*tokenizer, "low     low"),
            (Names{"low", kMark + kMark + kMark, kMark + kMark, "low"}));
  EXPECT_EQ(encoded(*tokenizer, "  xlow"), (Names{"  x", "low"}));
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("low     low", false)), "low     low");
}

// SentencePiece merges through a token that is not to be used, then takes it apart again.
TEST(SentencePiece, MergesThroughUnusedTokensButNeverGivesThemOut) {
  const auto owned = small_sentencepiece({{"a", -9}, {"b", -9}, {"c", -9}, {"d", -9}});
  owned->spec.adds_space = false;
  add_token(*owned, "ab", kUnused, -1);
  add_token(*owned, "abc", kNormal, -2);
  add_token(*owned, "cd", kNormal, -1.5f);
  const auto tokenizer = make_tokenizer(owned->spec);
  EXPECT_EQ(encoded(*tokenizer, "abc"), (Names{"abc"}));
  EXPECT_EQ(encoded(*tokenizer, "ab"), (Names{"a", "b"}));
  EXPECT_EQ(encoded(*tokenizer, "abcd"), (Names{"a", "b", "cd"}));
}

TEST(SentencePiece, OfPhi3SwallowsTheBlanksAfterSpecialTokens) {
  const auto owned = low_lower();
  owned->spec.adds_space = false;
  owned->spec.architecture = "phi3";
  const auto tokenizer = make_tokenizer(owned->spec);
  EXPECT_EQ(encoded(*tokenizer, "<s> \n\tlow </s>", true), (Names{"<s>", "low", kMark, "</s>"}));
}

TEST(SentencePiece, NamesItsBeginAndEndTokensWhereTheFileDoesNot) {
  const auto owned = low_lower();
  owned->spec.begin.reset();
  owned->spec.end.reset();
  owned->spec.unknown.reset();
  const auto tokenizer = make_tokenizer(owned->spec);
  EXPECT_EQ(tokenizer->begin_token(), 1);
  EXPECT_EQ(tokenizer->end_token(), 2);
  EXPECT_TRUE(tokenizer->adds_begin());
  EXPECT_FALSE(tokenizer->adds_end());
}

// The definition: among all adjacent pairs of pieces whose text is a piece, join the one of the
// highest score, leftmost among equals; characters without a piece become bytes.
Ids encoded_slowly(const std::map<std::string, std::pair<int32_t, float>>& pieces,
                   std::string text) {
  std::vector<std::string> parts;
  for (size_t at = 0; at < text.size();) {
    const int length = std::max(utf8_length(std::string_view(text).substr(at)), 1);
    parts.push_back(text.substr(at, length));
    at += length;
  }
  for (;;) {
    size_t place = parts.size();
    float best = 0;
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      const auto found = pieces.find(parts[i] + parts[i + 1]);
      if (found == pieces.end()) continue;
      if (place == parts.size() || found->second.second > best)
        place = i, best = found->second.second;
    }
    if (place == parts.size()) break;
    parts[place] += parts[place + 1];
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(place) + 1);
  }
  Ids tokens;
  for (const std::string& part : parts) {
    if (const auto found = pieces.find(part); found != pieces.end())
      tokens.push_back(found->second.first);
    else
      for (const char c : part) tokens.push_back(kFirstByte + static_cast<uint8_t>(c));
  }
  return tokens;
}

// Pieces over two letters, a blank and a two-byte letter; with `inner_blanks` also pieces that
// hold a blank behind a letter, where words may not be cut apart.
void compare_with_the_definition(bool inner_blanks) {
  const auto text_of = [&](int most) {
    return *rc::gen::map(rc::gen::container<std::vector<std::string>>(
                             *rc::gen::inRange(1, most),
                             rc::gen::element<std::string>("a", "b", " ", " ", "\xc3\xa9", "\xff")),
                         [](const std::vector<std::string>& parts) {
                           std::string all;
                           for (const auto& part : parts) all += part;
                           return all;
                         });
  };
  std::map<std::string, std::pair<int32_t, float>> pieces;
  std::vector<std::pair<std::string, float>> named;
  const int count = *rc::gen::inRange(0, 30);
  for (int i = 0; i < count; ++i) {
    std::string piece = text_of(5);
    const size_t letter = piece.find_first_not_of(' ');
    if (!inner_blanks && letter != std::string::npos &&
        piece.find(' ', letter) != std::string::npos)
      continue;
    if (piece.find('\xff') != std::string::npos) continue;
    const auto score = static_cast<float>(*rc::gen::inRange(0, 10));
    if (!pieces.try_emplace(piece, kFirstPiece + static_cast<int32_t>(named.size()), score).second)
      continue;
    std::string name;
    for (const char c : piece) name += c == ' ' ? kMark : std::string(1, c);
    named.emplace_back(name, score);
  }
  const auto owned = small_sentencepiece(named);
  owned->spec.adds_space = *rc::gen::arbitrary<bool>();
  const auto tokenizer = make_tokenizer(owned->spec);
  const std::string text = text_of(80);
  const Ids tokens = tokenizer->encode(text, false);
  RC_ASSERT(tokens == encoded_slowly(pieces, (*owned->spec.adds_space ? " " : "") + text));
  RC_ASSERT(tokenizer->decode(tokens) == text);
}

RC_GTEST_PROP(SentencePiece, DoesWhatTheDefinitionSaysWhereWordsAreApart, ()) {
  compare_with_the_definition(false);
}

RC_GTEST_PROP(SentencePiece, DoesWhatTheDefinitionSaysWherePiecesSpanWords, ()) {
  compare_with_the_definition(true);
}

RC_GTEST_PROP(SentencePiece, GivesAnyBytesBack, (const std::string& text)) {
  static const auto tokenizer = make_tokenizer(low_lower()->spec);
  RC_ASSERT(tokenizer->decode(tokenizer->encode(text, false)) == text);
  RC_ASSERT(tokenizer->decode(tokenizer->encode(text + "  low" + text, false)) ==
            text + "  low" + text);
}

TEST(SentencePiece, TakesAMegabyteOfOneCharacter) {
  const auto owned = small_sentencepiece({{kMark, 0}, {kMark + kMark, -1}, {"a", 0}, {"aa", -1}});
  owned->spec.adds_space = false;
  const auto tokenizer = make_tokenizer(owned->spec);
  for (const char c : {' ', 'a', '\n'}) {
    const std::string text(1 << 20, c);
    const Ids tokens = tokenizer->encode(text, false);
    EXPECT_EQ(tokens.size(), text.size() / (c == '\n' ? 1 : 2));
    EXPECT_TRUE(tokenizer->decode(tokens) == text);
  }
}

}  // namespace
}  // namespace pith::test

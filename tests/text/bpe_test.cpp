#include <algorithm>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "support/small_vocabularies.h"
#include "text/byte_letters.h"

namespace pith::test {
namespace {

using Ids = std::vector<int32_t>;
using Names = std::vector<std::string>;

Names pieces_of(const Tokenizer& tokenizer, std::string_view text, bool parse_special = false) {
  Names out;
  for (const int32_t token : tokenizer.encode(text, parse_special))
    out.emplace_back(tokenizer.name(token));
  return out;
}

const std::string kBlank = "\xc4\xa0";  // the letter of the byte 0x20

TEST(ByteLevelBpe, MergesInTheOrderOfTheList) {
  const auto owned = small_byte_level({"l o", "lo w", "e r", kBlank + " low"});
  const auto tokenizer = make_tokenizer(owned->spec);
  EXPECT_EQ(pieces_of(*tokenizer, "lower low"), (Names{"low", "er", kBlank + "low"}));
  EXPECT_EQ(pieces_of(*tokenizer, ""), Names{});
}

TEST(ByteLevelBpe, GivesTheEarlierMergeOfAWordItsWay) {
  EXPECT_EQ(pieces_of(*make_tokenizer(small_byte_level({"b c", "a b"})->spec), "abc"),
            (Names{"a", "bc"}));
  EXPECT_EQ(pieces_of(*make_tokenizer(small_byte_level({"a b", "b c"})->spec), "abc"),
            (Names{"ab", "c"}));
  EXPECT_EQ(pieces_of(*make_tokenizer(small_byte_level({"a a"})->spec), "aaaaa"),
            (Names{"aa", "aa", "a"}));
}

TEST(ByteLevelBpe, NeverMergesAcrossWords) {
  const auto tokenizer = make_tokenizer(small_byte_level({"w " + kBlank, "! 1", "a b"})->spec);
  EXPECT_EQ(pieces_of(*tokenizer, "low low"), (Names{"l", "o", "w", kBlank, "l", "o", "w"}));
  EXPECT_EQ(pieces_of(*tokenizer, "!1ab"), (Names{"!", "1", "ab"}));
}

TEST(ByteLevelBpe, TakesAWordThatIsATokenAtOnceWhereItsPreTokeniserSaysSo) {
  const auto owned = small_byte_level({"a b"});
  add_token(*owned, "abc", kNormal);  // no merge makes it
  EXPECT_EQ(pieces_of(*make_tokenizer(owned->spec), "abc"), (Names{"ab", "c"}));
  owned->spec.pre = "llama-bpe";
  EXPECT_EQ(pieces_of(*make_tokenizer(owned->spec), "abc"), (Names{"abc"}));
  EXPECT_EQ(pieces_of(*make_tokenizer(owned->spec), "abcabc"), (Names{"ab", "c", "ab", "c"}));
}

TEST(ByteLevelBpe, TakesTheLongestSpecialTokenThatStartsFirst) {
  const auto owned = small_byte_level({}, {"<a>", "<a><b>", "<b>", "<a><b><c>!"});
  const auto tokenizer = make_tokenizer(owned->spec);
  EXPECT_EQ(pieces_of(*tokenizer, "<a><b><a><b><c>", true),
            (Names{"<a><b>", "<a><b>", "<", "c", ">"}));
  EXPECT_EQ(pieces_of(*tokenizer, "x<a><a><b><c>!<b", true),
            (Names{"x", "<a>", "<a><b><c>!", "<", "b"}));
  EXPECT_EQ(pieces_of(*tokenizer, "<b>"), (Names{"<", "b", ">"}));
}

TEST(ByteLevelBpe, TakesUserDefinedTokensEvenWhereSpecialOnesAreText) {
  const auto owned = small_byte_level({}, {"<end>"});
  add_token(*owned, "    ", kUserDefined);
  add_token(*owned, "\xc3\xb5", kUserDefined);
  const auto tokenizer = make_tokenizer(owned->spec);
  EXPECT_EQ(pieces_of(*tokenizer, "a     \xc3\xb5<end>"),
            (Names{"a", "    ", kBlank, "\xc3\xb5", "<", "e", "n", "d", ">"}));
  const std::string text = "a     \xc3\xb5<end>";
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(text, false)), text);
}

TEST(ByteLevelBpe, ControlTokensHaveANameAndNoPiece) {
  const auto tokenizer = make_tokenizer(small_byte_level({}, {"<end>"})->spec);
  EXPECT_EQ(tokenizer->name(256), "<end>");
  EXPECT_EQ(tokenizer->piece(256), "");
  EXPECT_EQ(tokenizer->find("<end>"), 256);
  EXPECT_EQ(tokenizer->find("<none>"), -1);
  EXPECT_EQ(tokenizer->decode({'a', 256, 'b'}), "ab");
}

TEST(ByteLevelBpe, ReplacesBytesItLacksOnlyInWhatIsNoUtf8) {
  auto owned = small_byte_level({});
  owned->spec.tokens.erase(owned->spec.tokens.begin() + 0xfe, owned->spec.tokens.end());
  owned->spec.types.assign(owned->spec.tokens.size(), kNormal);
  owned->spec.merges.push_back("a a");
  owned->spec.tokens.push_back("aa");
  owned->spec.types.push_back(kNormal);
  const auto tokenizer = make_tokenizer(owned->spec);
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("a\xfd\xfe\xff"
                                                "b",
                                                false)),
            "a\xfd\xef\xbf\xbd\xef\xbf\xbd"
            "b");
}

TEST(ByteLevelBpe, MarksWhatItCannotSpellAsUnknown) {
  OwnedSpec owned;
  owned.spec.model = "gpt2";
  owned.spec.pre = "gpt-2";
  for (const char* name : {"a", "b", "ab", "<unk>"}) add_token(owned, name, kNormal);
  owned.spec.types.back() = kUnknown;
  owned.spec.merges = {"a b"};
  EXPECT_EQ(pieces_of(*make_tokenizer(owned.spec), "abc"), (Names{"ab"}));
  owned.spec.unknown = 3;
  EXPECT_EQ(pieces_of(*make_tokenizer(owned.spec), "abc"), (Names{"ab", "<unk>"}));
}

TEST(ByteLevelBpe, LettersOfAllBytesAreDistinctAndLeadBack) {
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all += static_cast<char>(byte);
  EXPECT_EQ(bytes_of_letters(letters_of_bytes(all)), all);
  EXPECT_EQ(letters_of_bytes(" \n"), "\xc4\xa0\xc4\x8a");         // as GPT-2 publishes them
  EXPECT_EQ(bytes_of_letters("\xe2\x96\x81x"), "\xe2\x96\x81x");  // no letters: as they are
}

// The definition, on the words the pre-tokeniser gives for letters and blanks.
Ids merged_slowly(const std::vector<std::pair<Names, int32_t>>& merges, const std::string& word) {
  std::vector<std::pair<std::string, int32_t>> parts;
  for (const char c : word) parts.emplace_back(std::string(1, c), static_cast<uint8_t>(c));
  for (;;) {
    size_t place = parts.size(), best = merges.size();
    for (size_t i = 0; i + 1 < parts.size(); ++i)
      for (size_t m = 0; m < best; ++m)
        if (merges[m].first[0] == parts[i].first && merges[m].first[1] == parts[i + 1].first)
          place = i, best = m;
    if (place == parts.size()) break;
    parts[place] = {parts[place].first + parts[place + 1].first, merges[best].second};
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(place) + 1);
  }
  Ids tokens;
  for (const auto& part : parts) tokens.push_back(part.second);
  return tokens;
}

RC_GTEST_PROP(ByteLevelBpe, DoesWhatTheDefinitionSays, ()) {
  std::vector<std::string> spelled = {"a", "b", "c"};
  std::vector<std::pair<Names, int32_t>> merges;
  std::vector<std::string> list;
  const int count = *rc::gen::inRange(1, 20);
  for (int i = 0; i < count; ++i) {
    const std::string left = *rc::gen::elementOf(spelled), right = *rc::gen::elementOf(spelled);
    if (std::ranges::find(spelled, left + right) != spelled.end()) continue;
    merges.emplace_back(Names{left, right}, 256 + static_cast<int32_t>(list.size()));
    list.push_back(left + " " + right);
    spelled.push_back(left + right);
  }
  const auto tokenizer = make_tokenizer(small_byte_level(list)->spec);
  const auto word = *rc::gen::container<std::string>(*rc::gen::inRange(1, 70),
                                                     rc::gen::elementOf(std::string("abc")));
  const Ids expected = merged_slowly(merges, word);
  RC_ASSERT(tokenizer->encode(word, false) == expected);
  // Again in one text, where words repeat.
  Ids twice = expected;
  twice.push_back('\n');
  twice.insert(twice.end(), expected.begin(), expected.end());
  RC_ASSERT(tokenizer->encode(word + "\n" + word, false) == twice);
}

RC_GTEST_PROP(ByteLevelBpe, GivesAnyBytesBack, (const std::string& text)) {
  static const auto tokenizer =
      make_tokenizer(small_byte_level({"l o", kBlank + " " + kBlank, "\xc3\xa4 \xc2\xb8"})->spec);
  RC_ASSERT(tokenizer->decode(tokenizer->encode(text, false)) == text);
  RC_ASSERT(tokenizer->decode(tokenizer->encode(text + " lo\xe4" + text, true)) ==
            text + " lo\xe4" + text);
}

}  // namespace
}  // namespace pith::test

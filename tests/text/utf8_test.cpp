#include "text/utf8.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "text/tokenizer.h"

namespace pith {
namespace {

// Every kind of character: one to four bytes, combining marks, joiners, a flag.
const std::string kMixed =
    "a\xc3\xa9 \xe0\xa4\xa8\xe0\xa5\x8d\xe4\xb8\x80\xf0\x9f\x98\xb6\xe2\x80\x8d\xf0\x9f\x8c\xab"
    "\xef\xb8\x8f\n\xf0\x9f\x87\xaa\xf0\x9f\x87\xb8z\xf4\x8f\xbf\xbf";

bool is_surrogate(char32_t c) {
  return c >= 0xd800 && c < 0xe000;
}

TEST(Utf8, KnowsEveryCharacterAndNothingElse) {
  for (char32_t c = 0; c <= 0x10ffff; ++c) {
    std::string text;
    utf8_append(text, c);
    const int length = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    ASSERT_EQ(text.size(), static_cast<size_t>(length)) << std::hex << uint32_t{c};
    if (is_surrogate(c)) {
      ASSERT_EQ(utf8_length(text), 0) << std::hex << uint32_t{c};
      continue;
    }
    ASSERT_EQ(utf8_length(text), length) << std::hex << uint32_t{c};
    ASSERT_EQ(utf8_decode(text, length), c);
    for (int cut = 1; cut < length; ++cut) {
      ASSERT_EQ(utf8_length(text.substr(0, cut)), 0) << std::hex << uint32_t{c};
      ASSERT_EQ(utf8_unfinished(text.substr(0, cut)), cut) << std::hex << uint32_t{c};
    }
    ASSERT_EQ(utf8_unfinished(text), 0) << std::hex << uint32_t{c};
  }
}

TEST(Utf8, RefusesLongFormsStrayBytesAndWhatIsBeyondTheLastCharacter) {
  for (const char* bad : {"\x80", "\xbf", "\xc0\x80", "\xc1\xbf", "\xe0\x80\x80", "\xe0\x9f\xbf",
                          "\xf0\x80\x80\x80", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80",
                          "\xf5\x80\x80\x80", "\xff", "\xe2\x28\xa1", "\xe2\x82\x28"}) {
    EXPECT_EQ(utf8_length(bad), 0) << bad;
    EXPECT_EQ(utf8_valid_prefix(std::string("abcdefgh\xc3\xa9") + bad), 10u) << bad;
  }
}

TEST(Utf8Stream, GivesWholeCharactersWhereverTheTextIsCut) {
  for (size_t first = 0; first <= kMixed.size(); ++first)
    for (size_t second = first; second <= kMixed.size(); ++second) {
      Utf8Stream stream;
      std::string all;
      for (const std::string& piece :
           {kMixed.substr(0, first), kMixed.substr(first, second - first), kMixed.substr(second)}) {
        const std::string out = stream.feed(piece);
        ASSERT_EQ(utf8_valid_prefix(out), out.size()) << first << " " << second;
        all += out;
      }
      ASSERT_EQ(all, kMixed);
      ASSERT_EQ(stream.flush(), "");
    }
}

TEST(Utf8Stream, HoldsBackOnlyTheCharacterThatIsNotFinished) {
  Utf8Stream stream;
  EXPECT_EQ(stream.feed("ab\xf0\x9f"), "ab");
  EXPECT_EQ(stream.feed("\x98"), "");
  EXPECT_EQ(stream.feed("\x80!"), "\xf0\x9f\x98\x80!");
}

TEST(Utf8Stream, PassesBrokenBytesOnAsSoonAsTheyAreKnownToBeBroken) {
  Utf8Stream stream;
  EXPECT_EQ(stream.feed("\xff"), "\xff");
  EXPECT_EQ(stream.feed("\xe2\x96"), "");
  EXPECT_EQ(stream.feed("x"), "\xe2\x96x");
  EXPECT_EQ(stream.feed("\xe2"), "");
  EXPECT_EQ(stream.flush(), "\xe2");
  EXPECT_EQ(stream.flush(), "");
}

RC_GTEST_PROP(Utf8Stream, GivesBackAllBytesInOrder, (const std::vector<std::string>& pieces)) {
  Utf8Stream stream;
  std::string fed, given;
  for (const std::string& piece : pieces) {
    fed += piece;
    given += stream.feed(piece);
    RC_ASSERT(fed.size() - given.size() <= 3u);
  }
  given += stream.flush();
  RC_ASSERT(given == fed);
}

}  // namespace
}  // namespace pith

#include "apps/stop_strings.h"

#include <gtest/gtest.h>
#include <string>
#include <vector>

#include "base/random.h"

namespace pith {
namespace {

TEST(StopStrings, EndTheTextAcrossTheBoundariesOfTokens) {
  StopStrings stops({"\nQ:"});
  EXPECT_EQ(stops.feed("4.\n"), "4.");
  EXPECT_EQ(stops.feed("Q"), "");
  EXPECT_FALSE(stops.hit());
  EXPECT_EQ(stops.feed(": 3"), "");
  EXPECT_TRUE(stops.hit());
  EXPECT_EQ(stops.found(), "\nQ:");
  EXPECT_EQ(stops.feed("more"), "");
}

TEST(StopStrings, GiveBackWhatLookedLikeABeginningAndWasNot) {
  StopStrings stops({"</end>"});
  EXPECT_EQ(stops.feed("a</e"), "a");
  EXPECT_EQ(stops.feed("m>"), "</em>");
  EXPECT_EQ(stops.feed("</en"), "");
  EXPECT_EQ(stops.flush(), "</en");
}

TEST(StopStrings, FindAStringWithinOneThatBeginsTheSame) {
  StopStrings stops({"aab"});
  EXPECT_EQ(stops.feed("aa"), "");
  EXPECT_EQ(stops.feed("a"), "a");
  EXPECT_EQ(stops.feed("b"), "");
  EXPECT_TRUE(stops.hit());
}

TEST(StopStrings, LetEverythingThroughIfThereAreNone) {
  StopStrings stops({"", ""});
  EXPECT_EQ(stops.feed("text"), "text");
  EXPECT_EQ(stops.flush(), "");
}

// The oracle looks at every beginning of the text in turn.
size_t end_of_text(const std::string& text, const std::vector<std::string>& strings) {
  for (size_t seen = 0; seen <= text.size(); ++seen) {
    size_t start = text.npos;
    for (const std::string& stop : strings)
      if (std::string_view(text).substr(0, seen).ends_with(stop))
        start = std::min(start, seen - stop.size());
    if (start != text.npos) return start;
  }
  return text.npos;
}

TEST(StopStrings, EndTheTextAtTheSamePlaceHoweverItIsSplit) {
  Random random(7);
  for (int round = 0; round < 3000; ++round) {
    const auto word = [&](size_t most) {
      std::string text;
      for (size_t n = random.below(most + 1); n > 0; --n)
        text += static_cast<char>('a' + random.below(2));
      return text;
    };
    const std::string text = word(24);
    std::vector<std::string> strings;
    for (size_t n = 1 + random.below(3); n > 0; --n) strings.push_back(word(4) + "b");
    const size_t end = end_of_text(text, strings);
    StopStrings stops(strings);
    std::string shown;
    for (size_t at = 0; at < text.size();) {
      const size_t part = 1 + random.below(4);
      shown += stops.feed(text.substr(at, part));
      at += part;
    }
    shown += stops.flush();
    EXPECT_EQ(stops.hit(), end != text.npos) << text;
    EXPECT_EQ(shown, text.substr(0, end)) << text;
  }
}

}  // namespace
}  // namespace pith

#include "apps/progress_bar.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace pith {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

size_t characters(const std::string& text) {
  size_t count = 0;
  for (const char c : text) count += (c & 0xC0) != 0x80;
  return count;
}

TEST(ProgressBar, ShowsShareCountsSpeedAndTimeLeft) {
  const std::string line = bar_line("prefill", 8192, 32768, 4, 120, false);
  EXPECT_THAT(line, HasSubstr("prefill"));
  EXPECT_THAT(line, HasSubstr("######------------------"));
  EXPECT_THAT(line, HasSubstr("25 %"));
  EXPECT_THAT(line, HasSubstr("8,192 / 32,768"));
  EXPECT_THAT(line, HasSubstr("2,048 /s"));
  EXPECT_THAT(line, HasSubstr("12.0 s left"));
}

TEST(ProgressBar, FitsANarrowTerminalByLeavingPartsOut) {
  for (const bool blocks : {false, true})
    for (int columns = 42; columns < 140; ++columns)
      for (const int64_t done : {int64_t{0}, int64_t{1}, int64_t{17000}, int64_t{32768}})
        EXPECT_LE(characters(bar_line("prefill", done, 32768, 9, columns, blocks)),
                  static_cast<size_t>(columns));
  EXPECT_THAT(bar_line("prefill", 8192, 32768, 4, 50, false), Not(HasSubstr("left")));
}

TEST(ProgressBar, StaysWithinItsEndsWhateverItIsTold) {
  EXPECT_THAT(bar_line("x", 50, 10, 1, 100, false), HasSubstr("100 %"));
  EXPECT_THAT(bar_line("x", -5, 10, 1, 100, false), HasSubstr("  0 %"));
  EXPECT_THAT(bar_line("x", 0, 0, 0, 100, false), HasSubstr("  0 %"));
}

TEST(ProgressBar, GrowsInEighthsOfACharacterWhereBlocksAreDrawn) {
  // 3 of 192 eighths: U+258D, three eighths of a block.
  EXPECT_THAT(bar_line("x", 3, 192, 1, 100, true), HasSubstr("\xe2\x96\x8d\xe2\x96\x91"));
  EXPECT_THAT(bar_line("x", 8, 192, 1, 100, true), HasSubstr("\xe2\x96\x88\xe2\x96\x91"));
}

}  // namespace
}  // namespace pith

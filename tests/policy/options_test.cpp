#include "policy/options.h"

#include "gtest/gtest.h"
#include "policy/defaults.h"

namespace pith::test {
namespace {

Amount amount(std::string_view text) {
  Amount value;
  EXPECT_TRUE(parse_amount(text, value)) << text;
  return value;
}

TEST(Amount, IsRowsAShareOrBytesByHowItIsWritten) {
  EXPECT_EQ(amount("2048").rows, 2048);
  EXPECT_EQ(amount("1").rows, 1);
  EXPECT_EQ(amount("1.0").share, 1.0);
  EXPECT_EQ(amount("0.1").share, 0.1);
  EXPECT_EQ(amount("5e-2").share, 0.05);
  EXPECT_EQ(amount("512MiB").bytes, uint64_t{512} << 20);
  EXPECT_EQ(amount("0.5GiB").bytes, uint64_t{512} << 20);
  EXPECT_EQ(amount("3kb").bytes, 3000u);
  EXPECT_EQ(amount("7B").bytes, 7u);
}

TEST(Amount, PrintsATextThatParsesToTheSameAmount) {
  for (const std::string_view text : {"2048", "0.1", "1.0", "0.333333333333", "512MiB", "3GiB",
                                      "1025KiB", "1000001B", "1TiB", "1e-05"})
    EXPECT_EQ(amount(text).text(), text);
}

TEST(Amount, OfAPromptIsRoundedToTheNearestRow) {
  EXPECT_EQ(amount("0.1").of(100), 10);
  EXPECT_EQ(amount("0.1").of(105), 11);  // half away from zero
  EXPECT_EQ(amount("0.1").of(104), 10);
  EXPECT_EQ(amount("0.29").of(100), 29);  // truncation would give 28
  EXPECT_EQ(amount("64").of(10), 64);
}

TEST(Closest, FindsAWordOneOrTwoEditsAway) {
  const std::vector<std::string_view> words = {"window", "width", "pool", "budget"};
  EXPECT_EQ(closest("windw", words), "window");
  EXPECT_EQ(closest("budgte", words), "budget");
  EXPECT_EQ(closest("poll", words), "pool");
  EXPECT_EQ(closest("xyz", words), "");
  EXPECT_EQ(closest("", words), "");
}

TEST(Options, DocumentsEveryOptionThatIsRead) {
  CommonOptions common;
  Options o("m", {{"heads", "4"}}, common);
  EXPECT_EQ(o.count("heads", 2, "how many"), 4);
  EXPECT_EQ(o.ratio("share", 0.25, "of what"), 0.25);
  EXPECT_EQ(o.word("pool", "max", "max|mean", "how"), "max");
  ASSERT_EQ(o.docs().size(), 3u);
  EXPECT_EQ(o.docs()[0].key, "heads");
  EXPECT_EQ(o.docs()[0].type, "count");
  EXPECT_EQ(o.docs()[0].fallback, "2");
  EXPECT_EQ(o.docs()[0].doc, "how many");
  EXPECT_EQ(o.docs()[1].type, "ratio");
  EXPECT_EQ(o.docs()[1].fallback, "0.25");
  EXPECT_EQ(o.docs()[2].type, "max|mean");
  EXPECT_EQ(o.canonical(), "m:heads=4");
}

TEST(RowsForBytes, PaysForWholePagesAndWhatBelongsToThem) {
  const KvShape shape{.layers = 2, .query_heads = 2, .heads = 2, .dim = 64, .width = 128};
  StoreSpec store;
  store.page_rows = 32;
  const int rows = rows_for_bytes(1 << 20, shape, store);
  EXPECT_EQ(rows % 32, 0);
  // Four heads; a row of keys and values is 256 bytes in f16 and 8 in the lanes, and the pool adds
  // less than a tenth.
  EXPECT_LE(rows, (1 << 20) / 4 / 264);
  EXPECT_GE(rows, (1 << 20) / 4 / 264 * 8 / 10);
  EXPECT_EQ(rows_for_bytes(100, shape, store), 0);
}

}  // namespace
}  // namespace pith::test

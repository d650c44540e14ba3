#include "apps/units.h"

#include <gtest/gtest.h>

namespace pith {
namespace {

TEST(Units, WriteBytesWithFourDigitsAtMost) {
  EXPECT_EQ(bytes_text(0), "0 B");
  EXPECT_EQ(bytes_text(1023), "1023 B");
  EXPECT_EQ(bytes_text(1536), "1.5 KiB");
  EXPECT_EQ(bytes_text((uint64_t{1} << 20) - 1), "1.0 MiB");
  EXPECT_EQ(bytes_text(uint64_t{5} << 30), "5.0 GiB");
  EXPECT_EQ(bytes_text(UINT64_MAX), "16.0 EiB");
}

TEST(Units, ReadBytesInTheUnitsPeopleWrite) {
  EXPECT_EQ(parse_bytes("0"), 0u);
  EXPECT_EQ(parse_bytes("1000000"), 1000000u);
  EXPECT_EQ(parse_bytes("512MiB"), 512u << 20);
  EXPECT_EQ(parse_bytes("2GiB"), uint64_t{2} << 30);
  EXPECT_EQ(parse_bytes("64k"), 64u << 10);
  EXPECT_EQ(parse_bytes("1.5 GB"), 1500000000u);
  EXPECT_EQ(parse_bytes("0.5m"), 1u << 19);
}

TEST(Units, RefuseBytesThatAreNone) {
  for (const char* text : {"", "GiB", "-1", "1x", "1GiBs", "1 2", "nan", "inf", "1e9999999",
                           "99999999999999999999999"})
    EXPECT_FALSE(parse_bytes(text).has_value()) << text;
}

TEST(Units, WriteDurationsAsPreciselyAsTheyMatter) {
  EXPECT_EQ(duration_text(0.354), "0.35 s");
  EXPECT_EQ(duration_text(12.34), "12.3 s");
  EXPECT_EQ(duration_text(187), "3:07");
  EXPECT_EQ(duration_text(3723), "1:02:03");
}

TEST(Units, GroupDigitsByThree) {
  EXPECT_EQ(count_text(0), "0");
  EXPECT_EQ(count_text(999), "999");
  EXPECT_EQ(count_text(1000), "1,000");
  EXPECT_EQ(count_text(1234567), "1,234,567");
}

}  // namespace
}  // namespace pith

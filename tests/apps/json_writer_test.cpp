#include "apps/json_writer.h"

#include <gtest/gtest.h>
#include <limits>
#include <nlohmann/json.hpp>

namespace pith {
namespace {

TEST(JsonWriter, WritesWhatAnIndependentParserReads) {
  JsonWriter json;
  json.object().key("text").value("a \"quoted\" line\n").key("rows").value(3);
  json.key("kept").array().value(0).value(7u).end().key("share").value(0.1);
  json.key("none").null().key("yes").value(true).key("empty").array().end();
  json.key("deep").object().key("x").value(int64_t{-5}).end().end();
  const auto parsed = nlohmann::json::parse(json.text());
  EXPECT_EQ(parsed["text"], "a \"quoted\" line\n");
  EXPECT_EQ(parsed["rows"], 3);
  EXPECT_EQ(parsed["kept"], nlohmann::json::parse("[0, 7]"));
  EXPECT_EQ(parsed["share"], 0.1);
  EXPECT_TRUE(parsed["none"].is_null());
  EXPECT_EQ(parsed["yes"], true);
  EXPECT_TRUE(parsed["empty"].empty());
  EXPECT_EQ(parsed["deep"]["x"], -5);
}

TEST(JsonWriter, WritesNumbersThatReadBackTheSame) {
  EXPECT_EQ(JsonWriter(0).value(1e-5f).text(), "1e-05");
  EXPECT_EQ(JsonWriter(0).value(0.1).text(), "0.1");
  EXPECT_EQ(JsonWriter(0).value(UINT64_MAX).text(), "18446744073709551615");
  EXPECT_EQ(JsonWriter(0).value(std::numeric_limits<double>::infinity()).text(), "null");
  EXPECT_EQ(JsonWriter(0).value(std::numeric_limits<float>::quiet_NaN()).text(), "null");
}

TEST(JsonWriter, ReplacesBytesThatAreNotUtf8) {
  const auto parsed = nlohmann::json::parse(JsonWriter(0)
                                                .value("a\xff"
                                                       "b")
                                                .text());
  EXPECT_EQ(parsed,
            "a\xef\xbf\xbd"
            "b");
}

TEST(JsonWriter, FitsOneLineWithoutIndentation) {
  JsonWriter json(0);
  json.object().key("a").array().value(1).value(2).end().key("b").value(false).end();
  EXPECT_EQ(json.text(), R"({"a": [1, 2], "b": false})");
}

}  // namespace
}  // namespace pith

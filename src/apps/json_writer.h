// JSON for --json, written in the order it is given:
//
//   JsonWriter json;
//   json.object().key("rows").value(3).key("kept").array().value(0).value(7).end().end();
//
// Text that is not UTF-8 is written with replacement characters, so the result always parses.
#pragma once

#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace pith {

class JsonWriter {
 public:
  explicit JsonWriter(int indent = 2) : indent_(indent) {}  // 0: one line

  JsonWriter& object();
  JsonWriter& array();
  JsonWriter& end();  // of the innermost object or array
  JsonWriter& key(std::string_view key);
  JsonWriter& value(std::string_view text);
  JsonWriter& value(const char* text) { return value(std::string_view(text)); }
  JsonWriter& value(const std::string& text) { return value(std::string_view(text)); }
  JsonWriter& value(bool yes);
  JsonWriter& value(std::integral auto number) { return scalar(std::to_string(number)); }
  JsonWriter& value(float number);   // the shortest text that reads back as the same float
  JsonWriter& value(double number);  // null if it is not finite
  JsonWriter& null();

  // Everything written so far; complete once every object and array has ended.
  const std::string& text() const { return text_; }

 private:
  JsonWriter& scalar(std::string_view text);
  void open_item();
  void new_line();
  struct Level {
    char close;
    bool empty = true;
  };
  int indent_;
  bool after_key_ = false;
  std::vector<Level> levels_;
  std::string text_;
};

}  // namespace pith

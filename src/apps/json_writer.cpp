#include "apps/json_writer.h"

#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace pith {
namespace {

std::string quoted(std::string_view text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

template <class T>
std::string shortest(T number) {
  char text[40];
  return {text, std::to_chars(text, text + sizeof text, number).ptr};
}

}  // namespace

void JsonWriter::new_line() {
  if (indent_ == 0) return;
  text_ += '\n';
  text_.append(levels_.size() * static_cast<size_t>(indent_), ' ');
}

void JsonWriter::open_item() {
  if (after_key_) {
    after_key_ = false;
    return;
  }
  if (levels_.empty()) return;
  if (!levels_.back().empty) text_ += indent_ == 0 ? ", " : ",";
  levels_.back().empty = false;
  new_line();
}

JsonWriter& JsonWriter::object() {
  open_item();
  text_ += '{';
  levels_.push_back({'}'});
  return *this;
}

JsonWriter& JsonWriter::array() {
  open_item();
  text_ += '[';
  levels_.push_back({']'});
  return *this;
}

JsonWriter& JsonWriter::end() {
  PITH_CHECK(!levels_.empty(), "JSON ends more often than it begins");
  const Level level = levels_.back();
  levels_.pop_back();
  if (!level.empty) new_line();
  text_ += level.close;
  if (levels_.empty() && indent_ > 0) text_ += '\n';
  return *this;
}

JsonWriter& JsonWriter::key(std::string_view key) {
  open_item();
  text_ += quoted(key) + ": ";
  after_key_ = true;
  return *this;
}

JsonWriter& JsonWriter::scalar(std::string_view text) {
  open_item();
  text_ += text;
  return *this;
}

JsonWriter& JsonWriter::value(std::string_view text) {
  return scalar(quoted(text));
}
JsonWriter& JsonWriter::value(bool yes) {
  return scalar(yes ? "true" : "false");
}
JsonWriter& JsonWriter::null() {
  return scalar("null");
}

JsonWriter& JsonWriter::value(float number) {
  return std::isfinite(number) ? scalar(shortest(number)) : null();
}
JsonWriter& JsonWriter::value(double number) {
  return std::isfinite(number) ? scalar(shortest(number)) : null();
}

}  // namespace pith

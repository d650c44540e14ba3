#include "eval/jsonl.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "text/utf8.h"

namespace pith {
namespace {

using Json = nlohmann::json;

constexpr int kDeepest = 32;

// Text of a scalar; nothing for lists, objects and null.
bool scalar_text(const Json& value, std::string& out) {
  if (value.is_string()) {
    out = value.get<std::string>();
    return true;
  }
  if (!value.is_number()) return false;
  out = value.dump();
  return true;
}

class PythonReader {
 public:
  PythonReader(std::string_view text, const std::string& where) : text_(text), where_(where) {}

  Json read() {
    Json value = value_at(0);
    skip_space();
    if (at_ != text_.size()) refuse("something follows its end");
    return value;
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    throw Error(Errc::bad_file, where_ + ": not a Python literal at byte " + std::to_string(at_) +
                                    " of the text: " + what);
  }
  void skip_space() {
    while (at_ < text_.size() && std::string_view(" \t\r\n").find(text_[at_]) != std::string::npos)
      ++at_;
  }
  char peek() {
    skip_space();
    if (at_ == text_.size()) refuse("it ends too early");
    return text_[at_];
  }
  bool take(char c) {
    if (peek() != c) return false;
    ++at_;
    return true;
  }
  bool take_word(std::string_view word) {
    if (!text_.substr(at_).starts_with(word)) return false;
    at_ += word.size();
    return true;
  }

  Json value_at(int depth) {
    if (depth > kDeepest) refuse("it is nested too deeply");
    const char c = peek();
    if (c == '\'' || c == '"') return string();
    if (take('[')) return list(depth, ']');
    if (take('(')) return list(depth, ')');
    if (take('{')) return dictionary(depth);
    if (take_word("None")) return nullptr;
    if (take_word("True")) return true;
    if (take_word("False")) return false;
    const size_t end = std::min(text_.find_first_not_of("+-.0123456789eE", at_), text_.size());
    Json number = Json::parse(text_.substr(at_, end - at_), nullptr, false);
    if (!number.is_number()) refuse("no value begins like this");
    at_ = end;
    return number;
  }

  Json list(int depth, char close) {
    Json items = Json::array();
    while (!take(close)) {
      items.push_back(value_at(depth + 1));
      if (!take(',') && peek() != close) refuse("a comma or the end of the list is missing");
    }
    return items;
  }

  Json dictionary(int depth) {
    Json object = Json::object();
    while (!take('}')) {
      const Json key = value_at(depth + 1);
      std::string name;
      if (!scalar_text(key, name)) refuse("a key is no text");
      if (!take(':')) refuse("a colon is missing");
      object[name] = value_at(depth + 1);
      if (!take(',') && peek() != '}') refuse("a comma or the end of the dictionary is missing");
    }
    return object;
  }

  // Texts one behind the other are one text.
  Json string() {
    std::string out;
    do {
      const char quote = text_[at_++];
      while (at_ < text_.size() && text_[at_] != quote) {
        if (text_[at_] == '\\')
          escape(out);
        else
          out += text_[at_++];
      }
      if (at_ == text_.size()) refuse("a text does not end");
      ++at_;
      skip_space();
    } while (at_ < text_.size() && (text_[at_] == '\'' || text_[at_] == '"'));
    return out;
  }

  void escape(std::string& out) {
    if (++at_ == text_.size()) refuse("a text does not end");
    const char c = text_[at_++];
    switch (c) {
      case 'n':
        out += '\n';
        return;
      case 't':
        out += '\t';
        return;
      case 'r':
        out += '\r';
        return;
      case '\n':
        return;
      case 'x':
        utf8_append(out, hex(2));
        return;
      case 'u':
        utf8_append(out, hex(4));
        return;
      case 'U':
        utf8_append(out, hex(8));
        return;
      case '\\':
      case '\'':
      case '"':
        out += c;
        return;
      default:
        out += '\\', out += c;
    }
  }

  char32_t hex(int digits) {
    char32_t value = 0;
    for (int i = 0; i < digits; ++i) {
      const size_t digit =
          at_ < text_.size()
              ? std::string_view("0123456789abcdef").find(static_cast<char>(text_[at_] | 0x20))
              : std::string::npos;
      if (digit == std::string::npos) refuse("an escape lacks digits");
      value = value * 16 + static_cast<char32_t>(digit);
      ++at_;
    }
    if (value > 0x10ffff || (value >= 0xd800 && value < 0xe000))
      refuse("an escape is no character");
    return value;
  }

  std::string_view text_;
  const std::string& where_;
  size_t at_ = 0;
};

}  // namespace

JsonRecord::JsonRecord(std::shared_ptr<const nlohmann::json> object, std::string where)
    : object_(std::move(object)), where_(std::move(where)) {}

void JsonRecord::refuse(const char* field, const std::string& what) const {
  throw Error(Errc::bad_file, where_ + ": \"" + field + "\" " + what);
}

bool JsonRecord::has(const char* field) const {
  const auto found = object_->find(field);
  return found != object_->end() && !found->is_null();
}

const nlohmann::json& JsonRecord::at(const char* field) const {
  if (!has(field)) refuse(field, "is missing");
  return *object_->find(field);
}

std::string JsonRecord::text(const char* field) const {
  std::string out;
  if (!scalar_text(at(field), out)) refuse(field, "must be a text");
  return out;
}

std::string JsonRecord::text_or(const char* field, std::string otherwise) const {
  return has(field) ? text(field) : std::move(otherwise);
}

std::vector<std::string> JsonRecord::texts(const char* field) const {
  const Json& value = at(field);
  std::vector<std::string> out(1);
  if (scalar_text(value, out[0])) return out;
  if (!value.is_array()) refuse(field, "must be a list of texts");
  out.clear();
  for (const Json& item : value)
    if (!scalar_text(item, out.emplace_back())) refuse(field, "must be a list of texts");
  return out;
}

std::vector<std::pair<std::string, std::string>> JsonRecord::pairs(const char* field) const {
  const Json& value = at(field);
  std::vector<std::pair<std::string, std::string>> out;
  const std::string what = "must be a list of pairs of texts";
  if (!value.is_array()) refuse(field, what);
  for (const Json& item : value) {
    auto& pair = out.emplace_back();
    if (!item.is_array() || item.size() != 2 || !scalar_text(item[0], pair.first) ||
        !scalar_text(item[1], pair.second))
      refuse(field, what);
  }
  return out;
}

JsonRecord JsonRecord::object(const char* field) const {
  const Json& value = at(field);
  if (!value.is_object()) refuse(field, "must be an object");
  return {std::make_shared<Json>(value), where_};
}

std::vector<JsonRecord> JsonRecord::records(const char* field) const {
  const Json& value = at(field);
  if (!value.is_array()) refuse(field, "must be a list of objects");
  std::vector<JsonRecord> out;
  for (const Json& item : value) {
    if (!item.is_object()) refuse(field, "must be a list of objects");
    out.emplace_back(std::make_shared<Json>(item), where_);
  }
  return out;
}

std::vector<JsonRecord> read_jsonl(std::string_view text, const std::string& name) {
  std::vector<JsonRecord> records;
  for (int number = 1; !text.empty(); ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const std::string where = name + ":" + std::to_string(number);
    auto object = std::make_shared<Json>(Json::parse(line, nullptr, false));
    if (!object->is_object())
      throw Error(Errc::bad_file,
                  where + ": not a JSON object; every line of the file must be one");
    records.emplace_back(std::move(object), where);
  }
  if (records.empty()) throw Error(Errc::bad_file, name + ": there is no record in it");
  return records;
}

JsonRecord parse_python(std::string_view text, const std::string& where) {
  auto object = std::make_shared<Json>();
  (*object)["value"] = PythonReader(text, where).read();
  return JsonRecord(std::move(object), where);
}

}  // namespace pith

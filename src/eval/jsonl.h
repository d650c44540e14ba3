// Files of one JSON object per line, read with types. What is wrong with one ends in an
// Error{bad_file} that names file, line and field.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace pith {

class JsonRecord {
 public:
  JsonRecord(std::shared_ptr<const nlohmann::json> object, std::string where);

  bool has(const char* field) const;  // and it is not null
  // Required, of that type; numbers are written out.
  std::string text(const char* field) const;
  std::string text_or(const char* field, std::string otherwise) const;
  // A list of texts (numbers are written out), or one text.
  std::vector<std::string> texts(const char* field) const;
  // A list of lists of two texts.
  std::vector<std::pair<std::string, std::string>> pairs(const char* field) const;
  JsonRecord object(const char* field) const;
  // A list of objects.
  std::vector<JsonRecord> records(const char* field) const;
  // "file.jsonl:12: "field" <what>".
  [[noreturn]] void refuse(const char* field, const std::string& what) const;
  const std::string& where() const { return where_; }  // "file.jsonl:12"

 private:
  const nlohmann::json& at(const char* field) const;
  std::shared_ptr<const nlohmann::json> object_;
  std::string where_;
};

// Empty lines are skipped; a text without any record is refused.
std::vector<JsonRecord> read_jsonl(std::string_view text, const std::string& name);

// A text that is a literal of Python's (LooGLE stores lists of dictionaries as such), as JSON.
// Throws bad_file, naming `where`. Texts, numbers, None, True, False, lists and dictionaries.
JsonRecord parse_python(std::string_view text, const std::string& where);

}  // namespace pith

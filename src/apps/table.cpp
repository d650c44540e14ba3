#include "apps/table.h"

#include <algorithm>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace pith {
namespace {

size_t width_of(std::string_view utf8) {
  return static_cast<size_t>(
      std::ranges::count_if(utf8, [](char c) { return (c & 0xc0) != 0x80; }));
}

std::string padded(const std::string& text, size_t width, bool right) {
  const std::string space(width - std::min(width, width_of(text)), ' ');
  return right ? space + text : text + space;
}

std::string csv_field(const std::string& text) {
  if (text.find_first_of(",\"\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (char c : text) quoted += c == '"' ? "\"\"" : std::string(1, c);
  return quoted + "\"";
}

std::string sql_text(const std::string& text) {
  std::string quoted = "'";
  for (char c : text) quoted += c == '\'' ? "''" : std::string(1, c);
  return quoted + "'";
}

}  // namespace

void Table::add(std::vector<Cell> row) {
  PITH_CHECK(row.size() == columns_.size(), "a row has a cell for every column");
  rows_.push_back(std::move(row));
}

void Table::print(std::FILE* to, std::string_view format, std::string_view name) const {
  if (format == "md") {
    std::vector<size_t> widths;
    for (size_t c = 0; c < columns_.size(); ++c) {
      size_t width = std::max<size_t>(3, width_of(columns_[c].title));
      for (const auto& row : rows_) width = std::max(width, width_of(row[c].text));
      widths.push_back(width);
    }
    std::string head = "|", rule = "|";
    for (size_t c = 0; c < columns_.size(); ++c) {
      head += " " + padded(columns_[c].title, widths[c], columns_[c].number) + " |";
      rule += columns_[c].number ? std::string(widths[c] + 1, '-') + ":|"
                                 : std::string(widths[c] + 2, '-') + "|";
    }
    fmt::print(to, "{}\n{}\n", head, rule);
    for (const auto& row : rows_) {
      std::string line = "|";
      for (size_t c = 0; c < columns_.size(); ++c)
        line += " " + padded(row[c].text, widths[c], columns_[c].number) + " |";
      fmt::print(to, "{}\n", line);
    }
  } else if (format == "csv") {
    for (size_t c = 0; c < columns_.size(); ++c)
      fmt::print(to, "{}{}", c ? "," : "", csv_field(columns_[c].key));
    fmt::print(to, "\n");
    for (const auto& row : rows_) {
      for (size_t c = 0; c < columns_.size(); ++c)
        fmt::print(to, "{}{}", c ? "," : "", csv_field(row[c].value));
      fmt::print(to, "\n");
    }
  } else if (format == "sql") {
    std::string declared, keys;
    for (const Column& column : columns_) {
      const char* const comma = keys.empty() ? "" : ", ";
      declared += comma + column.key + (column.number ? " NUMERIC" : " TEXT");
      keys += comma + column.key;
    }
    fmt::print(to, "CREATE TABLE IF NOT EXISTS {} ({});\n", name, declared);
    for (const auto& row : rows_) {
      std::string values;
      for (size_t c = 0; c < columns_.size(); ++c) {
        const std::string& value = row[c].value;
        values += c ? ", " : "";
        values += !columns_[c].number ? sql_text(value) : value.empty() ? "NULL" : value;
      }
      fmt::print(to, "INSERT INTO {} ({}) VALUES ({});\n", name, keys, values);
    }
  } else {
    auto all = nlohmann::ordered_json::array();
    for (const auto& row : rows_) {
      nlohmann::ordered_json object;
      for (size_t c = 0; c < columns_.size(); ++c)
        object[columns_[c].key] = !columns_[c].number ? nlohmann::ordered_json(row[c].value)
                                  : row[c].value.empty()
                                      ? nlohmann::ordered_json()
                                      : nlohmann::ordered_json::parse(row[c].value);
      if (format == "jsonl")
        fmt::print(to, "{}\n", object.dump());
      else
        all.push_back(std::move(object));
    }
    if (format != "jsonl") fmt::print(to, "{}\n", all.dump(2));
  }
}

}  // namespace pith

// Results as a table for people (md), programs (json, jsonl), spreadsheets (csv) or a database
// (sql).
#pragma once

#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

namespace pith {

class Table {
 public:
  struct Column {
    std::string key;     // in json and csv: "cache_bytes"
    std::string title;   // in md: "cache"
    bool number = true;  // aligned right; unquoted in json
  };
  struct Cell {
    std::string text;   // for people: "12.3 MiB"
    std::string value;  // for programs: "12897484"; empty: nothing
    Cell(std::string both) : text(both), value(std::move(both)) {}  // NOLINT: a cell is a string
    Cell(std::string for_people, std::string for_programs)
        : text(std::move(for_people)), value(std::move(for_programs)) {}
  };

  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
  void add(std::vector<Cell> row);
  // format: "md", "json", "jsonl", "csv" or "sql": statements that make the table `name` where
  // there is none, and add the rows.
  void print(std::FILE* to, std::string_view format, std::string_view name = "results") const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<Cell>> rows_;
};

}  // namespace pith

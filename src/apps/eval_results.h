// What `pith eval` measured, in one SQLite file: a row per question, written as soon as its sample
// is done. What is in it is not computed again.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "eval/runner.h"

struct sqlite3;

namespace pith {

// Which sample of which run; with the question's number, the key of a row.
struct EvalKey {
  std::string model;     // digest of its file
  std::string settings;  // what else changes answers: chat template, text, arithmetic
  std::string spec, protocol, task;
  int tokens = 0;  // asked for
  uint64_t seed = 0;
  int index = 0;
};

struct EvalRow {
  EvalKey key;
  double score = 0;
  int prompt_tokens = 0, generated_tokens = 0;
  uint64_t prompt_bytes = 0, end_bytes = 0, full_bytes = 0;
  double first_seconds = 0, token_seconds = 0;
  int depth = -1;
};

class EvalResults {
 public:
  // Creates the file where there is none; an empty path keeps the results in memory. Throws io, or
  // bad_file if it is not one of ours.
  explicit EvalResults(const std::string& path);
  EvalResults(const EvalResults&) = delete;
  EvalResults& operator=(const EvalResults&) = delete;
  ~EvalResults();

  bool has(const EvalKey& key);
  // All of a sample's questions, or none of them.
  void add(const EvalKey& key, const std::string& model_name, const Sample& sample,
           const std::vector<Outcome>& outcomes);
  std::vector<EvalRow> rows(const EvalKey& key);

 private:
  class Statement;
  [[noreturn]] void fail(const std::string& what) const;
  void execute(const char* sql);
  std::string path_;
  sqlite3* db_ = nullptr;
};

}  // namespace pith

// What `pith eval` measured, in one SQLite file: a row per question, written as soon as its sample
// is done. What is in it is not computed again.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "eval/runner.h"
#include "eval/throughput.h"

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
  std::string files = {};  // digest of what the spec reads: calibration, profile, adapter
};

struct EvalRow {
  EvalKey key;
  std::string model_name;  // the file it was read from
  double score = 0;
  int prompt_tokens = 0, generated_tokens = 0;
  uint64_t prompt_bytes = 0, end_bytes = 0, full_bytes = 0;
  double first_seconds = 0, token_seconds = 0;
  int depth = -1;  // of a single needle, in percent
  // What rows of earlier versions lack: bytes by class, peak and the compression's time.
  struct Held {  // bytes; of keys and values: their pages
    uint64_t keys = 0, values = 0, pseudo = 0, lanes = 0, summaries = 0, dropped = 0;
  };
  struct Parts {
    Held prompt, end;
    uint64_t peak_bytes = 0;
    double compress_seconds = 0;
  };
  std::optional<Parts> parts;
  std::optional<double> divergence, agreement, mass_kept;  // of --fidelity
  std::optional<Throughput> throughput;                    // of --batch-memory, of its spec
};

class EvalResults {
 public:
  enum class Open { create, existing };
  // Creates the file where there is none, unless it has to exist; an empty path keeps the results
  // in memory. A file of an earlier version gets the columns that it lacks. Throws io, or bad_file
  // if it is not one of ours.
  explicit EvalResults(const std::string& path, Open how = Open::create);
  EvalResults(const EvalResults&) = delete;
  EvalResults& operator=(const EvalResults&) = delete;
  ~EvalResults();

  // `fidelity`: and it was compared with the full cache.
  bool has(const EvalKey& key, bool fidelity = false);
  // All of a sample's questions, or none of them.
  void add(const EvalKey& key, const std::string& model_name, const Sample& sample,
           const std::vector<Outcome>& outcomes);
  std::vector<EvalRow> rows(const EvalKey& key);
  // Everything there is: by model, protocol, length and spec, the full cache first. Of a spec whose
  // files changed, what was measured with those that note_files() named last.
  std::vector<EvalRow> all();
  void note_files(const std::string& model, const std::string& spec, const std::string& files);

  // Of the key's model, settings, spec and length; rows() and all() have the latest.
  bool has_throughput(const EvalKey& key, uint64_t limit_bytes);
  void add_throughput(const EvalKey& key, const Throughput& throughput);

  // The flags that rows of a model and settings were made with, to be written in commands.
  void note_flags(const std::string& model, const std::string& settings, const std::string& flags);
  std::string flags(const std::string& model, const std::string& settings);

 private:
  class Statement;
  [[noreturn]] void fail(const std::string& what) const;
  void execute(const std::string& sql);
  void prepare_tables();
  void bring_up(int64_t version);
  std::string path_;
  sqlite3* db_ = nullptr;
};

}  // namespace pith

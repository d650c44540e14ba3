#include "apps/eval_results.h"

#include <concepts>
#include <sqlite3.h>

#include "base/error.h"

namespace pith {
namespace {

// Marks a file as ours ("pith"), and the version of its tables.
constexpr int kApplication = 0x70697468, kVersion = 3;

// What is held is "prompt_..." after the prompt and else at the end.
constexpr const char* kTables =
    "CREATE TABLE results ("
    " model TEXT NOT NULL, settings TEXT NOT NULL, spec TEXT NOT NULL, protocol TEXT NOT NULL,"
    " task TEXT NOT NULL, tokens INTEGER NOT NULL, seed INTEGER NOT NULL,"
    " sample INTEGER NOT NULL, question INTEGER NOT NULL,"
    " model_name TEXT NOT NULL, depth INTEGER, score REAL NOT NULL, output TEXT NOT NULL,"
    " expected TEXT NOT NULL, metric TEXT NOT NULL,"
    " prompt_tokens INTEGER NOT NULL, generated_tokens INTEGER NOT NULL,"
    " prompt_bytes INTEGER NOT NULL, end_bytes INTEGER NOT NULL, full_bytes INTEGER NOT NULL,"
    " sealed_bytes INTEGER NOT NULL, open_bytes INTEGER NOT NULL, pseudo_bytes INTEGER NOT NULL,"
    " lane_bytes INTEGER NOT NULL, summary_bytes INTEGER NOT NULL, dropped_bytes INTEGER NOT NULL,"
    " first_seconds REAL NOT NULL, token_seconds REAL NOT NULL,"
    // Rows of version 1 have nothing in these.
    " prompt_key_bytes INTEGER, prompt_value_bytes INTEGER, prompt_pseudo_bytes INTEGER,"
    " prompt_lane_bytes INTEGER, prompt_summary_bytes INTEGER, prompt_dropped_bytes INTEGER,"
    " key_bytes INTEGER, value_bytes INTEGER, peak_bytes INTEGER, compress_seconds REAL,"
    " divergence REAL, agreement REAL, mass_kept REAL,"
    // Of the spec; rows before version 3 do not say which they were, and are not found again if
    // the spec has any.
    " files TEXT NOT NULL DEFAULT '',"
    " PRIMARY KEY (model, settings, spec, protocol, task, tokens, seed, sample, question, files)"
    ") WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS flags (model TEXT NOT NULL, settings TEXT NOT NULL,"
    " flags TEXT NOT NULL, PRIMARY KEY (model, settings)) WITHOUT ROWID;"
    "CREATE TABLE latest_files (model TEXT NOT NULL, spec TEXT NOT NULL,"
    " latest TEXT NOT NULL, PRIMARY KEY (model, spec)) WITHOUT ROWID;"
    "CREATE TABLE throughput (model TEXT NOT NULL, settings TEXT NOT NULL,"
    " spec TEXT NOT NULL, tokens INTEGER NOT NULL, limit_bytes INTEGER NOT NULL,"
    " session_bytes INTEGER NOT NULL, sessions INTEGER NOT NULL, alone REAL NOT NULL,"
    " together REAL NOT NULL, files TEXT NOT NULL DEFAULT '',"
    " PRIMARY KEY (model, settings, spec, tokens, files)) WITHOUT ROWID;";

constexpr const char* kOfSample =
    " WHERE model = ? AND settings = ? AND spec = ? AND protocol = ? AND task = ? AND tokens = ? "
    "AND seed = ? AND sample = ? AND files = ?";

// As EvalResults::Statement::row reads them.
constexpr const char* kSelect =
    "SELECT model, settings, spec, protocol, task, tokens, seed, sample, model_name, score, "
    "prompt_tokens, generated_tokens, prompt_bytes, end_bytes, full_bytes, first_seconds, "
    "token_seconds, depth, prompt_key_bytes, prompt_value_bytes, prompt_pseudo_bytes, "
    "prompt_lane_bytes, prompt_summary_bytes, prompt_dropped_bytes, key_bytes, value_bytes, "
    "pseudo_bytes, lane_bytes, summary_bytes, dropped_bytes, peak_bytes, compress_seconds, "
    "divergence, agreement, mass_kept, limit_bytes, session_bytes, sessions, alone, together "
    "FROM results LEFT JOIN throughput USING (model, settings, spec, tokens, files)";

// SQLite's texts are UTF-8 without zeros; what a model wrote may be neither.
std::string text_of(const std::string& bytes) {
  std::string out = bytes;
  for (char& c : out)
    if (c == '\0') c = ' ';
  return out;
}

}  // namespace

class EvalResults::Statement {
 public:
  Statement(EvalResults& results, const std::string& sql) : results_(results) {
    if (sqlite3_prepare_v2(results.db_, sql.c_str(), -1, &statement_, nullptr) != SQLITE_OK)
      results.fail("cannot be read or written");
  }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;
  ~Statement() { sqlite3_finalize(statement_); }

  Statement& bind(const std::string& text) {
    check(sqlite3_bind_text(statement_, ++bound_, text.c_str(), static_cast<int>(text.size()),
                            SQLITE_TRANSIENT));
    return *this;
  }
  Statement& bind(double number) {
    check(sqlite3_bind_double(statement_, ++bound_, number));
    return *this;
  }
  Statement& bind(std::integral auto number) {
    check(sqlite3_bind_int64(statement_, ++bound_, static_cast<int64_t>(number)));
    return *this;
  }
  template <class Number>
  Statement& bind(const std::optional<Number>& number) {
    if (number) return bind(*number);
    check(sqlite3_bind_null(statement_, ++bound_));
    return *this;
  }
  Statement& bind(const EvalKey& key) {
    return bind(key.model)
        .bind(key.settings)
        .bind(key.spec)
        .bind(key.protocol)
        .bind(key.task)
        .bind(key.tokens)
        .bind(key.seed)
        .bind(key.index)
        .bind(key.files);
  }
  // Whether there is a row.
  bool step() {
    const int code = sqlite3_step(statement_);
    if (code != SQLITE_ROW && code != SQLITE_DONE) results_.fail("cannot be read or written");
    next_ = 0;
    return code == SQLITE_ROW;
  }
  // The columns of the row, one after the other.
  double real() { return sqlite3_column_double(statement_, next_++); }
  int64_t integer() { return sqlite3_column_int64(statement_, next_++); }
  uint64_t bytes() { return static_cast<uint64_t>(integer()); }
  std::string text() {
    const unsigned char* const text = sqlite3_column_text(statement_, next_++);
    return text != nullptr ? reinterpret_cast<const char*>(text) : "";
  }
  bool null() const { return sqlite3_column_type(statement_, next_) == SQLITE_NULL; }
  std::optional<double> real_if() {
    const bool none = null();
    const double number = real();
    return none ? std::nullopt : std::optional(number);
  }

  std::vector<EvalRow> rows() {
    std::vector<EvalRow> rows;
    while (step()) rows.push_back(row());
    return rows;
  }

 private:
  EvalRow::Held classes() {
    using Held = EvalRow::Held;
    Held held;
    for (const auto part : {&Held::keys, &Held::values, &Held::pseudo, &Held::lanes,
                            &Held::summaries, &Held::dropped})
      held.*part = bytes();
    return held;
  }

  EvalRow row() {
    EvalRow row;
    EvalKey& key = row.key;
    for (std::string* const part : {&key.model, &key.settings, &key.spec, &key.protocol, &key.task})
      *part = text();
    key.tokens = static_cast<int>(integer());
    key.seed = bytes();
    key.index = static_cast<int>(integer());
    row.model_name = text();
    row.score = real();
    row.prompt_tokens = static_cast<int>(integer());
    row.generated_tokens = static_cast<int>(integer());
    row.prompt_bytes = bytes();
    row.end_bytes = bytes();
    row.full_bytes = bytes();
    row.first_seconds = real();
    row.token_seconds = real();
    const bool no_depth = null();
    const auto depth = static_cast<int>(integer());
    row.depth = no_depth ? -1 : depth;
    const bool no_parts = null();
    EvalRow::Parts parts;
    parts.prompt = classes();
    parts.end = classes();
    parts.peak_bytes = bytes();
    parts.compress_seconds = real();
    if (!no_parts) row.parts = parts;
    row.divergence = real_if();
    row.agreement = real_if();
    row.mass_kept = real_if();
    if (!null()) {
      Throughput& throughput = row.throughput.emplace();
      throughput.limit_bytes = bytes();
      throughput.session_bytes = bytes();
      throughput.sessions = static_cast<int>(integer());
      throughput.alone = real();
      throughput.together = real();
    }
    return row;
  }

  void check(int code) {
    if (code != SQLITE_OK) results_.fail("cannot be written");
  }
  EvalResults& results_;
  sqlite3_stmt* statement_ = nullptr;
  int bound_ = 0, next_ = 0;
};

EvalResults::EvalResults(const std::string& path, Open how) : path_(path) {
  const char* name = path.empty() ? ":memory:" : path.c_str();
  const int create = how == Open::create ? SQLITE_OPEN_CREATE : 0;
  if (sqlite3_open_v2(name, &db_, SQLITE_OPEN_READWRITE | create, nullptr) != SQLITE_OK) {
    const std::string why = db_ != nullptr ? sqlite3_errmsg(db_) : "out of memory";
    sqlite3_close(db_);
    throw Error(Errc::io, path + ": cannot be opened: " + why);
  }
  try {
    // Another `pith eval` may write to the same file.
    sqlite3_busy_timeout(db_, 10'000);
    prepare_tables();
  } catch (...) {
    sqlite3_close(db_);
    throw;
  }
}

void EvalResults::prepare_tables() {
  const auto pragma = [&](const char* sql) {
    Statement statement(*this, sql);
    return statement.step() ? statement.integer() : 0;
  };
  const int64_t tables = pragma("SELECT count(*) FROM sqlite_master");
  if (tables > 0) {
    if (pragma("PRAGMA application_id") != kApplication)
      throw Error(Errc::bad_file,
                  path_ + ": not a results file of pith eval; name another with --results");
    const int64_t version = pragma("PRAGMA user_version");
    if (version > kVersion)
      throw Error(Errc::bad_file,
                  path_ + ": written by a later version of pith eval (its tables have version " +
                      std::to_string(version) + ", and this program knows " +
                      std::to_string(kVersion) + "); name another with --results");
    if (version == kVersion) return;
  }
  execute("BEGIN IMMEDIATE");
  try {
    bring_up(pragma("PRAGMA user_version"));  // another process may have been faster
    execute("COMMIT");
  } catch (...) {
    sqlite3_exec(db_, "ROLLBACK", nullptr, nullptr, nullptr);
    throw;
  }
}

// Rows of earlier versions move to tables of this one.
void EvalResults::bring_up(int64_t version) {
  if (version >= kVersion) return;
  const std::vector<std::string> old = version == 0 ? std::vector<std::string>{}
                                       : version == 1
                                           ? std::vector<std::string>{"results"}
                                           : std::vector<std::string>{"results", "throughput"};
  for (const std::string& table : old) execute("ALTER TABLE " + table + " RENAME TO old_" + table);
  execute(kTables);
  for (const std::string& table : old) {
    std::string columns;
    Statement names(*this, "SELECT name FROM pragma_table_info('old_" + table + "')");
    while (names.step()) columns += (columns.empty() ? "" : ", ") + names.text();
    execute("INSERT INTO " + table + " (" + columns + ") SELECT " + columns + " FROM old_" + table);
  }
  for (const std::string& table : old) execute("DROP TABLE old_" + table);
  execute("PRAGMA application_id = " + std::to_string(kApplication));
  execute("PRAGMA user_version = " + std::to_string(kVersion));
}

EvalResults::~EvalResults() {
  sqlite3_close(db_);
}

void EvalResults::fail(const std::string& what) const {
  const int code = sqlite3_errcode(db_);
  throw Error(code == SQLITE_NOTADB || code == SQLITE_CORRUPT ? Errc::bad_file : Errc::io,
              path_ + ": " + what + ": " + sqlite3_errmsg(db_));
}

void EvalResults::execute(const std::string& sql) {
  if (sqlite3_exec(db_, sql.c_str(), nullptr, nullptr, nullptr) != SQLITE_OK)
    fail("cannot be written");
}

bool EvalResults::has(const EvalKey& key, bool fidelity) {
  Statement statement(*this, std::string("SELECT 1 FROM results") + kOfSample +
                                 (fidelity ? " AND divergence IS NOT NULL" : "") + " LIMIT 1");
  return statement.bind(key).step();
}

void EvalResults::add(const EvalKey& key, const std::string& model_name, const Sample& sample,
                      const std::vector<Outcome>& outcomes) {
  execute("BEGIN IMMEDIATE");
  try {
    for (const Outcome& outcome : outcomes) {
      Statement row(
          *this,
          "INSERT OR REPLACE INTO results (model, settings, spec, protocol, task, tokens, seed, "
          "sample, files, question, model_name, depth, score, output, expected, metric, "
          "prompt_tokens, "
          "generated_tokens, prompt_bytes, end_bytes, full_bytes, sealed_bytes, open_bytes, "
          "pseudo_bytes, lane_bytes, summary_bytes, dropped_bytes, first_seconds, token_seconds, "
          "prompt_key_bytes, prompt_value_bytes, prompt_pseudo_bytes, prompt_lane_bytes, "
          "prompt_summary_bytes, prompt_dropped_bytes, key_bytes, value_bytes, peak_bytes, "
          "compress_seconds, divergence, agreement, mass_kept) VALUES "
          "(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)");
      std::string expected;
      for (const std::string& answer :
           sample.questions[static_cast<size_t>(outcome.question)].answers)
        expected += (expected.empty() ? "" : "\n") + answer;
      const CacheBytes &prompt = outcome.prompt_bytes, &end = outcome.end_bytes;
      row.bind(key)
          .bind(outcome.question)
          .bind(model_name)
          .bind(sample.depth)
          .bind(outcome.score)
          .bind(text_of(outcome.output))
          .bind(text_of(expected))
          .bind(std::string(metric_name(sample.metric)))
          .bind(outcome.prompt_tokens)
          .bind(outcome.generated_tokens)
          .bind(prompt.total())
          .bind(end.total())
          .bind(outcome.full_bytes)
          .bind(end.sealed)
          .bind(end.open)
          .bind(end.pseudo)
          .bind(end.lanes)
          .bind(end.summaries)
          .bind(end.dropped)
          .bind(outcome.first_seconds)
          .bind(outcome.token_seconds)
          .bind(prompt.keys)
          .bind(prompt.sealed + prompt.open - prompt.keys)
          .bind(prompt.pseudo)
          .bind(prompt.lanes)
          .bind(prompt.summaries)
          .bind(prompt.dropped)
          .bind(end.keys)
          .bind(end.sealed + end.open - end.keys)
          .bind(outcome.peak_bytes)
          .bind(outcome.compress_seconds)
          .bind(outcome.divergence)
          .bind(outcome.agreement)
          .bind(outcome.mass_kept);
      row.step();
    }
    execute("COMMIT");
  } catch (...) {
    sqlite3_exec(db_, "ROLLBACK", nullptr, nullptr, nullptr);
    throw;
  }
}

std::vector<EvalRow> EvalResults::rows(const EvalKey& key) {
  Statement statement(*this, std::string(kSelect) + kOfSample + " ORDER BY question");
  return statement.bind(key).rows();
}

std::vector<EvalRow> EvalResults::all() {
  return Statement(*this, std::string(kSelect) +
                              " LEFT JOIN latest_files USING (model, spec) "
                              "WHERE latest IS NULL OR files = latest "
                              "ORDER BY model_name, model, settings, protocol, tokens, "
                              "spec <> 'full', spec, task, seed, sample, question")
      .rows();
}

bool EvalResults::has_throughput(const EvalKey& key, uint64_t limit_bytes) {
  Statement statement(*this,
                      "SELECT 1 FROM throughput WHERE model = ? AND settings = ? AND spec = ? AND "
                      "tokens = ? AND files = ? AND limit_bytes = ?");
  return statement.bind(key.model)
      .bind(key.settings)
      .bind(key.spec)
      .bind(key.tokens)
      .bind(key.files)
      .bind(limit_bytes)
      .step();
}

void EvalResults::add_throughput(const EvalKey& key, const Throughput& throughput) {
  Statement statement(*this, "INSERT OR REPLACE INTO throughput VALUES (?,?,?,?,?,?,?,?,?,?)");
  statement.bind(key.model)
      .bind(key.settings)
      .bind(key.spec)
      .bind(key.tokens)
      .bind(throughput.limit_bytes)
      .bind(throughput.session_bytes)
      .bind(throughput.sessions)
      .bind(throughput.alone)
      .bind(throughput.together)
      .bind(key.files)
      .step();
}

void EvalResults::note_files(const std::string& model, const std::string& spec,
                             const std::string& files) {
  Statement statement(*this, "INSERT OR REPLACE INTO latest_files VALUES (?,?,?)");
  statement.bind(model).bind(spec).bind(files).step();
}

void EvalResults::note_flags(const std::string& model, const std::string& settings,
                             const std::string& flags) {
  Statement statement(*this, "INSERT OR REPLACE INTO flags VALUES (?,?,?)");
  statement.bind(model).bind(settings).bind(flags).step();
}

std::string EvalResults::flags(const std::string& model, const std::string& settings) {
  Statement statement(*this, "SELECT flags FROM flags WHERE model = ? AND settings = ?");
  return statement.bind(model).bind(settings).step() ? statement.text() : "";
}

}  // namespace pith

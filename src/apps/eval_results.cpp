#include "apps/eval_results.h"

#include <concepts>
#include <sqlite3.h>

#include "base/error.h"

namespace pith {
namespace {

// Marks a file as ours ("pith"), and the version of its tables.
constexpr int kApplication = 0x70697468, kVersion = 1;

constexpr const char* kTables =
    "CREATE TABLE IF NOT EXISTS results ("
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
    " PRIMARY KEY (model, settings, spec, protocol, task, tokens, seed, sample, question)"
    ") WITHOUT ROWID;";
constexpr const char* kOfSample =
    " WHERE model = ? AND settings = ? AND spec = ? AND protocol = ? AND task = ? AND tokens = ? "
    "AND seed = ? AND sample = ?";

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
  Statement& bind_null() {
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
        .bind(key.index);
  }
  // Whether there is a row.
  bool step() {
    const int code = sqlite3_step(statement_);
    if (code != SQLITE_ROW && code != SQLITE_DONE) results_.fail("cannot be read or written");
    return code == SQLITE_ROW;
  }
  double real(int column) { return sqlite3_column_double(statement_, column); }
  int64_t integer(int column) { return sqlite3_column_int64(statement_, column); }
  bool null(int column) { return sqlite3_column_type(statement_, column) == SQLITE_NULL; }

 private:
  void check(int code) {
    if (code != SQLITE_OK) results_.fail("cannot be written");
  }
  EvalResults& results_;
  sqlite3_stmt* statement_ = nullptr;
  int bound_ = 0;
};

EvalResults::EvalResults(const std::string& path) : path_(path) {
  const char* name = path.empty() ? ":memory:" : path.c_str();
  if (sqlite3_open_v2(name, &db_, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, nullptr) !=
      SQLITE_OK) {
    const std::string why = db_ != nullptr ? sqlite3_errmsg(db_) : "out of memory";
    sqlite3_close(db_);
    throw Error(Errc::io, path + ": cannot be opened: " + why);
  }
  try {
    // Another `pith eval` may write to the same file.
    sqlite3_busy_timeout(db_, 10'000);
    const auto pragma = [&](const char* sql) {
      Statement statement(*this, sql);
      return statement.step() ? statement.integer(0) : 0;
    };
    const int64_t application = pragma("PRAGMA application_id");
    const int64_t tables = pragma("SELECT count(*) FROM sqlite_master");
    const int64_t version = pragma("PRAGMA user_version");
    if (tables > 0 && (application != kApplication || version != kVersion))
      throw Error(Errc::bad_file, path +
                                      ": not a results file of this version of pith eval; name "
                                      "another with --results");
    if (tables == 0) {
      execute(("PRAGMA application_id = " + std::to_string(kApplication)).c_str());
      execute(("PRAGMA user_version = " + std::to_string(kVersion)).c_str());
    }
    execute(kTables);
  } catch (...) {
    sqlite3_close(db_);
    throw;
  }
}

EvalResults::~EvalResults() {
  sqlite3_close(db_);
}

void EvalResults::fail(const std::string& what) const {
  const int code = sqlite3_errcode(db_);
  throw Error(code == SQLITE_NOTADB || code == SQLITE_CORRUPT ? Errc::bad_file : Errc::io,
              path_ + ": " + what + ": " + sqlite3_errmsg(db_));
}

void EvalResults::execute(const char* sql) {
  if (sqlite3_exec(db_, sql, nullptr, nullptr, nullptr) != SQLITE_OK) fail("cannot be written");
}

bool EvalResults::has(const EvalKey& key) {
  Statement statement(*this, std::string("SELECT 1 FROM results") + kOfSample + " LIMIT 1");
  return statement.bind(key).step();
}

void EvalResults::add(const EvalKey& key, const std::string& model_name, const Sample& sample,
                      const std::vector<Outcome>& outcomes) {
  execute("BEGIN IMMEDIATE");
  try {
    for (const Outcome& outcome : outcomes) {
      Statement row(*this,
                    "INSERT OR REPLACE INTO results VALUES "
                    "(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)");
      row.bind(key).bind(outcome.question).bind(model_name);
      if (sample.depth) {
        row.bind(*sample.depth);
      } else {
        row.bind_null();
      }
      std::string expected;
      for (const std::string& answer :
           sample.questions[static_cast<size_t>(outcome.question)].answers)
        expected += (expected.empty() ? "" : "\n") + answer;
      const CacheBytes& bytes = outcome.end_bytes;
      row.bind(outcome.score)
          .bind(text_of(outcome.output))
          .bind(text_of(expected))
          .bind(std::string(metric_name(sample.metric)))
          .bind(outcome.prompt_tokens)
          .bind(outcome.generated_tokens)
          .bind(outcome.prompt_bytes.total())
          .bind(bytes.total())
          .bind(outcome.full_bytes)
          .bind(bytes.sealed)
          .bind(bytes.open)
          .bind(bytes.pseudo)
          .bind(bytes.lanes)
          .bind(bytes.summaries)
          .bind(bytes.dropped)
          .bind(outcome.first_seconds)
          .bind(outcome.token_seconds);
      row.step();
    }
    execute("COMMIT");
  } catch (...) {
    sqlite3_exec(db_, "ROLLBACK", nullptr, nullptr, nullptr);
    throw;
  }
}

std::vector<EvalRow> EvalResults::rows(const EvalKey& key) {
  Statement statement(*this,
                      std::string("SELECT score, prompt_tokens, generated_tokens, prompt_bytes, "
                                  "end_bytes, full_bytes, first_seconds, token_seconds, depth "
                                  "FROM results") +
                          kOfSample + " ORDER BY question");
  statement.bind(key);
  std::vector<EvalRow> rows;
  while (statement.step()) {
    EvalRow& row = rows.emplace_back();
    row.key = key;
    row.score = statement.real(0);
    row.prompt_tokens = static_cast<int>(statement.integer(1));
    row.generated_tokens = static_cast<int>(statement.integer(2));
    row.prompt_bytes = static_cast<uint64_t>(statement.integer(3));
    row.end_bytes = static_cast<uint64_t>(statement.integer(4));
    row.full_bytes = static_cast<uint64_t>(statement.integer(5));
    row.first_seconds = statement.real(6);
    row.token_seconds = statement.real(7);
    row.depth = statement.null(8) ? -1 : static_cast<int>(statement.integer(8));
  }
  return rows;
}

}  // namespace pith

// Options of a method: one call reads, documents, checks and defaults an option.
//   const int window = o.count("window", 32, "prompt queries that are watched");
// Errors are Errc::bad_option sentences that start with the method's name:
//   fastkv: no option 'tsp_rat'; did you mean 'tsp_rate'?
//   snapkv: needs budget=...
//   razor: 'heads' is missing
//   fastkv: 'tsp_rate' must be between 0 and 1
#pragma once

#include <cmath>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace pith {

class Calibration;

// "0.1" is a share of the prompt, "2048" is a number of rows, "512MiB" is bytes of the session.
struct Amount {
  double share = 0;
  int rows = 0;
  uint64_t bytes = 0;
  // Rows per head. `row_bytes_all_heads` is what one row in every head of every layer costs.
  int of(int prompt_tokens, uint64_t row_bytes_all_heads) const;
  std::string text() const;  // parses to the same amount
};

struct OptionDoc {
  std::string key, type, fallback, doc;  // type: "count", "ratio", "amount", "flag", "mean|max"
};

class Options {
 public:
  // For one method of a spec; `given` are its key=value pairs.
  Options(std::string_view method, std::vector<std::pair<std::string, std::string>> given);

  int count(std::string_view key, int fallback, std::string_view doc, int low = 0,
            int high = 1 << 30);
  double ratio(std::string_view key, double fallback, std::string_view doc);  // in [0, 1]
  double number(std::string_view key, double fallback, std::string_view doc, double low,
                double high);
  Amount amount(std::string_view key, Amount fallback, std::string_view doc);
  bool flag(std::string_view key, bool fallback, std::string_view doc);
  // One of `choices`, separated by '|': "mean|max".
  std::string word(std::string_view key, std::string_view fallback, std::string_view choices,
                   std::string_view doc);
  std::string file(std::string_view key, std::string_view doc);  // empty if not given
  // A calibration file; throws bad_option if the option is missing.
  const Calibration& calibration(std::string_view key, std::string_view doc,
                                 std::string_view made_by);
  bool given(std::string_view key) const;

  // Called after a method has read its options: throws for keys nobody asked for.
  void finish() const;
  std::span<const OptionDoc> docs() const { return docs_; }
  // "name:key=value,..." of all options that differ from their defaults, in the order of reading.
  std::string canonical() const;

 private:
  const std::string* find(std::string_view key);
  [[noreturn]] void fail(const std::string& what) const;
  void note(std::string_view key, std::string_view type, std::string fallback, std::string value,
            std::string_view doc);

  std::string method_;
  std::vector<std::pair<std::string, std::string>> given_;
  std::vector<OptionDoc> docs_;
  std::vector<std::string> changed_;
  std::vector<std::shared_ptr<const Calibration>> calibrations_;
};

}  // namespace pith

// Options of a method: one call reads, documents, checks and defaults an option.
//   const int window = o.count("window", 32, "prompt queries that are watched");
// Errors are Errc::bad_option sentences that start with the method's name:
//   fastkv: no option 'tsp_rat'; did you mean 'tsp_rate'?
//   snapkv: needs budget=...
//   razor: 'heads' is missing
//   fastkv: 'tsp_rate' must be between 0 and 1
//
// A few options are understood by every spec (`CommonOptions`): they may stand behind any of its
// methods, once. A method that has an opinion about one reads it like an option of its own, with
// its own default; the ones that no method reads get the default of the house.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace pith {

class Calibration;
struct Adapter;
struct KvShape;

// "0.1" is a share of the prompt, "2048" is a number of rows, "512MiB" is bytes of the session.
// At most one of the three is set; none means that no amount was named.
struct Amount {
  double share = 0;    // (0, 1]; 1 keeps everything, generated rows too
  int rows = 0;        // per head
  uint64_t bytes = 0;  // of all heads of all layers
  explicit operator bool() const { return share > 0 || rows > 0 || bytes > 0; }
  // Rows of a prompt of that many tokens, rounded to the nearest; not for bytes.
  int of(int prompt_tokens) const;
  std::string text() const;  // parses to the same amount
};

// False if the text is no amount.
bool parse_amount(std::string_view text, Amount& amount);

struct OptionDoc {
  std::string key, type, fallback, doc;  // type: "count", "ratio", "amount", "flag", "max|mean"
};

using OptionList = std::vector<std::pair<std::string, std::string>>;  // key, value

// The common options of one spec, shared by the Options of its methods.
class CommonOptions {
 public:
  static bool has(std::string_view key);
  // Throws bad_option if the key was given before.
  void give(std::string_view method, std::string key, std::string value);
  bool was_read(std::string_view key) const;  // by any method

 private:
  friend class Options;
  struct Given {
    std::string method, key, value;
    std::string text;      // as it is printed
    bool changes = false;  // differs from a default
  };
  Given* find(std::string_view key);
  std::vector<Given> given_;
  std::vector<std::string> read_;
};

class Options {
 public:
  // For one method of a spec; `given` are its key=value pairs, common ones among them.
  // `model_digest` names the model calibration files must be made for; empty: any.
  Options(std::string_view method, OptionList&& given, CommonOptions& common,
          std::string_view model_digest = {});
  // Reads defaults only: calibration files are blank and nothing is missing. For documentation.
  static Options describing(std::string_view method, CommonOptions& common);

  int count(std::string_view key, int fallback, std::string_view doc, int low = 0,
            int high = kMost);
  // Like count, or the word itself: no value.
  std::optional<int> count_or(std::string_view word, std::string_view key, int fallback,
                              std::string_view doc, int low = 0, int high = kMost);
  double ratio(std::string_view key, double fallback, std::string_view doc);  // in [0, 1]
  double number(std::string_view key, double fallback, std::string_view doc, double low,
                double high);
  Amount amount(std::string_view key, Amount fallback, std::string_view doc);
  bool flag(std::string_view key, bool fallback, std::string_view doc);
  // One of `choices`, separated by '|': "max|mean".
  std::string word(std::string_view key, std::string_view fallback, std::string_view choices,
                   std::string_view doc);
  // Any text, for options with a grammar of their own.
  std::string text(std::string_view key, std::string_view fallback, std::string_view doc);
  std::string file(std::string_view key, std::string_view doc);  // empty if not given
  // A calibration file of the model. Throws bad_option if the option is missing, bad_file if it
  // was made for another model. Lives as long as the Options.
  const Calibration& calibration(std::string_view key, std::string_view doc,
                                 std::string_view made_by);
  // A trained adapter of the model, with the same errors.
  std::shared_ptr<const Adapter> adapter(std::string_view key, std::string_view doc,
                                         std::string_view made_by, const KvShape& shape);
  bool given(std::string_view key) const;
  bool describes() const { return describes_; }
  const CommonOptions& common() const { return *common_; }

  // Throws bad_option with a sentence about the method: "snapkv: <what>".
  [[noreturn]] void fail(const std::string& what) const;
  // "snapkv: 'key' must be <what>"
  [[noreturn]] void refuse(std::string_view key, const std::string& what) const;

  // Called after a method has read its options: throws for keys nobody asked for.
  void finish() const;
  std::span<const OptionDoc> docs() const { return docs_; }
  // What tells the contents of the files that were read, in the order of reading, from others.
  const std::string& files_digest() const { return files_digest_; }
  // "name:key=value,..." of all options that differ from their defaults, in the order of reading;
  // common options are not among them.
  std::string canonical() const;
  // ",key=value" of the common options that differ from their defaults.
  static std::string canonical(const CommonOptions& common);

  static constexpr int kMost = 1 << 30;

 private:
  const std::string* find(std::string_view key) const;
  int whole(std::string_view key, const std::string& text, int low, int high) const;
  void note(std::string_view key, std::string_view type, std::string fallback, std::string value,
            std::string_view doc);

  std::string method_;
  OptionList given_;
  CommonOptions* common_;
  std::string model_digest_;
  bool describes_ = false;
  std::vector<OptionDoc> docs_;
  OptionList changed_;
  std::vector<std::shared_ptr<const Calibration>> calibrations_;
  std::string files_digest_;
};

// The candidate that is spelled most like `word`; empty if none comes close.
std::string closest(std::string_view word, std::span<const std::string_view> candidates);

}  // namespace pith

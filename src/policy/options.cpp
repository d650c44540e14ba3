#include "policy/options.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "base/error.h"
#include "gguf/names.h"
#include "policy/adapter.h"
#include "policy/calibration.h"

namespace pith {
namespace {

constexpr std::array<std::string_view, 10> kCommonKeys = {
    "budget", "sink",        "recent",      "reduce_every", "page",
    "cache",  "value_cache", "first_cache", "rotate",       "outliers"};

// The shortest text that reads back as the same number.
std::string number_text(double value) {
  char buffer[32];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value).ptr;
  return {buffer, end};
}

// The whole text, and nothing but a finite number.
bool parse_number(std::string_view text, double& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() && std::isfinite(value);
}

bool all_digits(std::string_view text) {
  return !text.empty() && std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; });
}

struct Unit {
  std::string_view name;
  uint64_t bytes;
};
constexpr std::array<Unit, 8> kUnits = {{{"TiB", uint64_t{1} << 40},
                                         {"GiB", uint64_t{1} << 30},
                                         {"MiB", uint64_t{1} << 20},
                                         {"KiB", uint64_t{1} << 10},
                                         {"GB", 1'000'000'000},
                                         {"MB", 1'000'000},
                                         {"kB", 1'000},
                                         {"B", 1}}};

bool same_letters(std::string_view a, std::string_view b) {
  return std::ranges::equal(a, b, [](char x, char y) { return (x | 32) == (y | 32); });
}

bool parse_bytes(std::string_view text, uint64_t& bytes) {
  const size_t digits = text.find_first_not_of("0123456789.");
  if (digits == 0 || digits == std::string_view::npos) return false;
  const auto unit = std::ranges::find_if(
      kUnits, [&](const Unit& u) { return same_letters(u.name, text.substr(digits)); });
  double value = 0;
  if (unit == kUnits.end() || !parse_number(text.substr(0, digits), value)) return false;
  const double exact = value * static_cast<double>(unit->bytes);
  if (exact < 1 || exact > 0x1p60) return false;
  bytes = static_cast<uint64_t>(std::llround(exact));
  return true;
}

// Edits that turn one word into the other: letters changed, added, dropped, neighbours swapped.
size_t distance(std::string_view a, std::string_view b) {
  std::vector<size_t> before(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) last[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        row[j] = std::min(row[j], before[j - 2] + 1);
    }
    before.swap(last);
    last.swap(row);
  }
  return last[b.size()];
}

}  // namespace

int Amount::of(int prompt_tokens) const {
  PITH_CHECK(bytes == 0, "an amount of bytes is turned into rows by the budget");
  return rows > 0 ? rows : static_cast<int>(std::lround(share * prompt_tokens));
}

std::string Amount::text() const {
  if (bytes > 0) {
    const auto unit = std::ranges::find_if(
        kUnits, [&](const Unit& u) { return u.bytes % 1024 == 0 && bytes % u.bytes == 0; });
    return unit == kUnits.end() ? std::to_string(bytes) + "B"
                                : std::to_string(bytes / unit->bytes) + std::string(unit->name);
  }
  if (rows > 0) return std::to_string(rows);
  const std::string text = number_text(share);
  return text.find_first_of(".e") == std::string::npos ? text + ".0" : text;
}

bool parse_amount(std::string_view text, Amount& amount) {
  amount = {};
  if (parse_bytes(text, amount.bytes)) return true;
  if (all_digits(text)) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), amount.rows);
    return error == std::errc() && amount.rows > 0 && amount.rows <= Options::kMost;
  }
  return parse_number(text, amount.share) && amount.share > 0 && amount.share <= 1;
}

std::string closest(std::string_view word, std::span<const std::string_view> candidates) {
  std::string_view best;
  size_t least = std::max<size_t>(1, word.size() / 3) + 1;
  for (std::string_view candidate : candidates) {
    if (candidate.size() > word.size() + least || word.size() > candidate.size() + least) continue;
    const size_t edits = distance(word, candidate);
    if (edits < least && edits < candidate.size()) least = edits, best = candidate;
  }
  return std::string(best);
}

bool CommonOptions::has(std::string_view key) {
  return std::ranges::find(kCommonKeys, key) != kCommonKeys.end();
}

void CommonOptions::give(std::string_view method, std::string key, std::string value) {
  if (const Given* before = find(key)) {
    if (before->method == method)
      throw Error(Errc::bad_option, std::string(method) + ": '" + key + "' is given twice");
    throw Error(Errc::bad_option, "both '" + before->method + "' and '" + std::string(method) +
                                      "' give '" + key + "', which counts for the whole spec");
  }
  given_.push_back({std::string(method), std::move(key), std::move(value), {}, false});
}

CommonOptions::Given* CommonOptions::find(std::string_view key) {
  const auto it = std::ranges::find(given_, key, &Given::key);
  return it == given_.end() ? nullptr : &*it;
}

bool CommonOptions::was_read(std::string_view key) const {
  return std::ranges::find(read_, key) != read_.end();
}

Options::Options(std::string_view method, OptionList&& given, CommonOptions& common,
                 std::string_view model_digest)
    : method_(method), common_(&common), model_digest_(model_digest) {
  for (auto& [key, value] : given) {
    if (CommonOptions::has(key)) {
      common.give(method_, std::move(key), std::move(value));
    } else {
      if (find(key)) fail(shown_name(key) + " is given twice");
      given_.emplace_back(std::move(key), std::move(value));
    }
  }
}

Options Options::describing(std::string_view method, CommonOptions& common) {
  Options options(method, {}, common);
  options.describes_ = true;
  return options;
}

const std::string* Options::find(std::string_view key) const {
  if (CommonOptions::has(key)) {
    const CommonOptions::Given* given = common_->find(key);
    return given ? &given->value : nullptr;
  }
  for (const auto& [name, value] : given_)
    if (name == key) return &value;
  return nullptr;
}

bool Options::given(std::string_view key) const {
  return find(key) != nullptr;
}

void Options::fail(const std::string& what) const {
  throw Error(Errc::bad_option, method_ + ": " + what);
}

// A common option is the fault of the method behind which it stands.
void Options::refuse(std::string_view key, const std::string& what) const {
  const CommonOptions::Given* given = common_->find(key);
  throw Error(Errc::bad_option,
              (given ? given->method : method_) + ": '" + std::string(key) + "' must be " + what);
}

void Options::note(std::string_view key, std::string_view type, std::string fallback,
                   std::string value, std::string_view doc) {
  const bool changes = value != fallback;
  if (CommonOptions::Given* given = common_->find(key)) {
    given->text = std::move(value);
    given->changes |= changes;
  } else if (changes) {
    changed_.emplace_back(key, std::move(value));
  }
  if (CommonOptions::has(key)) common_->read_.emplace_back(key);
  docs_.push_back({std::string(key), std::string(type), std::move(fallback), std::string(doc)});
}

int Options::whole(std::string_view key, const std::string& text, int low, int high) const {
  double value = 0;
  const std::string_view digits = std::string_view(text).substr(text.starts_with('-') ? 1 : 0);
  if (!all_digits(digits) || !parse_number(text, value))
    refuse(key, "a whole number, not " + shown_name(text));
  if (value < low || value > high)
    refuse(key, high == kMost ? "at least " + std::to_string(low)
                              : "between " + std::to_string(low) + " and " + std::to_string(high));
  return static_cast<int>(value);
}

int Options::count(std::string_view key, int fallback, std::string_view doc, int low, int high) {
  const std::string* text = find(key);
  const int value = text ? whole(key, *text, low, high) : fallback;
  note(key, "count", std::to_string(fallback), std::to_string(value), doc);
  return value;
}

std::optional<int> Options::count_or(std::string_view word, std::string_view key, int fallback,
                                     std::string_view doc, int low, int high) {
  const std::string* text = find(key);
  std::optional<int> value = fallback;
  if (text && *text == word)
    value.reset();
  else if (text)
    value = whole(key, *text, low, high);
  note(key, "count|" + std::string(word), std::to_string(fallback),
       value ? std::to_string(*value) : std::string(word), doc);
  return value;
}

double Options::ratio(std::string_view key, double fallback, std::string_view doc) {
  const double value = number(key, fallback, doc, 0, 1);
  docs_.back().type = "ratio";
  return value;
}

double Options::number(std::string_view key, double fallback, std::string_view doc, double low,
                       double high) {
  double value = fallback;
  if (const std::string* text = find(key)) {
    if (!parse_number(*text, value)) refuse(key, "a number, not " + shown_name(*text));
    if (value < low || value > high)
      refuse(key, "between " + number_text(low) + " and " + number_text(high));
  }
  note(key, "number", number_text(fallback), number_text(value), doc);
  return value;
}

Amount Options::amount(std::string_view key, Amount fallback, std::string_view doc) {
  Amount value = fallback;
  if (const std::string* text = find(key))
    if (!parse_amount(*text, value))
      refuse(key, "rows (2048), a share of the prompt (0.1) or bytes (512MiB), not " +
                      shown_name(*text));
  const auto text_of = [](const Amount& a) { return a ? a.text() : std::string(); };
  note(key, "amount", text_of(fallback), text_of(value), doc);
  return value;
}

bool Options::flag(std::string_view key, bool fallback, std::string_view doc) {
  bool value = fallback;
  if (const std::string* text = find(key)) {
    const bool yes = *text == "true" || *text == "yes" || *text == "on" || *text == "1";
    const bool no = *text == "false" || *text == "no" || *text == "off" || *text == "0";
    if (!yes && !no) refuse(key, "true or false, not " + shown_name(*text));
    value = yes;
  }
  note(key, "flag", fallback ? "true" : "false", value ? "true" : "false", doc);
  return value;
}

std::string Options::word(std::string_view key, std::string_view fallback, std::string_view choices,
                          std::string_view doc) {
  const std::string* text = find(key);
  std::string value(text ? *text : fallback);
  if (text) {
    const std::string known = "|" + std::string(choices) + "|";
    if (text->empty() || text->find('|') != std::string::npos ||
        known.find("|" + *text + "|") == std::string::npos)
      refuse(key, "one of " + std::string(choices) + ", not " + shown_name(*text));
  }
  note(key, choices, std::string(fallback), value, doc);
  return value;
}

std::string Options::text(std::string_view key, std::string_view fallback, std::string_view doc) {
  const std::string* given = find(key);
  std::string value(given ? *given : fallback);
  note(key, "text", std::string(fallback), value, doc);
  return value;
}

std::string Options::file(std::string_view key, std::string_view doc) {
  const std::string* text = find(key);
  std::string value = text ? *text : std::string();
  if (text && text->empty()) refuse(key, "the name of a file");
  note(key, "file", {}, value, doc);
  return value;
}

const Calibration& Options::calibration(std::string_view key, std::string_view doc,
                                        std::string_view made_by) {
  const std::string path = file(key, std::string(doc) + "; made by `" + std::string(made_by) + "`");
  docs_.back().type = "calibration";
  if (describes_) {
    calibrations_.push_back(Calibration::blank());
  } else {
    if (path.empty())
      fail("'" + std::string(key) + "' is missing; `" + std::string(made_by) + "` makes the file");
    calibrations_.push_back(Calibration::load(path, model_digest_));
    files_digest_ += calibrations_.back()->content_digest();
  }
  return *calibrations_.back();
}

std::shared_ptr<const Adapter> Options::adapter(std::string_view key, std::string_view doc,
                                                std::string_view made_by, const KvShape& shape) {
  const std::string path = file(key, std::string(doc) + "; made by `" + std::string(made_by) + "`");
  docs_.back().type = "adapter";
  if (describes_) return std::make_shared<const Adapter>();
  if (path.empty())
    fail("'" + std::string(key) + "' is missing; `" + std::string(made_by) + "` makes the file");
  std::shared_ptr<const Adapter> adapter = Adapter::load(path, shape, model_digest_);
  files_digest_ += adapter->content_digest;
  return adapter;
}

void Options::finish() const {
  std::vector<std::string_view> known;
  for (const OptionDoc& doc : docs_) known.push_back(doc.key);
  for (const auto& [key, value] : given_) {
    if (std::ranges::find(known, key) != known.end()) continue;
    known.insert(known.end(), kCommonKeys.begin(), kCommonKeys.end());
    const std::string near = closest(key, known);
    fail("no option " + shown_name(key) +
         (near.empty() ? "; `pith methods " + method_ + "` lists them"
                       : "; did you mean '" + near + "'?"));
  }
}

namespace {

// Separators of the grammar stand in quotes.
std::string pair_text(const std::string& key, const std::string& value) {
  const bool plain = value.find_first_of(",+ \t") == std::string::npos;
  return key + "=" + (plain ? value : "\"" + value + "\"");
}

}  // namespace

std::string Options::canonical() const {
  std::string text = method_;
  for (const auto& [key, value] : changed_)
    text += (text.size() == method_.size() ? ':' : ',') + pair_text(key, value);
  return text;
}

std::string Options::canonical(const CommonOptions& common) {
  std::string text;
  for (const std::string_view key : kCommonKeys) {
    const auto given = std::ranges::find(common.given_, key, &CommonOptions::Given::key);
    if (given != common.given_.end() && given->changes)
      text += "," + pair_text(given->key, given->text);
  }
  return text;
}

}  // namespace pith

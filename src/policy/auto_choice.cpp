#include "policy/auto_choice.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <functional>
#include <limits>
#include <optional>

#include "base/error.h"
#include "gguf/names.h"

namespace pith {
namespace {

constexpr double kNear = 1.0 / 8;  // of a length, still inside what was measured

// What one point promises for a prompt.
struct Promise {
  const ProfilePoint* point = nullptr;
  double score = 0, bytes = 0, most_bytes = 0, first_seconds = 0, token_seconds = 0;
};

enum class Range { below, inside, above };

class Chooser {
 public:
  Chooser(const Profile& profile, const Wish& wish, int tokens)
      : profile_(profile), wish_(wish), tokens_(tokens) {
    const std::vector<double>& lengths = profile.lengths;
    if (tokens < lengths.front() * (1 - kNear))
      range_ = Range::below;
    else if (tokens > lengths.back() * (1 + kNear))
      range_ = Range::above;
    for (const ProfilePoint& point : profile.points) promises_.push_back(promise(point));
  }

  Choice choose() const {
    const Promise& full = promises_.front();
    if ((wish_.quality >= 1 || range_ == Range::below) && fits(full, wish_)) return result(full);
    const Promise* const best = wish_.quality >= 1 ? nullptr : best_of(wish_);
    if (best == nullptr) refuse();
    return result(*best);
  }

 private:
  bool is_full(const ProfilePoint& point) const { return &point == &profile_.points.front(); }

  // Linear between the two lengths around the prompt; `of` is smooth in the length.
  template <class Of>
  double between(const ProfilePoint& point, Of of) const {
    const std::vector<double>& lengths = profile_.lengths;
    const double n = std::clamp<double>(tokens_, lengths.front(), lengths.back());
    const size_t upper = upper_length(n);
    const double high = of(point.cells[upper], lengths[upper]);
    if (upper == 0) return high;
    const double low = of(point.cells[upper - 1], lengths[upper - 1]);
    const double part = (n - lengths[upper - 1]) / (lengths[upper] - lengths[upper - 1]);
    return low + part * (high - low);
  }
  size_t upper_length(double n) const {
    const auto at = std::ranges::lower_bound(profile_.lengths, n);
    return std::min(static_cast<size_t>(at - profile_.lengths.begin()),
                    profile_.lengths.size() - 1);
  }

  double bytes(const ProfilePoint& point, double ProfileCell::*per_token) const {
    // A shorter prompt than all of them is taken for the shortest.
    const double n = std::max<double>(tokens_, profile_.lengths.front());
    return n * between(point, [&](const ProfileCell& c, double) { return c.*per_token; });
  }

  // Attention makes a prompt's time grow with its square, so time per token grows linearly.
  double first_seconds(const ProfilePoint& point) const {
    const std::vector<double>& lengths = profile_.lengths;
    const double n = std::max<double>(tokens_, lengths.front());
    double each =
        between(point, [](const ProfileCell& c, double l) { return c.first_seconds / l; });
    if (n <= lengths.back()) return n * each;
    double slope = each / lengths.back();  // as if attention were all of it
    if (lengths.size() > 1) {
      const size_t last = lengths.size() - 1;
      const double before = point.cells[last - 1].first_seconds / lengths[last - 1];
      slope = std::clamp((each - before) / (lengths[last] - lengths[last - 1]), 0.0, slope);
    }
    each += slope * (n - lengths.back());
    return n * each;
  }

  // What is certain of a score, within its error.
  double score(const ProfilePoint& point) const {
    if (is_full(point)) return 1;
    const auto certain = [](const ProfileCell& cell) {
      return std::clamp(cell.score - cell.score_error, 0.0, 1.0);
    };
    double least = 1;
    if (range_ != Range::inside) {
      for (const ProfileCell& cell : point.cells) least = std::min(least, certain(cell));
      return least;
    }
    const double n = std::clamp<double>(tokens_, profile_.lengths.front(), profile_.lengths.back());
    const size_t upper = upper_length(n);
    least = certain(point.cells[upper]);
    if (upper > 0 && profile_.lengths[upper] > n)
      least = std::min(least, certain(point.cells[upper - 1]));
    return least;
  }

  Promise promise(const ProfilePoint& point) const {
    Promise p{&point};
    p.score = score(point);
    p.bytes = bytes(point, &ProfileCell::bytes);
    p.most_bytes = std::max(p.bytes, bytes(point, &ProfileCell::most_bytes));
    p.first_seconds = first_seconds(point);
    p.token_seconds = between(point, [](const ProfileCell& c, double) { return c.token_seconds; });
    return p;
  }

  // Outside of what was measured only half the loss is allowed.
  double quality(const Wish& wish) const {
    return range_ == Range::inside ? wish.quality : 1 - (1 - wish.quality) / 2;
  }

  bool fits(const Promise& p, const Wish& wish) const {
    return (wish.memory == 0 || p.most_bytes <= static_cast<double>(wish.memory)) &&
           (wish.ttft == 0 || p.first_seconds <= wish.ttft) &&
           (wish.quality == 0 || p.score >= quality(wish));
  }

  const Promise* best_of(const Wish& wish) const {
    const Promise* best = nullptr;
    for (const Promise& p : promises_) {
      if (!fits(p, wish)) continue;
      // Without a wish for it, quality is what the rest is spent on.
      const auto rank = [&](const Promise& x) {
        return std::array{wish.quality > 0 ? 0.0 : -x.score, x.bytes, x.first_seconds, -x.score};
      };
      if (best == nullptr || rank(p) < rank(*best)) best = &p;
    }
    return best;
  }

  Choice result(const Promise& p) const;
  [[noreturn]] void refuse() const;
  std::vector<float> floors(const ProfilePoint& point) const;

  const Profile& profile_;
  const Wish& wish_;
  const int tokens_;
  Range range_ = Range::inside;
  std::vector<Promise> promises_;
};

std::string grouped(double count) {
  std::string digits = std::to_string(std::llround(count));
  for (size_t at = digits.size(); at > 3; at -= 3) digits.insert(at - 3, ",");
  return digits;
}

std::string shown(const char* format, double value) {
  char text[48];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

std::string score_words(double score) {
  return shown("%.3g", std::floor(score * 1000) / 1000) + " of the full cache's score";
}

// The lowest of the lengths around, less what prompts differ by from one another.
std::vector<float> Chooser::floors(const ProfilePoint& point) const {
  constexpr float kSlack = 0.02f;
  std::vector<float> floors = point.cells.back().least_mass;
  const double n = std::clamp<double>(tokens_, profile_.lengths.front(), profile_.lengths.back());
  const size_t upper = upper_length(n);
  for (size_t i = 0; i < floors.size(); ++i) {
    float least = point.cells[upper].least_mass[i];
    if (upper > 0) least = std::min(least, point.cells[upper - 1].least_mass[i]);
    floors[i] = std::max(0.0f, least - kSlack);
  }
  return floors;
}

Choice Chooser::result(const Promise& p) const {
  Choice choice;
  choice.spec = p.point->spec;
  choice.wish = wish_;
  choice.tokens = tokens_;
  choice.score = p.score;
  choice.bytes = p.bytes;
  choice.most_bytes = p.most_bytes;
  choice.first_seconds = p.first_seconds;
  choice.token_seconds = p.token_seconds;
  if (!is_full(*p.point)) choice.floors = floors(*p.point);
  if (range_ == Range::inside) return choice;
  const bool below = range_ == Range::below;
  const double end = below ? profile_.lengths.front() : profile_.lengths.back();
  choice.warnings.push_back(
      "auto: nothing was measured for a prompt of " + grouped(tokens_) + " tokens, only from " +
      grouped(profile_.lengths.front()) + " to " + grouped(profile_.lengths.back()) + "; " +
      (is_full(*p.point) ? "it keeps everything"
                         : "'" + choice.spec + "' is a guess from " + grouped(end)) +
      "; `pith calibrate profile --lengths` measures more");
  return choice;
}

// Names what is nearest if one of the wishes is given up, each in turn.
void Chooser::refuse() const {
  struct Part {
    std::string asked;
    std::function<void(Wish&)> without;
    std::function<double(const Promise&)> distance;
    std::function<std::string(const Promise&)> found;
  };
  std::vector<Part> parts;
  if (wish_.quality > 0)
    parts.push_back({score_words(quality(wish_)), [](Wish& w) { w.quality = 0; },
                     [](const Promise& p) { return -p.score; },
                     [](const Promise& p) { return "keeps " + score_words(p.score); }});
  if (wish_.memory > 0)
    parts.push_back({bytes_words(static_cast<double>(wish_.memory)), [](Wish& w) { w.memory = 0; },
                     [](const Promise& p) { return p.most_bytes; },
                     [](const Promise& p) { return "takes " + bytes_words(p.most_bytes); }});
  if (wish_.ttft > 0)
    parts.push_back({shown("%.3g s", wish_.ttft) + " to the first token",
                     [](Wish& w) { w.ttft = 0; }, [](const Promise& p) { return p.first_seconds; },
                     [](const Promise& p) { return shown("takes %.3g s", p.first_seconds); }});
  std::string asked, nearest;
  for (const Part& part : parts) {
    asked += (asked.empty() ? "" : " and ") + part.asked;
    Wish other = wish_;
    part.without(other);
    const Promise* best = nullptr;
    for (const Promise& p : promises_)
      if (fits(p, other) && (best == nullptr || part.distance(p) < part.distance(*best))) best = &p;
    if (best == nullptr) continue;
    nearest += (nearest.empty() ? "; " : ", ") + std::string("'") + best->point->spec + "' " +
               part.found(*best) + (parts.size() > 1 ? " and keeps to the rest" : "");
  }
  if (nearest.empty()) {
    // No two of them go together.
    for (const Part& part : parts) {
      const auto best = std::ranges::min_element(promises_, {}, part.distance);
      nearest += (nearest.empty() ? "; " : ", ") + std::string("'") + best->point->spec + "' " +
                 part.found(*best);
    }
  }
  throw Error(Errc::bad_request, "auto: nothing that was measured gives " + asked +
                                     " for a prompt of " + grouped(tokens_) + " tokens" + nearest);
}

// "2s", "500ms", "1.5"
std::optional<double> parse_seconds(std::string_view text) {
  double unit = 1;
  if (text.ends_with("ms")) {
    unit = 1e-3;
    text.remove_suffix(2);
  } else if (text.ends_with("s")) {
    text.remove_suffix(1);
  }
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !(value > 0 && value < 1e9))
    return {};
  return value * unit;
}

}  // namespace

std::string bytes_words(double bytes) {
  for (const auto& [unit, size] : {std::pair{"GiB", 0x1p30}, {"MiB", 0x1p20}, {"KiB", 0x1p10}})
    if (bytes >= size) return shown("%.4g ", bytes / size) + unit;
  return shown("%.0f bytes", bytes);
}

Choice choose(const Profile& profile, const Wish& wish, int prompt_tokens) {
  return Chooser(profile, wish, std::max({prompt_tokens, wish.tokens, 1})).choose();
}

Undecided read_auto(Options& o, const KvShape& shape, std::string_view model_digest) {
  Undecided undecided{{}, {}, {}, shape, std::string(model_digest)};
  Wish& wish = undecided.wish;
  const Amount memory =
      o.amount("memory", {}, "bytes that the session may hold once its prompt is read");
  if (memory && memory.bytes == 0) o.refuse("memory", "bytes, such as 512MiB");
  wish.memory = memory.bytes;
  wish.quality = o.ratio("quality", 0, "share of the full cache's score that is to stay");
  const std::string ttft = o.text("ttft", "", "time to the first token, such as 2s or 500ms");
  if (!ttft.empty()) {
    const std::optional<double> seconds = parse_seconds(ttft);
    if (!seconds) o.refuse("ttft", "a time such as 2s or 500ms, not " + shown_name(ttft));
    wish.ttft = *seconds;
  }
  wish.tokens = o.count("tokens", 0,
                        "what the session is to be chosen for, if that is more than its first "
                        "prompt: a conversation, a document that comes in turns");
  const Calibration& file =
      o.calibration("calibration", "what specs cost this model", "pith calibrate profile");
  if (o.describes()) return undecided;
  if (wish.memory == 0 && wish.quality == 0 && wish.ttft == 0)
    o.fail("needs something to aim at: memory=512MiB, quality=0.98 or ttft=2s");
  undecided.file = file.path();
  undecided.profile = read_profile(file, shape);
  return undecided;
}

}  // namespace pith

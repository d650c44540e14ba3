#include "apps/eval_figures.h"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>
#include <functional>
#include <map>
#include <set>

#include "apps/units.h"

namespace pith {
namespace {

using Anchor = Svg::Anchor;

// 1, 2, 5, 10, ... from the last one that is not above `low` to the first that is not below `high`.
std::vector<double> log_ticks(double low, double high) {
  std::vector<double> ticks;
  double power = std::pow(10.0, std::floor(std::log10(low)));
  for (;; power *= 10)
    for (const double step : {1.0, 2.0, 5.0}) {
      const double tick = step * power;
      if (!ticks.empty() && tick <= low * (1 + 1e-9)) ticks.clear();
      ticks.push_back(tick);
      if (tick >= high * (1 - 1e-9) && ticks.size() > 1) return ticks;
    }
}

// From 0 in four to six even steps.
std::vector<double> even_ticks(double high) {
  if (!(high > 0)) high = 1;
  double step = std::pow(10.0, std::floor(std::log10(high)));
  if (high / step < 2)
    step /= 5;
  else if (high / step < 4)
    step /= 2;
  std::vector<double> ticks;
  for (int i = 0; i == 0 || ticks.back() < high * (1 - 1e-9); ++i) ticks.push_back(i * step);
  return ticks;
}

std::string tick_text(double value) {
  return fmt::format("{:.4g}", value);
}

// The place of a plot, and its scales.
struct Frame {
  double left, top, width, height;
  std::vector<double> x_ticks, y_ticks;

  double x(double value) const {  // logarithmic
    const double low = std::log(x_ticks.front()), high = std::log(x_ticks.back());
    return left + width * (std::log(value) - low) / (high - low);
  }
  double y(double value) const {
    const double low = y_ticks.front(), high = y_ticks.back();
    return top + height * (1 - (value - low) / (high - low));
  }
  void draw(Svg& svg, std::string_view x_title, std::string_view y_title,
            const std::function<std::string(double)>& x_text = tick_text) const {
    for (const double tick : y_ticks) {
      svg.line(left, y(tick), left + width, y(tick), "grid");
      svg.text(left - 8, y(tick) + 4.5, tick_text(tick), "q", Anchor::end);
    }
    for (const double tick : x_ticks) {
      svg.line(x(tick), top, x(tick), top + height, "grid");
      svg.text(x(tick), top + height + 18, x_text(tick), "q", Anchor::middle);
    }
    svg.line(left, top + height, left + width, top + height, "axis");
    svg.text(left + width / 2, top + height + 40, x_title, "t", Anchor::middle);
    svg.text(left - 46, top + height / 2, y_title, "t", Anchor::middle, -90);
  }
};

std::string interval_text(const Mean& mean) {
  return fixed_text(100 * mean.mean, 1) +
         (mean.half_width ? " +/- " + fixed_text(100 * *mean.half_width, 1) : "");
}

double percent(const EvalCell& cell) {
  return 100 * cell.figures.share;
}

// Names of series with their marks, `columns` side by side from (x, y) on.
void draw_legend(Svg& svg, double x, double y, double width, int columns,
                 const std::vector<std::string>& names) {
  const double each = width / columns;
  for (size_t i = 0; i < names.size(); ++i) {
    const double at = x + each * static_cast<double>(i % static_cast<size_t>(columns));
    const double row = y + 20 * static_cast<double>(i / static_cast<size_t>(columns));
    svg.mark(at + 6, row - 4, static_cast<int>(i), true);
    svg.text(at + 18, row, names[i]);
  }
}

int legend_columns(const std::vector<std::string>& names) {
  size_t longest = 1;
  for (const std::string& name : names) longest = std::max(longest, name.size());
  return std::clamp(static_cast<int>(640 / (8 * longest + 30)), 1, 4);
}
int legend_height(const std::vector<std::string>& names) {
  const int columns = legend_columns(names);
  return 20 * ((static_cast<int>(names.size()) + columns - 1) / columns);
}

std::string shorter(const std::string& text, size_t most) {
  return text.size() <= most ? text : text.substr(0, most - 3) + "...";
}

}  // namespace

std::string family_of(const std::string& spec) {
  size_t at = 0;
  while ((at = spec.find("budget=", at)) != std::string::npos) {
    if (at > 0 && (spec[at - 1] == ':' || spec[at - 1] == ',')) break;
    ++at;
  }
  if (at == std::string::npos) return spec;
  const size_t end = std::min(spec.find_first_of(",+", at), spec.size());
  const bool more = end < spec.size() && spec[end] == ',';
  // Takes one of the separators around it along.
  return more ? spec.substr(0, at) + spec.substr(end + 1)
              : spec.substr(0, at - 1) + spec.substr(end);
}

std::vector<EvalSeries> series_of(std::span<const EvalCell> cells) {
  std::vector<EvalSeries> all;
  for (size_t i = 0; i < cells.size(); ++i) {
    const std::string family = family_of(cells[i].key.spec);
    auto at = std::ranges::find(all, family, &EvalSeries::family);
    if (at == all.end()) at = all.insert(all.end(), {family, {}});
    at->cells.push_back(i);
  }
  for (EvalSeries& series : all)
    std::ranges::sort(series.cells, {}, [&](size_t i) {
      return std::pair(cells[i].key.tokens, cells[i].figures.prompt_bytes);
    });
  return all;
}

std::vector<EvalCell> last_of_specs(std::span<const EvalCell> cells) {
  std::vector<EvalCell> last;
  for (const EvalCell& cell : cells) {
    if (!last.empty() && last.back().key.spec == cell.key.spec &&
        last.back().key.tokens == cell.key.tokens)
      last.pop_back();
    last.push_back(cell);
  }
  return last;
}

std::vector<int> front_places(std::span<const EvalCell> cells) {
  std::vector<CostPoint> points;
  for (const EvalCell& cell : cells) points.push_back({cell.figures.prompt_bytes, cell.score.mean});
  const std::vector<bool> front = pareto_front(points);
  std::vector<size_t> order;
  for (size_t i = 0; i < points.size(); ++i)
    if (front[i]) order.push_back(i);
  std::ranges::stable_sort(order, {}, [&](size_t i) { return points[i].cost; });
  std::vector<int> places(points.size(), 0);
  for (size_t i = 0; i < order.size(); ++i) places[order[i]] = static_cast<int>(i) + 1;
  return places;
}

Svg score_figure(std::span<const EvalCell> cells) {
  const std::vector<EvalSeries> series = series_of(cells);
  std::vector<std::string> names;
  for (const EvalSeries& one : series) names.push_back(shorter(one.family, 60));
  double low = 100, high = 100;
  for (const EvalCell& cell : cells)
    if (percent(cell) > 0) {
      low = std::min(low, percent(cell));
      high = std::max(high, percent(cell));
    }
  const Frame frame{64, 16, 640, 330, log_ticks(low, high), {0, 20, 40, 60, 80, 100}};
  Svg svg(720, 420 + legend_height(names), "score against the bytes of the cache");
  frame.draw(svg, "cache after the prompt, % of a full f16 cache", "score");

  const std::vector<int> places = front_places(cells);
  std::vector<size_t> front;
  for (size_t i = 0; i < cells.size(); ++i)
    if (places[i] > 0 && percent(cells[i]) > 0) front.push_back(i);
  std::ranges::sort(front, {}, [&](size_t i) { return places[i]; });
  const auto y_of = [&](const EvalCell& cell) { return frame.y(100 * cell.score.mean); };
  std::vector<double> steps;
  for (const size_t i : front) {
    const double x = frame.x(percent(cells[i]));
    if (!steps.empty()) steps.insert(steps.end(), {x, steps.back()});
    steps.insert(steps.end(), {x, y_of(cells[i])});
  }
  if (!steps.empty()) {
    steps.insert(steps.end(), {frame.left + frame.width, steps.back()});
    svg.path(steps, "front");
  }

  for (size_t s = 0; s < series.size(); ++s) {
    const int color = static_cast<int>(s) % kSeriesColors;
    std::vector<double> points;
    for (const size_t i : series[s].cells) {
      const EvalCell& cell = cells[i];
      if (percent(cell) <= 0) continue;
      const double x = frame.x(percent(cell));
      points.insert(points.end(), {x, y_of(cell)});
      if (!cell.score.half_width) continue;
      const double low_score = std::max(cell.score.mean - *cell.score.half_width, 0.0);
      const double high_score = std::min(cell.score.mean + *cell.score.half_width, 1.0);
      svg.line(x, frame.y(100 * low_score), x, frame.y(100 * high_score),
               fmt::format("thin c{}", color));
    }
    if (points.size() > 2) svg.path(points, fmt::format("s c{}", color));
  }
  for (size_t s = 0; s < series.size(); ++s)
    for (const size_t i : series[s].cells) {
      const EvalCell& cell = cells[i];
      if (percent(cell) <= 0) continue;
      const double x = frame.x(percent(cell)), y = y_of(cell);
      svg.mark(
          x, y, static_cast<int>(s), places[i] > 0,
          fmt::format("{}: score {} at {} ({:.1f} %){}", cell.key.spec, interval_text(cell.score),
                      bytes_text(static_cast<uint64_t>(cell.figures.prompt_bytes)), percent(cell),
                      places[i] > 0 ? fmt::format(", number {} of the front", places[i]) : ""));
      // Nothing lies above and left of a point of the front.
      if (places[i] > 0)
        svg.text(x - 7, y - (y > frame.top + 12 ? 8 : -16), std::to_string(places[i]), "t b",
                 Anchor::end);
    }
  draw_legend(svg, 64, 416, 640, legend_columns(names), names);
  return svg;
}

Svg bytes_figure(std::span<const EvalCell> cells) {
  std::vector<size_t> shown;
  double most = 0;
  size_t longest = 8;
  for (size_t i = 0; i < cells.size(); ++i)
    if (cells[i].figures.parts) {
      shown.push_back(i);
      most = std::max(most, cells[i].figures.prompt_bytes);
      longest = std::max(longest, std::min<size_t>(cells[i].key.spec.size(), 44));
    }
  const double left = 7.6 * static_cast<double>(longest) + 12;
  const double width = 720 - left - 90;
  const int height = 44 + 24 * static_cast<int>(shown.size());
  Svg svg(720, height, "bytes held after the prompt, by class");
  constexpr std::string_view kNames[] = {"keys", "values", "metadata", "summaries", "other"};
  double at = left;
  for (int i = 0; i < 5; ++i) {
    svg.rect(at, 4, 12, 12, fmt::format("f c{}", i));
    svg.text(at + 17, 15, kNames[i]);
    at += 30 + 8 * static_cast<double>(kNames[i].size());
  }
  double y = 30;
  for (const size_t i : shown) {
    const EvalCell& cell = cells[i];
    const EvalFigures::Classes& held = cell.figures.parts->prompt;
    svg.text(left - 8, y + 13, shorter(cell.key.spec, 44), "t", Anchor::end);
    double x = left;
    int color = 0;
    for (const double bytes : {held.keys, held.values, held.metadata, held.summaries, held.other}) {
      const double part = most > 0 ? width * bytes / most : 0;
      if (part > 0)
        svg.rect(x, y, part, 17, fmt::format("f c{}", color), 1,
                 fmt::format("{}: {} of {}", cell.key.spec,
                             bytes_text(static_cast<uint64_t>(bytes)), kNames[color]));
      x += part;
      ++color;
    }
    svg.text(x + 8, y + 13, bytes_text(static_cast<uint64_t>(cell.figures.prompt_bytes)), "q");
    y += 24;
  }
  return svg;
}

Svg needle_figure(std::span<const EvalRow> rows, const std::string& spec) {
  std::map<std::pair<int, int>, std::pair<double, int>> grid;  // depth, length: sum, count
  std::set<int> depths, lengths;
  for (const EvalRow& row : rows) {
    if (row.depth < 0 || row.key.spec != spec) continue;
    const int depth = (row.depth + 5) / 10 * 10;
    auto& [sum, count] = grid[{depth, row.key.tokens}];
    sum += row.score;
    ++count;
    depths.insert(depth);
    lengths.insert(row.key.tokens);
  }
  const double left = 66, top = 30, wide = lengths.size() > 8 ? 44 : 56, high = 22;
  const int title = static_cast<int>(8 * std::min<size_t>(spec.size(), 44));
  const int width = std::max(static_cast<int>(left + wide * static_cast<double>(lengths.size())),
                             static_cast<int>(left) + title) +
                    12;
  const int height = static_cast<int>(top + high * static_cast<double>(depths.size()) + 46);
  Svg svg(width, height, "needle scores of " + spec + " by length and depth");
  svg.text(left, 18, shorter(spec, 44), "t b");
  svg.text(15, top + high * static_cast<double>(depths.size()) / 2, "depth, %", "t", Anchor::middle,
           -90);
  double y = top;
  for (const int depth : depths) {
    svg.text(left - 8, y + 16, std::to_string(depth), "q", Anchor::end);
    double x = left;
    for (const int length : lengths) {
      svg.rect(x, y, wide, high, "cell");
      const auto at = grid.find({depth, length});
      if (at != grid.end()) {
        const double score = at->second.first / at->second.second;
        svg.rect(x + 0.5, y + 0.5, wide - 1, high - 1, "heat", score,
                 fmt::format("{} tokens, depth {} %: {:.1f}", length, depth, 100 * score));
        svg.text(x + wide / 2, y + 16, fixed_text(100 * score, 0), score > 0.55 ? "on" : "t",
                 Anchor::middle);
      }
      x += wide;
    }
    y += high;
  }
  double x = left;
  for (const int length : lengths) {
    svg.text(x + wide / 2, y + 18, count_text(static_cast<uint64_t>(length)), "q", Anchor::middle);
    x += wide;
  }
  svg.text((left + x) / 2, y + 38, "tokens", "t", Anchor::middle);
  return svg;
}

Svg speed_figure(std::span<const EvalCell> cells) {
  std::vector<std::string> specs;
  double low = 0, high = 0, first = 0, each = 0;
  std::set<double> lengths;
  std::vector<std::string> families;
  for (const bool first_of_family : {true, false})
    for (const EvalCell& cell : cells) {
      const std::string family = family_of(cell.key.spec);
      if (specs.size() == kSpeedSeries || std::ranges::count(specs, cell.key.spec) > 0 ||
          (first_of_family && std::ranges::count(families, family) > 0))
        continue;
      families.push_back(family);
      specs.push_back(cell.key.spec);
    }
  for (const EvalCell& cell : cells) {
    const double tokens = cell.key.tokens;
    lengths.insert(tokens);
    low = low > 0 ? std::min(low, tokens) : tokens;
    high = std::max(high, tokens);
  }
  for (const EvalCell& cell : cells)
    if (std::ranges::count(specs, cell.key.spec) > 0) {
      first = std::max(first, cell.figures.first_seconds);
      each = std::max(each, 1000 * cell.figures.token_seconds);
    }
  std::vector<std::string> names;
  for (const std::string& spec : specs) names.push_back(shorter(spec, 60));
  Svg svg(720, 330 + legend_height(names), "speed against the length of the prompt");
  // Ticks where there are measurements, and room at both sides.
  std::vector<double> ticks(lengths.begin(), lengths.end());
  const Frame panels[] = {{64, 30, 270, 220, {low / 1.15, high * 1.15}, even_ticks(first)},
                          {430, 30, 270, 220, {low / 1.15, high * 1.15}, even_ticks(each)}};
  for (int p = 0; p < 2; ++p) {
    const Frame& frame = panels[p];
    svg.text(frame.left, 18, p == 0 ? "time to the first token" : "time per token", "t b");
    frame.draw(svg, "tokens", p == 0 ? "seconds" : "milliseconds",
               [](double) { return std::string(); });
    double last = -100;
    for (const double tick : ticks) {
      if (frame.x(tick) - last < 44) continue;  // no room for its number
      last = frame.x(tick);
      svg.line(last, frame.top + frame.height, last, frame.top + frame.height + 4, "axis");
      svg.text(last, frame.top + frame.height + 18, count_text(static_cast<uint64_t>(tick)), "q",
               Anchor::middle);
    }
    for (size_t s = 0; s < specs.size(); ++s) {
      std::vector<double> points;
      for (const EvalCell& cell : cells)
        if (cell.key.spec == specs[s])
          points.insert(points.end(), {frame.x(cell.key.tokens),
                                       frame.y(p == 0 ? cell.figures.first_seconds
                                                      : 1000 * cell.figures.token_seconds)});
      if (points.size() > 2) svg.path(points, fmt::format("s c{} d{}", s % kSeriesColors, s % 3));
    }
    for (size_t s = 0; s < specs.size(); ++s)
      for (const EvalCell& cell : cells)
        if (cell.key.spec == specs[s]) {
          const double value =
              p == 0 ? cell.figures.first_seconds : 1000 * cell.figures.token_seconds;
          svg.mark(frame.x(cell.key.tokens), frame.y(value), static_cast<int>(s), true,
                   fmt::format("{}, {} tokens: {:.3g} {}", specs[s], cell.key.tokens, value,
                               p == 0 ? "s" : "ms"));
        }
  }
  draw_legend(svg, 64, 316, 640, legend_columns(names), names);
  return svg;
}

}  // namespace pith

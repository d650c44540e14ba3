#include "train/loss_curve.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <sstream>

#include "base/error.h"
#include "base/output_file.h"

namespace pith {
namespace {

constexpr TokenRole kShown[] = {TokenRole::text, TokenRole::copy, TokenRole::answer};

std::string heading() {
  std::string text = "step,tokens,set,length,rate,seconds,loss";
  for (const TokenRole role : kShown) {
    const std::string_view name = kRoleNames[static_cast<size_t>(role)];
    for (const char* const column : {"_targets", "_loss", "_right"})
      text.append(",").append(name).append(column);
  }
  return text + "\n";
}

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", value);
  return text;
}

std::string row(const CurvePoint& p) {
  std::string text = std::to_string(p.step) + "," + std::to_string(p.tokens) + "," +
                     (p.held_out ? "held_out" : "training") + "," + std::to_string(p.length) + "," +
                     number(p.rate) + "," + number(p.seconds) + "," + number(p.loss);
  for (const TokenRole role : kShown) {
    const RoleScore& score = p.score.roles[static_cast<size_t>(role)];
    text += "," + std::to_string(score.targets);
    if (score.targets == 0) {
      text += ",,";
      continue;
    }
    const auto targets = static_cast<double>(score.targets);
    text += "," + number(score.loss / targets) + "," +
            number(static_cast<double>(score.right) / targets);
  }
  return text + "\n";
}

bool parse(const std::string& line, CurvePoint& p) {
  std::vector<std::string> cells;
  std::stringstream stream(line);
  for (std::string cell; std::getline(stream, cell, ',');) cells.push_back(cell);
  cells.resize(7 + 3 * std::size(kShown));
  try {
    p.step = std::stoll(cells[0]);
    p.tokens = std::stoll(cells[1]);
    p.held_out = cells[2] == "held_out";
    p.length = std::stoi(cells[3]);
    p.rate = std::stod(cells[4]);
    p.seconds = std::stod(cells[5]);
    p.loss = std::stod(cells[6]);
    for (size_t i = 0; i < std::size(kShown); ++i) {
      RoleScore& score = p.score.roles[static_cast<size_t>(kShown[i])];
      score.targets = std::stoll(cells[7 + 3 * i]);
      if (score.targets == 0) continue;
      const auto targets = static_cast<double>(score.targets);
      score.loss = std::stod(cells[8 + 3 * i]) * targets;
      score.right = std::llround(std::stod(cells[9 + 3 * i]) * targets);
    }
  } catch (const std::exception&) {
    return false;
  }
  return true;
}

}  // namespace

CurveFile::CurveFile(std::string path, int64_t keep_steps) : path_(std::move(path)) {
  std::ifstream in(path_);
  std::string line;
  if (in) std::getline(in, line);
  while (in && std::getline(in, line)) {
    CurvePoint point;
    if (parse(line, point) && point.step <= keep_steps) points_.push_back(point);
  }
  std::string text = heading();
  for (const CurvePoint& point : points_) text += row(point);
  write_file(path_, text);
}

void CurveFile::add(const CurvePoint& point) {
  points_.push_back(point);
  std::ofstream out(path_, std::ios::app);
  out << row(point) << std::flush;
  if (!out) throw Error(Errc::io, path_ + ": cannot be written");
}

std::string curve_svg(const std::vector<CurvePoint>& points, const std::string& title) {
  constexpr double kLeft = 60, kTop = 40, kWidth = 640, kHeight = 320;
  constexpr std::array<const char*, std::size(kShown)> kColours = {"#4269d0", "#3ca951", "#ff725c"};
  struct Dot {
    double x, y;
  };
  double most = 1, most_loss = 0.5;
  std::vector<std::vector<Dot>> lines(2 * std::size(kShown));
  for (const CurvePoint& p : points) {
    for (size_t i = 0; i < std::size(kShown); ++i) {
      const RoleScore& score = p.score.roles[static_cast<size_t>(kShown[i])];
      if (score.targets == 0) continue;
      const Dot dot{static_cast<double>(p.tokens), score.loss / static_cast<double>(score.targets)};
      lines[2 * i + (p.held_out ? 1 : 0)].push_back(dot);
      most = std::max(most, dot.x);
      most_loss = std::max(most_loss, dot.y);
    }
  }
  std::string svg =
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 760 420\" "
      "font-family=\"sans-serif\" "
      "font-size=\"12\">\n<rect width=\"760\" height=\"420\" fill=\"white\"/>\n";
  const auto text = [&](double x, double y, const std::string& what, const char* anchor) {
    svg += "<text x=\"" + number(x) + "\" y=\"" + number(y) + "\" text-anchor=\"" + anchor + "\">" +
           what + "</text>\n";
  };
  const auto line = [&](double x1, double y1, double x2, double y2) {
    svg += "<line x1=\"" + number(x1) + "\" y1=\"" + number(y1) + "\" x2=\"" + number(x2) +
           "\" y2=\"" + number(y2) + "\" stroke=\"#ddd\"/>\n";
  };
  text(kLeft, 24, title, "start");
  const double loss_step = most_loss > 4 ? 1 : 0.5;
  for (double loss = 0; loss <= most_loss; loss += loss_step) {
    const double y = kTop + kHeight * (1 - loss / most_loss);
    line(kLeft, y, kLeft + kWidth, y);
    text(kLeft - 8, y + 4, number(loss), "end");
  }
  for (int i = 0; i <= 4; ++i) {
    const double x = kLeft + kWidth * i / 4;
    line(x, kTop, x, kTop + kHeight);
    text(x, kTop + kHeight + 18, number(most * i / 4 / 1e6) + " M", "middle");
  }
  text(kLeft + kWidth / 2, kTop + kHeight + 38,
       "tokens learnt from; nats per target, dashed: held out", "middle");
  for (size_t l = 0; l < lines.size(); ++l) {
    const std::vector<Dot>& dots = lines[l];
    constexpr size_t kDrawn = 200;
    const size_t group = std::max<size_t>(1, dots.size() / kDrawn);
    std::string path;
    for (size_t i = 0; i + group <= dots.size(); i += group) {
      Dot mean{0, 0};
      for (size_t j = i; j < i + group; ++j) {
        mean.x += dots[j].x / static_cast<double>(group);
        mean.y += dots[j].y / static_cast<double>(group);
      }
      path += (path.empty() ? "M" : " L") + number(kLeft + kWidth * mean.x / most) + " " +
              number(kTop + kHeight * (1 - mean.y / most_loss));
    }
    if (path.empty()) continue;
    const size_t role = l / 2;
    svg += "<path d=\"" + path + "\" fill=\"none\" stroke=\"" + kColours[role] + "\"" +
           (l % 2 == 1 ? " stroke-dasharray=\"4 3\"" : " stroke-opacity=\"0.6\"") + "/>\n";
  }
  for (size_t i = 0; i < std::size(kShown); ++i) {
    const double y = kTop + 14 + 16 * static_cast<double>(i);
    svg += std::string("<rect x=\"620\" y=\"") + number(y - 9) +
           "\" width=\"10\" height=\"10\" fill=\"" + kColours[i] + "\"/>\n";
    text(636, y, std::string(kRoleNames[static_cast<size_t>(kShown[i])]), "start");
  }
  return svg + "</svg>\n";
}

}  // namespace pith

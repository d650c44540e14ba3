#include "apps/svg.h"

#include <fmt/format.h>

#include "text/utf8.h"

namespace pith {

const std::string_view kLightColors =
    "--ink: #1b1f24; --paper: #fdfdfb; --line: #d9d9d2; --quiet: #5f6368; --heat: #0b62ad;\n"
    "  --c0: #0b62ad; --c1: #b84a00; --c2: #00795a; --c3: #a8397c; --c4: #8a6a00; --c5: #4a3fb0;\n"
    "  --c6: #7d3b1f; --c7: #4f5b66;";
const std::string_view kDarkColors =
    "--ink: #e6e6e2; --paper: #16181b; --line: #3a3d42; --quiet: #a2a29c; --heat: #5aa9f0;\n"
    "  --c0: #5aa9f0; --c1: #ff9148; --c2: #3ec79c; --c3: #f08cc4; --c4: #e0b840; --c5: #a69cff;\n"
    "  --c6: #d69a78; --c7: #aab4be;";

const std::string_view kSvgClasses = R"css(.t { fill: var(--ink); }
.q { fill: var(--quiet); }
.on { fill: var(--paper); }
.b { font-weight: 600; }
.grid { stroke: var(--line); stroke-width: 1; fill: none; }
.axis { stroke: var(--quiet); stroke-width: 1; fill: none; }
.front { stroke: var(--quiet); stroke-width: 2; stroke-dasharray: 5 4; fill: none; }
.ring { stroke: var(--ink); stroke-width: 1.5; fill: none; }
.heat { fill: var(--heat); }
.cell { stroke: var(--line); stroke-width: 1; fill: none; }
.c0 { --c: var(--c0); } .c1 { --c: var(--c1); } .c2 { --c: var(--c2); } .c3 { --c: var(--c3); }
.c4 { --c: var(--c4); } .c5 { --c: var(--c5); } .c6 { --c: var(--c6); } .c7 { --c: var(--c7); }
.s { stroke: var(--c); stroke-width: 1.5; fill: none; }
.thin { stroke: var(--c); stroke-width: 1; fill: none; }
.f { fill: var(--c); }
.d1 { stroke-dasharray: 7 3; }
.d2 { stroke-dasharray: 2 3; }
.hollow { stroke: var(--c); stroke-width: 1.5; fill: var(--paper); }
.full { stroke: var(--c); stroke-width: 1.5; fill: var(--c); }
)css";

namespace {

constexpr std::string_view kColors[] = {"#0b62ad", "#b84a00", "#00795a", "#a8397c",
                                        "#8a6a00", "#4a3fb0", "#7d3b1f", "#4f5b66"};

std::string title_text(std::string_view title) {
  return title.empty() ? "" : fmt::format("<title>{}</title>", xml_text(title));
}

}  // namespace

// Programs that set papers know no variables.
std::string paper_classes() {
  std::string css =
      "text { font-family: 'DejaVu Sans', Helvetica, Arial, sans-serif; }\n"
      ".t { fill: #000; } .q { fill: #444; } .on { fill: #fff; } .b { font-weight: bold; }\n"
      ".grid, .cell { stroke: #ddd; stroke-width: 1; fill: none; }\n"
      ".axis { stroke: #444; stroke-width: 1; fill: none; }\n"
      ".front { stroke: #444; stroke-width: 2; stroke-dasharray: 5 4; fill: none; }\n"
      ".ring { stroke: #000; stroke-width: 1.5; fill: none; }\n"
      ".heat { fill: #0b62ad; }\n";
  for (int i = 0; i < kSeriesColors; ++i)
    css += fmt::format(
        ".s.c{0} {{ stroke: {1}; stroke-width: 1.5; fill: none; }}\n"
        ".thin.c{0} {{ stroke: {1}; stroke-width: 1; fill: none; }}\n"
        ".f.c{0} {{ fill: {1}; }}\n"
        ".hollow.c{0} {{ stroke: {1}; stroke-width: 1.5; fill: #fff; }}\n"
        ".full.c{0} {{ stroke: {1}; stroke-width: 1.5; fill: {1}; }}\n",
        i, kColors[i]);
  return css + ".d1 { stroke-dasharray: 7 3; } .d2 { stroke-dasharray: 2 3; }\n";
}

std::string xml_text(std::string_view text) {
  std::string valid, out;
  while (!text.empty()) {
    const size_t length = utf8_valid_prefix(text);
    valid += text.substr(0, length);
    text.remove_prefix(length);
    if (text.empty()) break;
    utf8_append(valid, 0xfffd);
    text.remove_prefix(1);
  }
  for (const char c : valid) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += static_cast<unsigned char>(c) < 32 ? ' ' : c;
    }
  }
  return out;
}

Svg::Svg(int width, int height, std::string_view about)
    : head_(fmt::format("viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" role=\"img\" "
                        "aria-label=\"{2}\" font-size=\"13\"",
                        width, height, xml_text(about))) {}

Svg& Svg::line(double x1, double y1, double x2, double y2, std::string_view classes) {
  body_ +=
      fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" class=\"{}\"/>\n",
                  x1, y1, x2, y2, classes);
  return *this;
}

Svg& Svg::rect(double x, double y, double width, double height, std::string_view classes,
               double opacity, std::string_view title) {
  const std::string faint = opacity < 1 ? fmt::format(" fill-opacity=\"{:.3f}\"", opacity) : "";
  body_ += fmt::format(
      "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" "
      "class=\"{}\"{}>{}</rect>\n",
      x, y, width, height, classes, faint, title_text(title));
  return *this;
}

Svg& Svg::path(const std::vector<double>& points, std::string_view classes) {
  std::string d;
  for (size_t i = 0; i + 1 < points.size(); i += 2)
    d += fmt::format("{}{:.1f} {:.1f}", i == 0 ? "M" : "L", points[i], points[i + 1]);
  body_ += fmt::format("<path d=\"{}\" class=\"{}\"/>\n", d, classes);
  return *this;
}

Svg& Svg::text(double x, double y, std::string_view text, std::string_view classes, Anchor anchor,
               int turned) {
  constexpr std::string_view kAnchors[] = {"start", "middle", "end"};
  const std::string turn =
      turned != 0 ? fmt::format(" transform=\"rotate({} {:.1f} {:.1f})\"", turned, x, y) : "";
  body_ +=
      fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"{}\" text-anchor=\"{}\"{}>{}</text>\n",
                  x, y, classes, kAnchors[static_cast<int>(anchor)], turn, xml_text(text));
  return *this;
}

Svg& Svg::mark(double x, double y, int series, bool filled, std::string_view title) {
  const std::string attributes =
      fmt::format("class=\"{} c{}\"", filled ? "full" : "hollow", series % kSeriesColors);
  const std::string inside = title_text(title);
  // Of about the same area.
  const auto polygon = [&](std::string_view points) {
    body_ += fmt::format(
        "<polygon points=\"{}\" transform=\"translate({:.1f} {:.1f})\" {}>{}"
        "</polygon>\n",
        points, x, y, attributes, inside);
  };
  switch (series % 6) {
    case 0:
      body_ += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"5\" {}>{}</circle>\n", x, y,
                           attributes, inside);
      break;
    case 1:
      polygon("-4.5,-4.5 4.5,-4.5 4.5,4.5 -4.5,4.5");
      break;
    case 2:
      polygon("0,-6 6,4.5 -6,4.5");
      break;
    case 3:
      polygon("0,-6.5 6.5,0 0,6.5 -6.5,0");
      break;
    case 4:
      polygon("0,6 6,-4.5 -6,-4.5");
      break;
    default:
      polygon("-2,-6 2,-6 2,-2 6,-2 6,2 2,2 2,6 -2,6 -2,2 -6,2 -6,-2 -2,-2");
      break;
  }
  return *this;
}

std::string Svg::inline_text() const {
  return "<svg " + head_ + ">\n" + body_ + "</svg>\n";
}

std::string Svg::file_text() const {
  return "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\" " +
         head_ + ">\n<style>\n" + paper_classes() + "</style>\n" + body_ + "</svg>\n";
}

}  // namespace pith

// Drawings as SVG. Colours are classes, so that the same drawing takes those of a page, light or
// dark, or stands alone with the ones that svg_file gives it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace pith {

std::string xml_text(std::string_view text);  // with & < > " as entities, no control characters

// Marks of the series of a figure: their classes are c0 ... c7, their shapes repeat after six.
inline constexpr int kSeriesColors = 8;

class Svg {
 public:
  // In user units, which are pixels at full size. `about` says what is seen, for who sees nothing.
  Svg(int width, int height, std::string_view about);

  // `classes` and what they mean are in kSvgClasses.
  Svg& line(double x1, double y1, double x2, double y2, std::string_view classes);
  Svg& rect(double x, double y, double width, double height, std::string_view classes,
            double opacity = 1, std::string_view title = {});
  // Through points x, y, x, y, ...
  Svg& path(const std::vector<double>& points, std::string_view classes);
  enum class Anchor { start, middle, end };
  Svg& text(double x, double y, std::string_view text, std::string_view classes = "t",
            Anchor anchor = Anchor::start, int turned = 0);
  // The mark of series `series`, filled or not; the title is shown where it is pointed at.
  Svg& mark(double x, double y, int series, bool filled, std::string_view title = {});

  std::string inline_text() const;  // for a page that has kSvgClasses
  std::string file_text() const;    // a file of its own, in the colours of paper

 private:
  std::string head_, body_;
};

// Rules of the classes, over the variables --ink --paper --line --quiet --c0 ... --c7.
extern const std::string_view kSvgClasses;
// The same in the colours of paper, without variables.
std::string paper_classes();
// ":root { ... }" of light pages, and of dark ones.
extern const std::string_view kLightColors, kDarkColors;

}  // namespace pith

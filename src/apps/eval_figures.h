// Drawings of what `pith eval` measured.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "apps/eval_summary.h"
#include "apps/svg.h"

namespace pith {

// A spec without its budget: the points of one line.
std::string family_of(const std::string& spec);

// What a budgeted method is to a figure: its color, mark and name.
struct EvalSeries {
  std::string family;
  std::vector<size_t> cells;  // by bytes
};
std::vector<EvalSeries> series_of(std::span<const EvalCell> cells);

// The cells of a figure have one model and protocol. Of each spec there is one cell of a length:
// the mean of its tasks, or its only task.
std::vector<EvalCell> last_of_specs(std::span<const EvalCell> cells);

// Score against bytes held after the prompt, of last_of_specs of one length. Points of the front
// are filled and carry their places in it, counted from 1.
Svg score_figure(std::span<const EvalCell> cells);
// The front's places, 0 for what is not on it.
std::vector<int> front_places(std::span<const EvalCell> cells);
// Bytes by class, a bar per spec; of the same cells.
Svg bytes_figure(std::span<const EvalCell> cells);
// Length by depth, in steps of ten percent, of one spec's rows of a task whose samples have depths.
Svg needle_figure(std::span<const EvalRow> rows, const std::string& spec);
// Seconds to the first token and milliseconds per token against the length, of last_of_specs of
// several lengths. Draws at most kSpeedSeries specs: the first of each family, then the others.
inline constexpr size_t kSpeedSeries = 8;
Svg speed_figure(std::span<const EvalCell> cells);

}  // namespace pith

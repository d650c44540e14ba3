#include "apps/stop_strings.h"

#include <algorithm>

namespace pith {

StopStrings::StopStrings(std::vector<std::string> stops) : stops_(std::move(stops)) {
  std::erase(stops_, "");
}

std::string StopStrings::feed(std::string_view text) {
  if (hit()) return {};
  waiting_ += text;
  // The string that is complete first ends the text, so the result does not depend on how the
  // text was split; of two that are complete at once, the longer.
  size_t start = 0, end = waiting_.npos;
  for (const std::string& stop : stops_) {
    const size_t at = waiting_.find(stop);
    if (at == waiting_.npos || at + stop.size() > end) continue;
    if (at + stop.size() == end && at >= start) continue;
    start = at;
    end = at + stop.size();
    found_ = stop;
  }
  if (hit()) {
    std::string shown = waiting_.substr(0, start);
    waiting_.clear();
    return shown;
  }
  size_t held = 0;  // the longest end of the text that begins a stop string
  for (const std::string& stop : stops_) {
    for (size_t n = std::min(stop.size() - 1, waiting_.size()); n > held; --n)
      if (std::string_view(waiting_).ends_with(std::string_view(stop).substr(0, n))) held = n;
  }
  std::string shown = waiting_.substr(0, waiting_.size() - held);
  waiting_.erase(0, shown.size());
  return shown;
}

std::string StopStrings::flush() {
  std::string rest = std::move(waiting_);
  waiting_.clear();
  return rest;
}

}  // namespace pith

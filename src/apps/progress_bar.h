// Progress on stderr while a command works, only if stderr is a terminal:
//
//   prefill  ########------------  42 %  13,824 / 32,768   1,204 /s   0:15 left
//
// The bar is redrawn ten times a second at most and erased when it is done, so that what a command
// prints afterwards starts on an empty line.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <mutex>
#include <set>
#include <string>
#include <string_view>

#include "base/progress.h"

namespace pith {

// One line, at most `columns` characters wide. `seconds` since the work began. With `blocks`, the
// bar is drawn with Unicode blocks in eighths of a character.
std::string bar_line(std::string_view what, int64_t done, int64_t total, double seconds,
                     int columns, bool blocks);

// Stops on Ctrl-C (apps/stop.h) and draws the bar. Commands hand it to the library.
class ProgressBar final : public Monitor {
 public:
  // Draws if `shown` and stderr is a terminal.
  explicit ProgressBar(bool shown = true);
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;
  ~ProgressBar() override;

  void progress(std::string_view what, int64_t done, int64_t total) override;
  void warn(std::string_view sentence) override;  // a line on stderr, terminal or not, once
  bool stopped() const override;
  void erase();  // before printing while the work goes on

 private:
  using Clock = std::chrono::steady_clock;
  std::mutex mutex_;
  bool shown_, blocks_;
  bool drawn_ = false;
  std::set<std::string, std::less<>> said_;
  std::string what_;
  Clock::time_point start_, last_;
};

}  // namespace pith

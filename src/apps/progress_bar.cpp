#include "apps/progress_bar.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fmt/core.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "apps/stop.h"
#include "apps/units.h"

namespace pith {
namespace {

constexpr int kBarWidth = 24;
constexpr auto kRedraw = std::chrono::milliseconds(100);

int terminal_columns() {
  winsize size = {};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

bool terminal_draws_blocks() {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    const char* value = std::getenv(name);
    if (value == nullptr || *value == '\0') continue;
    const std::string_view locale = value;
    return locale.find("UTF-8") != locale.npos || locale.find("utf8") != locale.npos;
  }
  return false;
}

std::string draw_bar(double share, bool blocks) {
  std::string bar;
  if (!blocks) {
    const int full = static_cast<int>(share * kBarWidth);
    bar.append(static_cast<size_t>(full), '#');
    bar.append(static_cast<size_t>(kBarWidth - full), '-');
    return bar;
  }
  // U+2588 is a full block; U+258F to U+2589 are one to seven eighths; U+2591 is a light shade.
  int eighths = static_cast<int>(share * kBarWidth * 8);
  for (int column = 0; column < kBarWidth; ++column, eighths -= 8) {
    if (eighths >= 8) {
      bar += "\xe2\x96\x88";
    } else if (eighths > 0) {
      bar += "\xe2\x96";
      bar += static_cast<char>(0x90 - eighths);
    } else {
      bar += "\xe2\x96\x91";
    }
  }
  return bar;
}

}  // namespace

std::string bar_line(std::string_view what, int64_t done, int64_t total, double seconds,
                     int columns, bool blocks) {
  total = std::max<int64_t>(total, 1);
  done = std::clamp<int64_t>(done, 0, total);
  const double share = static_cast<double>(done) / static_cast<double>(total);
  const std::string head = fmt::format("{:<10} ", what);
  std::string tail = fmt::format(" {:3.0f} %", share * 100);
  // Parts are added while they fit; a narrow terminal shows the bar and the share.
  const auto add = [&](const std::string& part) {
    if (static_cast<int>(head.size() + tail.size() + part.size()) + kBarWidth < columns)
      tail += part;
  };
  add(fmt::format("  {} / {}", count_text(static_cast<uint64_t>(done)),
                  count_text(static_cast<uint64_t>(total))));
  if (done > 0 && seconds > 0.5) {
    const double rate = static_cast<double>(done) / seconds;
    add(rate >= 10 ? fmt::format("  {} /s", count_text(static_cast<uint64_t>(rate)))
                   : fmt::format("  {:.1f} /s", rate));
    add("  " + duration_text(seconds * (1 - share) / share) + " left");
  }
  return head + draw_bar(share, blocks) + tail;
}

ProgressBar::ProgressBar(bool shown)
    : shown_(shown && isatty(STDERR_FILENO) == 1), blocks_(terminal_draws_blocks()) {}

ProgressBar::~ProgressBar() {
  erase();
}

void ProgressBar::erase() {
  const std::lock_guard lock(mutex_);
  if (!drawn_) return;
  std::fputs("\r\x1b[K", stderr);
  std::fflush(stderr);
  drawn_ = false;
}

bool ProgressBar::stopped() const {
  return interrupted();
}

void ProgressBar::warn(std::string_view sentence) {
  erase();
  const std::lock_guard lock(mutex_);
  if (!said_.emplace(sentence).second) return;
  std::fprintf(stderr, "pith: %.*s\n", static_cast<int>(sentence.size()), sentence.data());
}

void ProgressBar::progress(std::string_view what, int64_t done, int64_t total) {
  if (!shown_) return;
  const std::lock_guard lock(mutex_);
  const Clock::time_point now = Clock::now();
  if (what != what_) {
    what_ = what;
    start_ = now;
    last_ = now - kRedraw;
  }
  // Quick work never shows a bar.
  if (now - last_ < kRedraw) return;
  last_ = now;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const std::string line = bar_line(what, done, total, seconds, terminal_columns(), blocks_);
  std::fprintf(stderr, "\r%s\x1b[K", line.c_str());
  std::fflush(stderr);
  drawn_ = true;
}

}  // namespace pith

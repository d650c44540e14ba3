#include "apps/stop.h"

#include <atomic>
#include <signal.h>
#include <unistd.h>

#include "base/error.h"
#include "base/output_file.h"

namespace pith {
namespace {

std::atomic<int> signals{0};
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may touch it");

void on_signal(int) {
  if (signals.fetch_add(1) == 0) return;
  remove_unfinished_files();
  _exit(130);
}

}  // namespace

void catch_interrupts() {
  struct sigaction action = {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  // No SA_RESTART: a read from the terminal returns, so that a prompt can be left.
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaction(signal, &action, nullptr);
}

bool interrupted() noexcept {
  return signals.load() != 0;
}

void forget_interrupt() noexcept {
  signals.store(0);
}

void stop_now() {
  throw Error(Errc::interrupted, "interrupted");
}

}  // namespace pith

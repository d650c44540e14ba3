#include "base/progress.h"

#include "base/error.h"

namespace pith {

void Monitor::check() const {
  if (stopped()) throw Error(Errc::interrupted, "interrupted");
}

Monitor& Monitor::silent() {
  static Monitor monitor;
  return monitor;
}

}  // namespace pith

#include "base/error.h"

#include <cstdio>
#include <cstdlib>

namespace pith {

void check_failed(const char* condition, const char* file, int line, const char* why) noexcept {
  std::fprintf(stderr, "pith: broken invariant: %s (%s) at %s:%d\n", why, condition, file, line);
  std::abort();
}

}  // namespace pith

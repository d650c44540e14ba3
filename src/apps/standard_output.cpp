#include "apps/standard_output.h"

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "base/error.h"

namespace pith {

std::string output_refusal() {
  return std::string("cannot write to standard output: ") + std::strerror(errno);
}

void flush_output() {
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) throw Error(Errc::io, output_refusal());
}

void show_text(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  flush_output();
}

}  // namespace pith

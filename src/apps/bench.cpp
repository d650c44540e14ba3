// pith bench.
#include "apps/command.h"
#include "base/error.h"

namespace pith {
namespace {

std::function<int()> setup(Arguments&) {
  return []() -> int { throw Error(Errc::unsupported, "this build has no 'bench' command yet"); };
}

}  // namespace

const Command kBenchCommand = {
    "bench", "measure speed and memory", "", "$ pith bench", setup,
};

}  // namespace pith

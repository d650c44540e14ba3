// pith demo.
#include "apps/command.h"
#include "base/error.h"

namespace pith {
namespace {

std::function<int()> setup(Arguments&) {
  return []() -> int { throw Error(Errc::unsupported, "this build has no 'demo' command yet"); };
}

}  // namespace

const Command kDemoCommand = {
    "demo", "answer a long prompt from compressed caches, and compare", "", "$ pith demo", setup,
};

}  // namespace pith

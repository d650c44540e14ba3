// full: keep everything. The baseline every other method is measured against.
#include "policy/registry.h"

namespace pith {
namespace {

const RegisterMethod full{{
    .name = "full",
    .summary = "keep every row of every head",
    .source = "the baseline",
    .family = "baseline: everything stays",
    .build =
        [](Options& o, const KvShape& /*shape*/, Policy& /*policy*/) {
          if (o.given("budget"))
            o.fail("keeps every row; name a method that chooses, or no budget");
        },
    .cost = "nothing",
}};

}  // namespace
}  // namespace pith

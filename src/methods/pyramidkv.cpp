// PyramidKV (arXiv:2406.02069): attention gathers in fewer rows from layer to layer, so the budget
// falls in a line from the first layer to the last. methods.md 9.5.
#include "policy/defaults.h"
#include "policy/registry.h"

namespace pith {
namespace {

const RegisterMethod pyramidkv{{
    .name = "pyramidkv",
    .summary = "give lower layers more rows than upper ones",
    .source = "arXiv:2406.02069",
    .family = "hybrid: budgets of layers and heads",
    .build =
        [](Options& o, const KvShape& /*shape*/, Policy& p) {
          const double beta =
              o.number("beta", 20,
                       "the last layer gets 1 / beta of the mean, the first as much more", 1, 1000);
          default_vote(p, {.window = 8, .width = 7, .pool = Pool::max});
          p.budget = falling_budget(beta);
        },
    .cost = "a prompt: snapkv's vote; a token: nothing",
    .departures =
        {"The rows of all layers add up to layers x budget, by largest remainders. The reference "
         "rounds the step between layers down, which at 32 layers and 128 rows keeps 10.5 % more.",
         "Prompts shorter than twice the budget get an even share, as in the reference.",
         "Rows are kept per key/value head; see `snapkv`."},
}};

}  // namespace
}  // namespace pith

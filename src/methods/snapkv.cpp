// SnapKV (arXiv:2404.14469): the last queries of the prompt vote for the rows to keep. The vote is
// every spec's default; this name asks for it in so many words.
#include "policy/defaults.h"
#include "policy/registry.h"

namespace pith {
namespace {

const RegisterMethod snapkv{{
    .name = "snapkv",
    .summary = "keep what the last queries of the prompt attend to",
    .source = "arXiv:2404.14469",
    .family = "selection: attention scores",
    .build =
        [](Options& o, const KvShape& /*shape*/, Policy& p) {
          p.vote = vote_options(o, {.window = 32, .width = 7, .pool = Pool::max});
          protect_options(o, p, {.sink = 0, .recent = p.vote.window}, p.vote.window);
          p.scorer = window_vote(p.vote);
        },
    .cost = "a prompt: one more product of `window` queries with all keys per layer, window / "
            "prompt of its attention; a token: nothing",
    .departures =
        {"Rows are kept per key/value head: the votes of a group of query heads are pooled one by "
         "one and then added. The reference repeats keys for every query head and stores up to "
         "`group` times as many rows.",
         "Probabilities are summed in 32 bits and ties go to the older row; the reference rounds "
         "them to 16 bits, where ties are common.",
         "Defaults are those of the paper's LongBench runs (window 32, width 7, max); the class "
         "defaults of its code are 64, 5 and mean.",
         "A share of the prompt is rounded to the nearest row and never falls below the window; "
         "the reference code needs a fixed number of rows above the window."},
}};

}  // namespace
}  // namespace pith

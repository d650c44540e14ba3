// H2O (arXiv:2306.14048): rows that have received most attention so far, the heavy hitters, stay
// beside the newest rows; in the prompt and after every generated token. methods.md 9.3.
//
// Two forms are called H2O. `form=running` is the paper: sums over all queries so far, and the
// heavy rows and the newest share the budget. `form=prompt` is what comparisons run (KVCache-
// Factory): the sums of the prompt, once, the window kept, nothing evicted while generating.
#include <algorithm>

#include "policy/defaults.h"
#include "policy/registry.h"

namespace pith {
namespace {

void build_h2o(Options& o, const KvShape& /*shape*/, Policy& p) {
  const bool running = o.word("form", "running", "running|prompt",
                              "running: the paper, evicts while generating; prompt: sums of the "
                              "prompt only, as comparisons run it") == "running";
  protect_options(o, p, {.sink = 0, .recent = running ? 1 : 32});
  const double newest =
      o.ratio("newest", running ? 0.5 : 0.0, "share of the budget that goes to the newest rows");
  p.protect.recent_share = std::max(p.protect.recent_share, newest);
  p.reduce_every = o.count("reduce_every", running ? 1 : 0,
                           "generated tokens between reductions; 0: the prompt only");
  p.scorer = attention_received(
      o.word(
          "mass", "sum", "sum|squares",
          "what is added up of each query's attention; squares (KV-Compress) favour rows that few "
          "queries need much over rows that many need a little") == "squares");
}

const RegisterMethod h2o{{
    .name = "h2o",
    .summary = "keep the rows that have received most attention so far, and the newest",
    .source = "arXiv:2306.14048",
    .family = "selection: attention scores",
    .build = build_h2o,
    .cost = "a prompt: one more product of all queries with all keys per layer, half of its "
            "attention again; a token: its probabilities, and one row leaves each head",
    .departures =
        {"Sums favour old rows, which more queries have seen; they are the paper's. `observed` "
         "divides by the number of those queries.",
         "Rows are kept per key/value head, by the sum over its query heads; the reference keeps "
         "rows for every query head.",
         "The prompt is reduced at its end, layer by layer; the reference's harness for generation "
         "does the same.",
         "h2o:mass=squares,budget=1.0 drops nothing by itself and keeps KV-Compress's score "
         "(arXiv:2410.00161), which says what goes first when the sessions of a scheduler run "
         "short of memory; without such scores it is the ratio of norms of value_key_ratio. While "
         "generating, the attention of a group's query heads is added before it is squared; "
         "KV-Compress squares that of each.",
         "form=prompt keeps 32 newest rows; the harnesses use 8 to 32. Their attention counts, as "
         "there; their own columns do not compete."},
}};

}  // namespace
}  // namespace pith

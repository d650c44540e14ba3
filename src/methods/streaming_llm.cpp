// StreamingLLM (arXiv:2309.17453): the first few tokens, where attention rests when it has nowhere
// to go, and a window of the newest; in the prompt and while generating.
//
// `rerotate` is the form of the paper: positions count rows of the cache, so that distances never
// grow beyond it. The paper stores keys unrotated and turns all of them for every token; here they
// are stored turned, and turned on by the distance they move up when older rows leave. A row is
// turned once per reduction, so reductions are spread over 16 tokens by default.
#include <algorithm>

#include "policy/defaults.h"
#include "policy/registry.h"

namespace pith {
namespace {

void build_streaming_llm(Options& o, const KvShape& shape, Policy& p) {
  protect_options(o, p, {.sink = 4, .recent = 1});
  if (o.given("recent") && !o.given("budget")) p.amount.rows = std::max(1, p.protect.rows());
  const bool rerotate =
      o.flag("rerotate", false, "count positions inside the cache, as the paper does");
  p.reduce_every = o.count("reduce_every", rerotate ? 16 : 1,
                           "generated tokens between reductions; 0: the prompt only");
  if (rerotate && !shape.windows.empty())
    o.fail("rerotate=true needs a model without sliding-window layers");
  p.store.repack_positions = rerotate;
  p.scorer = newest_first();
}

const RegisterMethod streaming_llm{{
    .name = "streaming_llm",
    .summary = "keep the first rows and a window of the newest",
    .source = "arXiv:2309.17453",
    .family = "selection: static pattern",
    .build = build_streaming_llm,
    .cost = "a prompt: nothing; a token: one row leaves each head; rerotate: every key of the "
            "cache is turned once in `reduce_every` tokens",
    .departures =
        {"The prompt is read with full attention and reduced at its end; the paper evicts before "
         "each token, so that no token ever sees more than the cache.",
         "`budget` counts sinks and window together; recent=N alone means budget=sink+N.",
         "Positions stay those of the text unless rerotate=true. With it, the next token's "
         "position is the number of rows kept, and between two reductions up to `reduce_every` - "
         "1 rows above the budget are held (default 16, 1 without rerotate).",
         "Keys are turned with the model's scaled frequencies and without YaRN's magnitude, which "
         "they already have."},
}};

}  // namespace
}  // namespace pith

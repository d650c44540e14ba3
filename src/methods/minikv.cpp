// MiniKV (arXiv:2411.18077): rows of a prompt that received most attention stay beside the newest,
// and what stays is stored in 2 bits. Selection comes first: scores want exact attention, and
// groups are of rows that stay. methods.md 8.5.
#include <algorithm>

#include "policy/defaults.h"
#include "policy/registry.h"

namespace pith {
namespace {

void build_minikv(Options& o, const KvShape& shape, Policy& p) {
  budget_option(o, p, {.share = 0.5});
  protect_options(o, p, {.sink = 0, .recent = 1});
  const double newest =
      o.ratio("newest", 0.5, "share of the budget that goes to the newest rows of the prompt");
  p.protect.recent_share = std::max(p.protect.recent_share, newest);
  if (o.flag("pyramid", false, "lower layers keep more rows than upper ones"))
    p.budget = falling_budget(
        o.number("beta", 7, "with pyramid: the last layer gets 1 / beta of the mean", 1, 1000));
  const CodeBits bits = code_bits_option(o, "2", "same");
  const int group = group_option(o, p, "32");
  p.store.tail_rows =
      o.count("residual", 0, "newest rows that stay plain, besides a page that is not full");
  plain_rows_option(o, p);
  store_codes(p, shape, bits, group, /*keys_by_row=*/false);
  p.scorer = attention_received();
}

const RegisterMethod minikv{{
    .name = "minikv",
    .summary = "keep what received most attention, and the newest, in 2 bits",
    .source = "arXiv:2411.18077",
    .family = "quantisation: fixed width",
    .build = build_minikv,
    .cost = "a prompt: one more product of all queries with all keys per layer, and coding; a "
            "token: less than reading as many plain rows",
    .departures =
        {"Groups have 32 numbers or more; the paper's have 16, which costs a bit more per number.",
         "With pyramid, the newest rows are a share of each layer's budget; the reference lets "
         "them be the same in all layers and thins out the others.",
         "Rows are kept per key/value head, by the sum over its query heads; the reference keeps "
         "rows for every query head.",
         "No row stays plain for good unless `residual` says so; the paper's setting is 128."},
}};

}  // namespace
}  // namespace pith

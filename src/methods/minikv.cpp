// MiniKV (arXiv:2411.18077): rows of a prompt that received most attention stay beside the newest,
// and what stays is stored in 2 bits. Selection comes first: scores want exact attention, and
// groups are of rows that stay. methods.md 8.5.
#include <algorithm>
#include <string>

#include "policy/defaults.h"
#include "policy/registry.h"

namespace pith {
namespace {

void build(Options& o, const KvShape& /*shape*/, Policy& p) {
  budget_option(o, p, {.share = 0.5});
  protect_options(o, p, {.sink = 0, .recent = 1});
  const double newest =
      o.ratio("newest", 0.5, "share of the budget that goes to the newest rows of the prompt");
  p.protect.recent_share = std::max(p.protect.recent_share, newest);
  if (o.flag("pyramid", false, "lower layers keep more rows than upper ones"))
    p.budget = falling_budget(
        o.number("beta", 7, "with pyramid: the last layer gets 1 / beta of the mean", 1, 1000));
  const std::string bits =
      o.word("bits", "2", "2|3|4|6|8|16", "of a number in full pages; 16: as it was");
  const std::string group =
      o.word("group", "32", "32|64|128",
             "numbers that share a step: rows of a page of keys, channels of a value");
  if (!o.common().was_read("page"))
    p.store.page_rows =
        o.count("page", std::stoi(group), "rows of a page, and so of a group of keys",
                kLeastPageRows, kMostPageRows);
  p.store.tail_rows =
      o.count("residual", 0, "newest rows that stay plain, besides a page that is not full");
  const std::string open = o.word("cache", "f16", "f16|bf16|f32", "format of rows that stay plain");
  p.store.open = open == "f32" ? Quant::f32 : open == "bf16" ? Quant::bf16 : Quant::f16;
  p.store.k = p.store.v = p.store.open;
  if (bits != "16") {
    p.store.k = channel_keys(std::stoi(bits));
    p.store.v = grouped_values(std::stoi(bits), std::stoi(group));
  }
  p.scorer = attention_received();
}

const RegisterMethod minikv{{
    .name = "minikv",
    .summary = "keep what received most attention, and the newest, in 2 bits",
    .source = "arXiv:2411.18077",
    .family = "quantisation: fixed width",
    .build = build,
    .cost = "a prompt: one more product of all queries with all keys per layer, and coding; a "
            "token: less than reading as many plain rows",
    .departures =
        {"Groups have 32 numbers or more; the paper's have 16, which costs a bit more per number.",
         "With pyramid, the newest rows are a share of each layer's budget; the reference lets "
         "them "
         "be the same in all layers and thins out the others.",
         "Rows are kept per key/value head, by the sum over its query heads; the reference keeps "
         "rows for every query head.",
         "No row stays plain for good unless `residual` says so; the paper's setting is 128."},
}};

}  // namespace
}  // namespace pith

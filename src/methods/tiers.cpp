// Tiers: all rows of a prompt are ranked by a scorer; the best stay as they are, the next are
// stored in 8 and 4 bits, the next in 2, and the rest leaves. What mixed precision (KVQuant's first
// tokens, MiKV arXiv:2402.18096) and eviction (SnapKV) do apart, on one scale. methods.md 8.3.
#include <string>

#include "policy/defaults.h"
#include "policy/registry.h"

namespace pith {
namespace {

void build_tiers(Options& o, const KvShape& /*shape*/, Policy& p) {
  const double plain = o.ratio("f16", 0.02, "share of the prompt whose rows stay as they are");
  struct {
    int bits;
    double share;
  } const coded[] = {{8, o.ratio("q8", 0, "share whose rows are stored in 8 bits")},
                     {4, o.ratio("q4", 0.05, "share whose rows are stored in 4 bits")},
                     {2, o.ratio("q2", 0.13, "share whose rows are stored in 2 bits")}};
  double all = plain;
  for (const auto& tier : coded) all += tier.share;
  if (all <= 0 || all > 1 + 1e-9)
    o.fail("the shares of 'f16', 'q8', 'q4' and 'q2' add up to " + std::to_string(all) +
           "; what stays is more than nothing and at most 1");
  const int group = group_option(o, p, "64");
  plain_rows_option(o, p);
  for (const auto& tier : coded)
    if (tier.share > 0)
      p.store.tiers.push_back(
          {.share = tier.share / all,
           .formats = {channel_keys(tier.bits), grouped_values(tier.bits, group)}});
  budget_option(o, p, {.share = std::min(all, 1.0)});
}

const RegisterMethod tiers{{
    .name = "tiers",
    .summary = "keep the best rows in 16 bits, the next in 4, the next in 2, and drop the rest",
    .source = "after arXiv:2402.18096 (MiKV) and arXiv:2402.02750 (KIVI)",
    .family = "quantisation: by importance",
    .build = build_tiers,
    .cost = "a prompt: what its scorer takes, sorting, and coding; a token: less than reading as "
            "many plain rows",
    .departures =
        {"MiKV drops nothing and ranks by attention while generating; here the scorer is any "
         "method's (without one the last queries vote), it ranks once, and the last rank leaves.",
         "A tier is whole pages; rows that do not fill one stay in the tier above.",
         "Where heads keep different numbers of rows, by `adakv` and others, each head divides its "
         "own in the same ratio.",
         "Layers with a sliding window have no tiers, and generated rows stay in 16 bits."},
}};

}  // namespace
}  // namespace pith

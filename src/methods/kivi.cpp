// KIVI (arXiv:2402.02750): nothing is dropped; keys are coded in few bits per channel, along the
// tokens of a page, because outliers of keys stay in their channels; values per token, along its
// channels. Attention works on the codes. methods.md 9.13; the formats are in
// kernels/pages_bits.inl.h.
#include "policy/defaults.h"
#include "policy/registry.h"

namespace pith {
namespace {

void build_kivi(Options& o, const KvShape& shape, Policy& p) {
  const CodeBits bits = code_bits_option(o, "2", "same");
  const int group = group_option(o, p, "64");
  p.store.tail_rows =
      o.count("residual", 0, "newest rows that stay plain, and those of a page that is not full");
  const bool rows = o.word("keys", "channels", "channels|rows",
                           "whose numbers share a step in keys; rows: 32 of a row, as values do, "
                           "for comparison") == "rows";
  plain_rows_option(o, p);
  store_codes(p, shape, bits, group, rows);
}

const RegisterMethod kivi{{
    .name = "kivi",
    .summary = "store full pages in few bits: keys per channel, values per row",
    .source = "arXiv:2402.02750",
    .family = "quantisation: fixed width",
    .build = build_kivi,
    .cost = "a prompt: coding, once per row; a token: less than reading plain rows, where these do "
            "not fit the caches of the CPU",
    .departures =
        {"Keys and values are coded together, a page at a time, when `residual` newer rows exist. "
         "The paper codes keys in blocks of `residual` rows (128, or 32), which leaves none of "
         "them plain just after a block, and values one by one, `residual` rows behind the "
         "newest. residual=128 keeps at least as many rows plain as the paper does.",
         "By default only a page that is not full stays plain (residual=0), so that small budgets "
         "stay small: 128 plain rows would take as much as 700 coded ones.",
         "Groups have 64 numbers by default, not 32: three quarters of a bit more per number "
         "than the codes instead of one and a half.",
         "A prompt is coded at its end; what leaves it, leaves before.",
         "The step of a group is rounded to the nearest f16 and the codes follow it; the reference "
         "rounds a step of 32 bits after the codes are made."},
}};

}  // namespace
}  // namespace pith

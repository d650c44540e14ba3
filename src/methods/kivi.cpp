// KIVI (arXiv:2402.02750): nothing is dropped; keys are coded in few bits per channel, along the
// tokens of a page, because outliers of keys stay in their channels; values per token, along its
// channels. Attention works on the codes. methods.md 9.13; the formats are in
// kernels/pages_bits.inl.h.
#include <string>

#include "policy/registry.h"

namespace pith {
namespace {

void build(Options& o, const KvShape& /*shape*/, Policy& p) {
  const std::string bits =
      o.word("bits", "2", "2|3|4|6|8|16", "of a number in full pages; 16: as it was");
  const std::string group =
      o.word("group", "64", "32|64|128",
             "numbers that share a step: rows of a page of keys, channels of a value");
  // A reader's page is the page of a spec, and so the group of its keys.
  if (!o.common().was_read("page"))
    p.store.page_rows =
        o.count("page", std::stoi(group), "rows of a page, and so of a group of keys",
                kLeastPageRows, kMostPageRows);
  p.store.tail_rows =
      o.count("residual", 0, "newest rows that stay plain, and those of a page that is not full");
  const bool rows = o.word("keys", "channels", "channels|rows",
                           "whose numbers share a step in keys; rows: 32 of a row, as values do, "
                           "for comparison") == "rows";
  const std::string open = o.word("cache", "f16", "f16|bf16|f32", "format of rows that stay plain");
  p.store.open = open == "f32" ? Quant::f32 : open == "bf16" ? Quant::bf16 : Quant::f16;
  if (bits == "16") {
    p.store.k = p.store.v = p.store.open;
  } else {
    p.store.k = rows ? row_keys(std::stoi(bits)) : channel_keys(std::stoi(bits));
    p.store.v = grouped_values(std::stoi(bits), std::stoi(group));
  }
}

const RegisterMethod kivi{{
    .name = "kivi",
    .summary = "store full pages in few bits: keys per channel, values per row",
    .source = "arXiv:2402.02750",
    .family = "quantisation: fixed width",
    .build = build,
    .cost = "a prompt: coding, once per row; a token: less than reading plain rows, where these do "
            "not fit the caches of the CPU",
    .departures =
        {"Keys and values are coded together, a page at a time, when `residual` newer rows exist. "
         "The paper codes keys in blocks of `residual` rows (128, or 32), which leaves none of "
         "them "
         "plain just after a block, and values one by one, `residual` rows behind the newest. "
         "residual=128 keeps at least as many rows plain as the paper does.",
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

// KIVI (arXiv:2402.02750): nothing is dropped; keys are coded in few bits per channel, along the
// tokens of a page, because outliers of keys stay in their channels; values per token, along its
// channels. Attention works on the codes. methods.md 9.13; the formats are in
// kernels/pages_bits.inl.h.
#include <algorithm>
#include <string>

#include "policy/registry.h"

namespace pith {
namespace {

constexpr const char* kBits = "2|3|4|6|8|16";

// "N:BITS": the lowest N layers, and their bits.
struct First {
  int layers = 0;
  std::string bits;
};

First first_layers(Options& o) {
  const std::string text =
      o.text("first", "", "lowest layers that have other bits, as in 2:8; the others have `bits`");
  if (text.empty()) return {};
  const size_t colon = text.find(':');
  First first;
  if (colon != std::string::npos && colon > 0 && colon <= 4 &&
      text.find_first_not_of("0123456789") == colon) {
    first.layers = std::stoi(text.substr(0, colon));
    first.bits = text.substr(colon + 1);
  }
  const std::string known = "|" + std::string(kBits) + "|";
  if (first.bits.empty() || known.find("|" + first.bits + "|") == std::string::npos)
    o.refuse("first", "layers and bits, as in 2:8, with bits of " + std::string(kBits));
  return first;
}

void build(Options& o, const KvShape& shape, Policy& p) {
  const std::string bits = o.word("bits", "2", kBits, "of a number in full pages; 16: as it was");
  const std::string value_bits = o.word("value_bits", "same", "same|" + std::string(kBits),
                                        "of a number of values, if not those of keys");
  const First first = first_layers(o);
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
  const bool turned = o.word("rotate", "none", "none|hadamard",
                             "spreads outliers over a row before it is coded") == "hadamard";
  const std::string open = o.word("cache", "f16", "f16|bf16|f32", "format of rows that stay plain");
  p.store.open = open == "f32" ? Quant::f32 : open == "bf16" ? Quant::bf16 : Quant::f16;
  const auto formats = [&](const std::string& own) {
    const std::string of_values = value_bits == "same" ? own : value_bits;
    PageFormats of{p.store.open, p.store.open};
    if (own != "16") of.k = rows ? row_keys(std::stoi(own)) : channel_keys(std::stoi(own));
    if (of_values != "16") of.v = grouped_values(std::stoi(of_values), std::stoi(group));
    return of;
  };
  const PageFormats all = formats(bits);
  p.store.k = all.k;
  p.store.v = all.v;
  if (first.layers > 0) {
    p.store.layers.assign(static_cast<size_t>(shape.layers), all);
    std::fill_n(p.store.layers.begin(), std::min(first.layers, shape.layers), formats(first.bits));
  }
  if (turned && !(is_plain(all.k) && is_plain(all.v)))
    p.store.basis = hadamard_bases(shape.dim, /*seed=*/1);
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

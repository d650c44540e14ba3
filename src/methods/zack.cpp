// ZACK, once ZeroC, later FDC (arXiv:2408.04107): each head's keys and values are stored in the
// directions that matter to it, how many of them each head for itself. methods.md 5, form A: keys
// are turned after RoPE, so that queries and keys meet in the same few coordinates.
#include "policy/low_rank.h"
#include "policy/registry.h"

namespace pith {
namespace {

const RegisterMethod zack{{
    .name = "zack",
    .summary = "store keys and values in the few directions that matter to their head",
    .source = "arXiv:2408.04107",
    .family = "attention: low rank",
    .build =
        [](Options& o, const KvShape& shape, Policy& p) {
          const Calibration& file = o.calibration(
              "calibration", "directions of every head and their number, of 'pith calibrate basis'",
              "pith calibrate basis");
          const RankOptions wanted = RankOptions::read(o);
          const bool pairs =
              o.word("form", "rotated", "rotated|pairs",
                     "what keys are stored in: directions of all channels, behind RoPE; or those "
                     "pairs of channels that RoPE turns together, untouched by it (single channels "
                     "of a model that was folded)") == "pairs";
          if (pairs && !wanted.size) o.refuse("form", "rotated where no size is given");
          if (pairs && wanted.step % 2 != 0) o.refuse("step", "even where pairs are kept");
          wanted.check(o);
          if (o.describes()) {
            p.store.basis = std::make_shared<BasisTable>();
            return;
          }
          HeadBases bases = read_bases(file, shape);
          if (pairs) bases = with_channel_pairs(std::move(bases));
          p.store.basis = basis_table(bases, wanted.ranks(o, bases, file, shape));
        },
    .cost =
        "a prompt: each row that is kept times a dim x rank matrix; a token: the same, and each "
        "query head's query and output; then attention reads rank of dim numbers per row",
    .departures =
        {"The paper folds one rotation per query head into the projections, which rotary positions "
         "do not allow and grouped heads would pay for; here keys are turned behind RoPE, once for "
         "all query heads of a group.",
         "Keys and queries count alike in their directions, whatever their lengths: scaling one "
         "and the other back changes no product.",
         "`form=pairs` is the part of the paper's folding that commutes with rotary positions: "
         "pairs of channels stay or go. `pith convert --fold` also turns each pair within itself, "
         "so that one of its channels may go alone where positions hardly turn it.",
         "What can be folded is folded by `pith convert --fold`: values everywhere, keys where no "
         "positions turn them, and their pairs where positions do and no norm stands between.",
         "The newest rows, up to a page, stay as they are until the page is full.",
         "A head that keeps every direction is stored without a basis."},
}};

}  // namespace
}  // namespace pith

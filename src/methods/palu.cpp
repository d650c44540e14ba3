// Palu (arXiv:2407.21118): keys are stored as they were before rotary positions turned them, in the
// few directions that matter to their head, and are rebuilt and turned to their positions whenever
// they are read. methods.md 5, form B; `zack` is form A. Values are stored as there.
#include "policy/low_rank.h"
#include "policy/registry.h"

namespace pith {
namespace {

const RegisterMethod palu{{
    .name = "palu",
    .summary = "store keys as they were before their rotation, and values, in few directions",
    .source = "arXiv:2407.21118 (Palu)",
    .family = "attention: low rank",
    .build =
        [](Options& o, const KvShape& shape, Policy& p) {
          const Calibration& file = o.calibration(
              "calibration", "directions of every head and their number, of 'pith calibrate basis'",
              "pith calibrate basis");
          const RankOptions wanted = RankOptions::read(o);
          wanted.check(o);
          if (o.describes()) {
            p.store.basis = std::make_shared<BasisTable>();
            return;
          }
          const HeadBases bases = with_unturned_keys(read_bases(file, shape), shape);
          p.store.basis = basis_table(bases, wanted.ranks(o, bases, file, shape));
        },
    .cost =
        "a prompt: each row that is kept is turned back and times a dim x rank matrix; a token: "
        "every key that is read is rebuilt, a rank x dim matrix, and turned, which takes several "
        "times as long as reading it; values as `zack`",
    .departures =
        {"Directions are those of keys and of the queries that meet them, in the mean over the "
         "distances of a prompt, where the paper takes the projection's weights, whitened by its "
         "inputs.",
         "Every key/value head has directions of its own, since it owns its rows; the paper's "
         "groups share a latent among up to four heads.",
         "Ranks follow the measured divergence that leaving a direction out costs, where the paper "
         "weighs layers by Fisher information.",
         "The output projection is not touched: `pith convert --fold` folds values into it, as for "
         "`zack`.",
         "Latents are coded by whatever stands beside it (kivi, cache=q8); the paper's Hadamard "
         "matrix is not among it.",
         "Where nothing turns keys, queries are mapped instead of keys, as with `zack`, of which "
         "this is then the same.",
         "The newest rows, up to a page, stay as they are until the page is full."},
}};

}  // namespace
}  // namespace pith

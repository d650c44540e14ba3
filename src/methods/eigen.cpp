// Eigen Attention (arXiv:2408.05646): the latent keys of Palu (methods.md 5.8), with one error for
// all layers instead of one size: the heads of a layer keep the same share of what matters to each
// of them, and it is the least that leaves the layer within the error.
#include "policy/low_rank.h"
#include "policy/registry.h"

namespace pith {
namespace {

const RegisterMethod eigen{{
    .name = "eigen",
    .summary =
        "store keys before their rotation, and values, in as few directions as an error lets",
    .source = "arXiv:2408.05646 (Eigen Attention)",
    .family = "attention: low rank",
    .build =
        [](Options& o, const KvShape& shape, Policy& p) {
          const Calibration& file =
              o.calibration("calibration", "directions of every head, of 'pith calibrate basis'",
                            "pith calibrate basis");
          const double error = o.number(
              "error", 0.1,
              "what a layer's products of queries and keys, and its outputs, may be off by: the "
              "root of the mean square, as a share of theirs",
              0, 1);
          const int step = read_step(o);
          if (o.describes()) {
            p.store.basis = std::make_shared<BasisTable>();
            return;
          }
          const HeadBases bases = with_unturned_keys(read_bases(file, shape), shape);
          p.store.basis = basis_table(bases, ranks_of_error(bases, error, step));
        },
    .cost = "as `palu`",
    .departures =
        {"The paper runs a layer again with ever fewer directions until its output is off by the "
         "error; here what the layer is off by is taken from the second moments of the "
         "calibration, for keys and for values apart.",
         "Every key/value head has directions of its own, and those of keys look at queries too; "
         "the paper's keys of rotary models have one set per layer, of keys alone.",
         "Where nothing turns keys, queries are mapped instead of keys, as the paper does."},
}};

}  // namespace
}  // namespace pith

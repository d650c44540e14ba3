// TurboQuant (arXiv:2504.19874), its MSE form: a random rotation makes the numbers of every row
// alike, whatever it holds, so that codes need no calibration and no other rows; keys get more bits
// than values, and the newest rows stay as they are. methods.md 8.5.
#include "policy/defaults.h"
#include "policy/registry.h"

namespace pith {
namespace {

void build_turboquant(Options& o, const KvShape& shape, Policy& p) {
  const CodeBits bits = code_bits_option(o, "6", "4");
  const int group = std::stoi(
      o.word("group", "64", "32|64|128", "channels of a value that share a step; of a key 32 do"));
  p.store.tail_rows =
      o.count("residual", 128, "newest rows that stay plain, besides a page that is not full");
  plain_rows_option(o, p);
  store_codes(p, shape, bits, group, /*keys_by_row=*/true);
  rotation_option(o, p, shape, "hadamard");
}

const RegisterMethod turboquant{{
    .name = "turboquant",
    .summary = "store full pages in few bits, each row by itself, behind a random rotation",
    .source = "arXiv:2504.19874",
    .family = "quantisation: fixed width",
    .build = build_turboquant,
    .cost = "a prompt: a rotation and coding, once per row; a token: a rotation of each query and "
            "output, then less than reading plain rows",
    .departures =
        {"The rotation is random signs and a Walsh-Hadamard transform, the same for all heads, not "
         "a Haar-random matrix per head: d log d operations instead of d squared.",
         "Codes are even steps between the least and the largest of 32 numbers of a key or `group` "
         "of a value, not Lloyd-Max levels times the norm of the row: for normal numbers in 4 bits "
         "the mean square error is 0.006 (32) to 0.009 (64) of the variance against 0.0095, for a "
         "bit (32) or half a bit (64) more per number than the codes.",
         "The paper's other form, with a bit per number for the sign of what is left, is not here: "
         "softmax amplifies its variance, and re-implementations found it worse than none.",
         "Keys of 6 and values of 4 bits with 128 plain rows are the defaults, since fewer were "
         "not reproduced outside the paper."},
}};

}  // namespace
}  // namespace pith

// How large the part is that a row's value adds to the residual stream when a head attends to it
// alone: the norm of W_O v, head by head (CriticalKV, KVzip+).
#pragma once

#include "policy/roles.h"

namespace pith {

enum class OutputNorm { l1, l2 };

// v: [heads, rows, dim]; wo: [width, query_heads * dim]; out: [query_heads, rows], on the host.
// Costs as much as the output projection of so many rows.
void output_norms(Backend& ops, ConstCube v, const WeightMatrix& wo, OutputNorm norm, Mat out);

}  // namespace pith

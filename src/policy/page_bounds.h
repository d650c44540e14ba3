// Bounds of the keys of a page, or of several pages: the smallest and the largest value of each
// channel, [2 * dim]. No key inside can meet a query with a larger product than the bound says.
#pragma once

#include <span>

#include "tensor/view.h"

namespace pith {

void bound_rows(ConstMat keys, std::span<float> bounds);     // [rows, dim], at least one row
void bound_bounds(ConstMat parts, std::span<float> bounds);  // [parts, 2 * dim]

// sum over channels of max(q low, q high). Summed in one order, so that the bound of a whole is
// never below that of a part, to the last bit.
float upper_bound(std::span<const float> q, std::span<const float> bounds);
// The largest of several queries.
float most_in_group(ConstMat q, std::span<const float> bounds);

}  // namespace pith

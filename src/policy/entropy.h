// Truncated matrix entropy (UNComp, arXiv:2410.03090; methods.md 4.1): how many directions the rows
// of a matrix spread over.
#pragma once

#include <vector>

#include "tensor/view.h"

namespace pith {

// Eigenvalues of the rows' normalised second moment, descending, in float64: rows are centred and
// scaled to unit length, the moment to trace 1. A row that is the mean has no direction.
std::vector<double> spectrum(ConstMat rows);

// -sum of s log s over the `keep` largest, in units of log(dim): 0 for one direction, up to 1.
// keep 0: up to the elbow of the spectrum, the value farthest below the chord from the first to
// the last.
double truncated_entropy(const std::vector<double>& spectrum, int keep);

// Eigenvalues of a symmetric matrix [n, n], descending; the matrix is destroyed.
std::vector<double> symmetric_eigenvalues(std::vector<double> matrix, int n);

}  // namespace pith

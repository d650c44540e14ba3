// How rows are shared out where heads or layers compete for them; what several budgets have in
// common.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "policy/roles.h"

namespace pith {

// How many of each list's scores are among the `total` best of all lists, its `free` best being
// taken first whatever the others have. Ties go to the earlier list; a NaN is the lowest score.
// The counts add up to `total`, or to all there is, or to what is free if that is more.
std::vector<int> winners(std::span<const std::span<const float>> lists, int free, int64_t total);

// Rows above the protected ones that an even share gives a head of each layer; a budget to be
// redistributed. False if everything may stay.
bool even_shares(const ScoreBoard& board, std::vector<int>& rows);

// share_out, and what the caps leave over spread evenly: a head that has fewer rows than its budget
// may grow while generating, so budgets add up to `total` whatever the prompt had.
std::vector<int> share_rows(std::span<const double> weights, std::span<const int> caps, int total);

// The same where the first parts are decided already: the others get what `total` leaves them. If
// those parts have what share_rows would give them, so do the others.
std::vector<int> share_rest(std::span<const double> weights, std::span<const int> caps,
                            std::span<const int> decided, int total);

// Rows above the protected ones for each head of each layer, falling in a line from the first layer
// to the last (PyramidKV); the rows of all layers add up to those of even shares. The last layer
// gets 1 / steepness of the mean, or more if the first would exceed the rows of the newest. Even if
// those are below twice the mean. Layers before the newest have what `table` says.
std::vector<int> pyramid(const ScoreBoard& board, const BudgetTable& table,
                         std::span<const int> even, double steepness);

}  // namespace pith

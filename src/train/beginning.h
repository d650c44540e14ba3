// The weights a training starts from.
//
// `recall` writes the circuit of docs/recall_model.md, cut to the network's size, into the first
// three layers and leaves the rest random: heads of layer 0 carry the codes of the last four tokens
// along, heads of layers 1 and 2 compare what came before this token with what came before every
// earlier one, in the pairs that rotate too slowly for distance to matter, and copy what followed.
// Training then refines recall and learns language, instead of having to discover how to copy,
// which costs a network of this size hundreds of millions of tokens.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "train/network_shape.h"

namespace pith {

enum class Beginning { random, recall };

// All parameters, in the layout's order. `shares` are the tokens' shares of the training text,
// [vocab], which the output matrix starts with; empty: all the same. Throws bad_option where the
// network is too small for the circuit.
std::vector<float> first_weights(const NetworkShape& shape, Beginning beginning,
                                 std::span<const float> shares, uint64_t seed);

}  // namespace pith

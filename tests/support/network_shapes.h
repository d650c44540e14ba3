// Networks for the trainer's tests.
#pragma once

#include "train/network_shape.h"

namespace pith::test {

// Small enough for finite differences of every tensor.
inline NetworkShape small_shape(int layers, int context) {
  return {.layers = layers,
          .width = 32,
          .query_heads = 4,
          .heads = 2,
          .dim = 8,
          .ffn_width = 64,
          .vocab = 40,
          .context = context};
}

// Wide enough for the circuit of Beginning::recall.
inline NetworkShape recall_shape(int vocab, int context) {
  return {.layers = 3,
          .width = 224,
          .query_heads = 4,
          .heads = 2,
          .dim = 32,
          .ffn_width = 64,
          .vocab = vocab,
          .context = context,
          .rope_base = 1e10};
}

}  // namespace pith::test

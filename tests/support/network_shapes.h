// Networks for the trainer's tests.
#pragma once

#include "train/network_shape.h"

namespace pith::test {

// Small enough for finite differences of every tensor.
inline NetworkShape small_shape(int layers, int context) {
  NetworkShape shape;
  shape.layers = layers;
  shape.width = 32;
  shape.query_heads = 4;
  shape.heads = 2;
  shape.dim = 8;
  shape.ffn_width = 64;
  shape.vocab = 40;
  shape.context = context;
  return shape;
}

// Wide enough for the circuit of Beginning::recall.
inline NetworkShape recall_shape(int vocab, int context) {
  NetworkShape shape;
  shape.layers = 3;
  shape.width = 224;
  shape.query_heads = 4;
  shape.heads = 2;
  shape.dim = 32;
  shape.ffn_width = 64;
  shape.vocab = vocab;
  shape.context = context;
  shape.rope_base = 1e10;
  return shape;
}

}  // namespace pith::test

// Copies of what a ToyPrompt's layers were made of, for oracles.
#pragma once

#include <array>
#include <vector>

#include "support/toy_prompt.h"

namespace pith::test {

struct RecordedLayer {
  std::vector<float> q, k, v;
  std::array<int64_t, 3> q_dim{}, k_dim{};
  ConstCube queries() const { return ConstCube::packed(q.data(), q_dim); }  // [rows, heads, dim]
  ConstCube keys() const { return ConstCube::packed(k.data(), k_dim); }     // [heads, rows, dim]
  ConstCube values() const { return ConstCube::packed(v.data(), k_dim); }
};

// Fills one entry per layer each time the prompt runs; lives as long as the prompt is used.
inline void record_layers(ToyPrompt& prompt, std::vector<RecordedLayer>& into) {
  into.resize(static_cast<size_t>(prompt.shape().layers));
  prompt.plant = [&into](int layer, Cube q, Cube k, Cube v) {
    into[static_cast<size_t>(layer)] = {{q.data, q.data + q.dim[0] * q.stride[0]},
                                        {k.data, k.data + k.dim[0] * k.stride[0]},
                                        {v.data, v.data + v.dim[0] * v.stride[0]},
                                        q.dim,
                                        k.dim};
  };
}

}  // namespace pith::test

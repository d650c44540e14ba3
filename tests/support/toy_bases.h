// Bases of random directions, for the methods that store rows in them.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/random.h"
#include "policy/low_rank.h"
#include "support/rotation.h"
#include "support/tiny_model.h"

namespace pith::test {

// With directions of unturned keys.
inline HeadBases random_bases(const KvShape& shape, uint64_t seed = 9) {
  HeadBases bases{shape.layers, shape.heads, shape.dim, {}, {}, {}, {}};
  Random random(seed);
  for (size_t side = 0; side < 3 * bases.sides() / 2; ++side) {
    const std::vector<float> rotation = random_rotation(shape.dim, random);
    const bool unturned = side >= bases.sides();
    auto& directions = unturned ? bases.unturned : bases.directions;
    directions.insert(directions.end(), rotation.begin(), rotation.end());
    for (int d = 0; d < shape.dim; ++d)
      (unturned ? bases.unturned_harm : bases.harm)
          .push_back(1.0f / static_cast<float>(1 + d + static_cast<int>(side % 5)));
  }
  for (size_t head = 0; head < bases.sides() / 2; ++head)
    for (int d = 0; d < shape.dim; ++d) {
      bases.channels.push_back(d ^ 6);  // pairs in another order
      bases.channel_harm.push_back(1.0f / static_cast<float>(1 + d / 2));
    }
  return bases;
}

// A calibration file of them, whose target was met by these ranks.
inline std::string basis_file(const HeadBases& bases, std::span<const int> ranks,
                              std::string_view digest = "m") {
  const std::string path = fresh_folder() + "basis.gguf";
  save_calibration(path, digest, "a test", basis_tensors(bases, ranks, ranks));
  return path;
}

// A table with a basis for every side, full ranks included.
inline std::shared_ptr<BasisTable> every_direction(const HeadBases& bases) {
  auto table = std::make_shared<BasisTable>();
  table->turns = bases.key_turns;
  const auto n = static_cast<size_t>(bases.dim);
  for (size_t side = 0; side < bases.sides(); ++side) {
    const float* up = &bases.directions[side * n * n];
    Basis basis{bases.dim, bases.dim, std::vector<float>(n * n), {up, up + n * n}};
    for (size_t r = 0; r < n; ++r)
      for (size_t d = 0; d < n; ++d) basis.down[d * n + r] = up[r * n + d];
    (side < bases.sides() / 2 ? table->k : table->v).push_back(std::move(basis));
  }
  return table;
}

}  // namespace pith::test

// Calibrated bases (ZACK, arXiv:2408.04107) and how many of their directions each head keeps.
// `pith calibrate basis` finds both; methods and the search for a target share these rules.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kv/store_spec.h"
#include "policy/calibration.h"
#include "policy/options.h"
#include "tensor/kv_shape.h"

namespace pith {

// Orthonormal directions of every head, keys and values apart, the ones that matter most first.
struct HeadBases {
  int layers = 0, heads = 0, dim = 0;
  // [2, layers, heads, dim, dim]: keys, then values; a row is a direction.
  std::vector<float> directions;
  // [2, layers, heads, dim] what leaving a direction out costs, in one unit for all; never rising.
  std::vector<float> harm;
  // [layers, heads, dim] the same of single channels of keys, where those that rotary positions
  // turn together stand side by side: a choice among them commutes with the rotation.
  std::vector<int> channels;
  std::vector<float> channel_harm;
  // [layers, heads, dim] in the order of `channels`: the cosine and sine that turn each pair of
  // channels within itself so that the first gets most of what matters, which RoPE does not mind;
  // and the harm of both channels then. Empty: no pair is turned.
  std::vector<float> turns = {}, turned_harm = {};
  // [layers, heads, dim, dim], [layers, heads, dim]: directions of keys as they were before rotary
  // positions turned them, and what leaving one out costs. Empty: not known.
  std::vector<float> unturned = {}, unturned_harm = {};
  // [layers] what the directions of keys stand before, as in BasisTable; none: nothing.
  std::vector<std::shared_ptr<const KeyTurns>> key_turns = {};

  size_t sides() const { return 2 * static_cast<size_t>(layers) * static_cast<size_t>(heads); }
  int64_t coordinates() const { return static_cast<int64_t>(sides()) * dim; }  // per token, all
};

// Ranks are [2, layers, heads], multiples of `step` (or the dimension itself), at least one step.
// As many coordinates in all as `coordinates` allows, in whole steps, where they matter most; fewer
// than a step each cannot be.
std::vector<int> ranks_of_size(const HeadBases& bases, int64_t coordinates, int step);
// The same for every head, as far as whole steps go; the rest to the first ones.
std::vector<int> even_ranks(const HeadBases& bases, int64_t coordinates, int step);

// The fewest steps of every head by which no side of a layer loses more than `error`: of what
// products with queries, or outputs, are in the mean (root of the squares). The heads of a layer
// keep the same share of what matters to each (EigenAttention).
std::vector<int> ranks_of_error(const HeadBases& bases, double error, int step);

// Keys before their rotation, in the directions that are known of them; values as they were.
// Without such directions nothing may turn keys, or this throws bad_file.
HeadBases with_unturned_keys(HeadBases bases, const KvShape& shape);

// Keys in pairs of their own channels instead of directions; values as they were.
HeadBases with_channel_pairs(HeadBases bases);

// The bases of a model whose channels of values, and of keys if they were turned too, are these
// directions: each is a channel, in order.
HeadBases as_channels(HeadBases bases, bool keys);

// [layers, heads, dim, dim] directions of keys that become their channels by turning pairs.
std::vector<float> pair_directions(const HeadBases& bases);
// The bases of a model whose queries and keys were turned so: its channels count one by one.
HeadBases with_turned_pairs(HeadBases bases);

// A head that keeps every direction is stored as it is, and costs nothing.
std::shared_ptr<const BasisTable> basis_table(const HeadBases& bases, std::span<const int> ranks);

// What `pith calibrate basis` wrote, under the names of policy/calibration.h. Throws bad_file.
HeadBases read_bases(const Calibration& file, const KvShape& shape);
// basis.k_rank, basis.v_rank: the ranks that met the target; and those of unturned keys and the
// values beside them.
std::vector<int> read_ranks(const Calibration& file, const KvShape& shape);
std::vector<int> read_unturned_ranks(const Calibration& file, const KvShape& shape);

// The option `step` of a method that stores rows in bases.
int read_step(Options& o);
// The options `size`, `step` and `ranks`, of methods that give each head as many directions as a
// size pays for.
struct RankOptions {
  Amount size;  // of a token's coordinates; none: the ranks that met the calibration's target
  int step = 0;
  bool even = false;  // or where it matters most

  static RankOptions read(Options& o);
  // Throws bad_option where the options do not go together.
  void check(const Options& o) const;
  // Of bases that `file` holds; the unturned ones' are those of the target beside them. Throws
  // bad_option where the size is too small, bad_file.
  std::vector<int> ranks(const Options& o, const HeadBases& bases, const Calibration& file,
                         const KvShape& shape) const;
};

// unturned_ranks: none where HeadBases::unturned is empty.
std::vector<CalibrationTensor> basis_tensors(const HeadBases& bases, std::span<const int> ranks,
                                             std::span<const int> unturned_ranks = {});

}  // namespace pith

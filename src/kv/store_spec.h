// How kept vectors are stored: a linear map per head, then a page format.
#pragma once

#include <memory>
#include <vector>

#include "backend/backend.h"
#include "kernels/key_turns.h"
#include "kernels/table.h"

namespace pith {

// Maps a head's vectors to fewer, or better behaved, coordinates. Data, not code: low rank
// (ZACK, Palu), Hadamard rotation and channel pruning (ThinK) are different matrices.
// Keys are stored as k*down and met by q*up^T; values as v*down, and outputs lifted by *up.
struct Basis {
  int dim = 0, rank = 0;
  std::vector<float> down;  // [dim, rank]
  std::vector<float> up;    // [rank, dim]
  // Not 0: down and up are a Walsh-Hadamard transform of runs of so many coordinates behind a
  // change of signs, which is faster than by matrix.
  int hadamard = 0;
  // Without matrices the coordinates are the first `rank` channels, and cost nothing: of models
  // whose weights were folded.
  bool leading() const { return up.empty(); }
};

// Plain rows [count, dim] to coordinates [count, rank], and back.
void to_basis(const Basis& basis, const float* rows, int count, float* out);
void from_basis(const Basis& basis, const float* coordinates, int count, float* out);

struct BasisTable {
  int heads = 0;
  std::vector<Basis> k, v;  // [layers * heads], or one for all of them
  // [layers] What the basis of keys stands before: sealed keys lie as they were before these turned
  // them, and are turned to their positions whenever they are read. Null, or none at all: keys lie
  // as they came.
  std::vector<std::shared_ptr<const KeyTurns>> turns = {};
  size_t bytes() const;  // of memory, all in all
};

// A rotation that spreads outliers over all coordinates: random signs, then a Walsh-Hadamard
// transform of runs as long as the largest power of two that divides dim. The same for all heads.
std::shared_ptr<const BasisTable> hadamard_bases(int dim, uint64_t seed);

// A part of the rows that a prompt leaves, stored in pages of its own.
struct StoreTier {
  double share = 0;  // of the rows
  PageFormats formats;
};

// Formats of few-bit codes with a least number and a step: of keys, per column of a page, or per
// row and 32 columns; of values, per row and `group` columns. bits: 2, 3, 4, 6 or 8; group: 32, 64
// or 128.
Quant channel_keys(int bits);
Quant row_keys(int bits);
Quant grouped_values(int bits, int group);

struct StoreSpec {
  Quant k = Quant::f16;
  Quant v = Quant::f16;
  Quant open = Quant::f16;                            // of rows that are not sealed yet; plain
  std::shared_ptr<const BasisTable> basis = nullptr;  // null: identity
  // [layers] formats of sealed pages, where layers differ; else empty.
  std::vector<PageFormats> layers = {};
  // Of the rows of a prompt, those with the lowest scores go to the last tier, whole pages of them,
  // the next to the one before; the others, and generated rows, are stored as k and v say. A layer
  // with a sliding window has no tiers. Not where rows leave or turn later.
  std::vector<StoreTier> tiers = {};
  int page_rows = 32;  // also the group length of the channel formats
  int tail_rows = 0;   // newest rows that stay plain (KIVI's residual window)
  // Rows keep their scores behind the prompt that gave them. Where nobody looks at them again, 4
  // bytes of a row are a tenth of what 2 bits take.
  bool keeps_scores = true;
  int pseudo_rows = 0;  // most pseudo rows that one plan adds to a head; memory is asked for by it
  // Kept keys are turned to positions without gaps (HeadCache::repack), once per reduction.
  bool repack_positions = false;
  // Hidden states of tokens that drop out of a prompt stay (KvStore::dropped), and rows may come in
  // any order of positions.
  bool keeps_dropped = false;
};

}  // namespace pith

// Hidden states of tokens that a router dropped behind a layer, so that they can come back later
// (LazyLLM's AuxCache). A token waits here or has rows in the layers above, never both.
//
// A state is kept in half precision times a power of two of its own, so that large numbers of the
// residual stream neither overflow nor push small ones out: an error of at most 2^-11 of a number,
// or 2^-25 of the largest one of the token.
#pragma once

#include <cstdint>
#include <span>

#include "kv/counted_array.h"
#include "tensor/view.h"

namespace pith {

class DroppedTokens {
 public:
  DroppedTokens(PagePool& pool, int width);
  DroppedTokens clone() const;

  int tokens() const { return static_cast<int>(positions_.size()); }
  std::span<const int32_t> positions() const { return positions_.span(); }  // as they came

  // The named rows of hidden, [any, width], or all of them. The caller has asked for growth().
  void add(ConstMat hidden, std::span<const int32_t> rows, std::span<const int32_t> positions);
  // Takes the tokens at these positions, which are here, out; hidden: [positions, width].
  void take(std::span<const int32_t> positions, Mat hidden);

  void mark() { marked_ = positions_.size(); }  // a prompt starts here
  void rewind();                                // what came since is gone

  size_t bytes() const { return positions_.bytes() + scales_.bytes() + halves_.bytes(); }
  size_t growth(int added) const;  // of bytes() with so many tokens more
  size_t clone_bytes() const;

  // For session files: the numbers as they lie in memory, and back into an empty object.
  std::span<const float> scales() const { return scales_.span(); }
  std::span<const uint16_t> halves() const { return halves_.span(); }
  void restore(std::span<const int32_t> positions, std::span<const float> scales,
               std::span<const uint16_t> halves);

 private:
  DroppedTokens() = default;
  void shorten(size_t tokens);  // only the first of them stay
  int width_ = 0;
  size_t marked_ = 0;
  CountedArray<int32_t> positions_;
  CountedArray<float> scales_;     // powers of two
  CountedArray<uint16_t> halves_;  // [tokens, width]
};

}  // namespace pith

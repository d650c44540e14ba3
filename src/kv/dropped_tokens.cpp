#include "kv/dropped_tokens.h"

#include <algorithm>
#include <cmath>
#include <unordered_map>

#include "base/error.h"
#include "tensor/half.h"

namespace pith {

DroppedTokens::DroppedTokens(PagePool& pool, int width)
    : width_(width),
      positions_(pool, MemoryClass::dropped),
      scales_(pool, MemoryClass::dropped),
      halves_(pool, MemoryClass::dropped) {}

DroppedTokens DroppedTokens::clone() const {
  DroppedTokens copy;
  copy.width_ = width_;
  copy.marked_ = marked_;
  copy.positions_ = positions_.clone();
  copy.scales_ = scales_.clone();
  copy.halves_ = halves_.clone();
  return copy;
}

void DroppedTokens::add(ConstMat hidden, std::span<const int32_t> rows,
                        std::span<const int32_t> positions) {
  const size_t count = rows.empty() ? static_cast<size_t>(hidden.dim[0]) : rows.size();
  PITH_CHECK(count == positions.size() && hidden.dim[1] == width_, "every token has its state");
  positions_.append(positions);
  const std::span<float> scales = scales_.extend(positions.size());
  uint16_t* at = halves_.extend(positions.size() * static_cast<size_t>(width_)).data();
  for (size_t i = 0; i < count; ++i) {
    const std::span<const float> row =
        hidden.row(rows.empty() ? static_cast<int64_t>(i) : int64_t{rows[i]});
    float most = 0;
    for (const float x : row) most = std::max(most, std::abs(x));
    int exponent = 0;
    if (most > 0 && std::isfinite(most)) std::frexp(most, &exponent);
    exponent = std::clamp(exponent, -100, 100);
    scales[i] = std::ldexp(1.0f, exponent);
    const float down = std::ldexp(1.0f, -exponent);
    for (const float x : row) *at++ = float_to_half(x * down);
  }
}

void DroppedTokens::take(std::span<const int32_t> positions, Mat hidden) {
  PITH_CHECK(hidden.dim[0] == static_cast<int64_t>(positions.size()) && hidden.dim[1] == width_,
             "room for every token");
  std::unordered_map<int32_t, int64_t> wanted;
  for (size_t i = 0; i < positions.size(); ++i)
    wanted.emplace(positions[i], static_cast<int64_t>(i));
  const auto width = static_cast<size_t>(width_);
  size_t kept = 0;
  for (size_t i = 0; i < positions_.size(); ++i) {
    uint16_t* const from = halves_.data() + i * width;
    const auto found = wanted.find(positions_[i]);
    if (found != wanted.end()) {
      const std::span<float> row = hidden.row(found->second);
      for (size_t d = 0; d < width; ++d) row[d] = half_to_float(from[d]) * scales_[i];
      wanted.erase(found);
      continue;
    }
    if (kept != i) {
      positions_[kept] = positions_[i];
      scales_[kept] = scales_[i];
      std::copy_n(from, width, halves_.data() + kept * width);
    }
    ++kept;
  }
  PITH_CHECK(wanted.empty(), "a token that is taken was here");
  shorten(kept);
}

void DroppedTokens::rewind() {
  PITH_CHECK(marked_ <= positions_.size(), "no token leaves while a prompt runs");
  shorten(marked_);
}

void DroppedTokens::shorten(size_t tokens) {
  positions_.truncate(tokens);
  scales_.truncate(tokens);
  halves_.truncate(tokens * static_cast<size_t>(width_));
  positions_.fit();
  scales_.fit();
  halves_.fit();
}

size_t DroppedTokens::growth(int added) const {
  const size_t tokens = positions_.size() + static_cast<size_t>(added);
  return positions_.growth(tokens) + scales_.growth(tokens) +
         halves_.growth(tokens * static_cast<size_t>(width_));
}

size_t DroppedTokens::clone_bytes() const {
  return positions_.size() * (sizeof(int32_t) + sizeof(float)) + halves_.size() * sizeof(uint16_t);
}

void DroppedTokens::restore(std::span<const int32_t> positions, std::span<const float> scales,
                            std::span<const uint16_t> halves) {
  PITH_CHECK(tokens() == 0 && scales.size() == positions.size() &&
                 halves.size() == positions.size() * static_cast<size_t>(width_),
             "tokens are restored into an empty object, each with its state");
  positions_.append(positions);
  scales_.append(scales);
  halves_.append(halves);
}

}  // namespace pith

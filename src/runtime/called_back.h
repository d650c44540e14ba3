// Tokens that a router let drop out of a prompt and a generated token calls back (LazyLLM), on
// their way through the layers up to the next one behind which tokens drop out.
#pragma once

#include <cstdint>
#include <vector>

#include "kv/page_pool.h"
#include "kv/store.h"
#include "tensor/view.h"

namespace pith {

// Plain keys and values of one head in the order of positions, so that what a token may read is
// always the first rows: a copy, since tokens that came back lie behind younger ones in the cache.
class RowsByPosition {
 public:
  explicit RowsByPosition(const HeadCache& head, int dim);
  // Rows at positions up to `position`, as attention reads them. Valid while this lives.
  PagedHead up_to(int32_t position) const;

 private:
  static constexpr int kPageRows = 1024;
  std::vector<float> k_, v_;  // [rows, dim]
  std::vector<const std::byte*> k_pages_, v_pages_;
  std::vector<int32_t> positions_;
};

struct CalledBack {
  std::vector<int32_t> positions;  // ascending
  std::vector<float> hidden;       // [positions, width]

  int tokens() const { return static_cast<int>(positions.size()); }
  Mat states(int width) { return Mat::packed(hidden.data(), {tokens(), width}); }
};

// Working memory of a step, counted while it exists; the caller has asked for it.
class StepMemory {
 public:
  StepMemory(PagePool& pool, size_t bytes) : pool_(pool), bytes_(bytes) {
    pool_.charge(bytes_, MemoryClass::prompt);
  }
  ~StepMemory() { pool_.refund(bytes_, MemoryClass::prompt); }
  StepMemory(const StepMemory&) = delete;
  StepMemory& operator=(const StepMemory&) = delete;

 private:
  PagePool& pool_;
  size_t bytes_;
};

}  // namespace pith

// What a run cost.
#pragma once

#include <chrono>
#include <cstdint>

#include "tensor/kv_shape.h"

namespace pith {

// What an uncompressed f16 cache of that many tokens takes.
uint64_t full_cache_bytes(const KvShape& shape, uint64_t tokens);

class Stopwatch {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// Throws bad_option if both names are one file: what is read would be lost.
void refuse_same_file(const std::string& in, const std::string& out);

}  // namespace pith

#include "apps/resources.h"

namespace pith {

uint64_t full_cache_bytes(const KvShape& shape, uint64_t tokens) {
  const uint64_t values = static_cast<uint64_t>(shape.layers) * static_cast<uint64_t>(shape.heads) *
                          static_cast<uint64_t>(shape.dim);
  return values * 2 /* key and value */ * sizeof(uint16_t) * tokens;
}

}  // namespace pith

#include "apps/resources.h"

#include <filesystem>

#include "base/error.h"

namespace pith {

uint64_t full_cache_bytes(const KvShape& shape, uint64_t tokens) {
  const uint64_t values = static_cast<uint64_t>(shape.layers) * static_cast<uint64_t>(shape.heads) *
                          static_cast<uint64_t>(shape.dim);
  return values * 2 /* key and value */ * sizeof(uint16_t) * tokens;
}

void refuse_same_file(const std::string& in, const std::string& out) {
  std::error_code error;
  if (std::filesystem::equivalent(in, out, error) && !error)
    throw Error(Errc::bad_option, out + " is the file that is read; write to another");
}

}  // namespace pith

#include "base/digest.h"

#include <array>
#include <cstdio>
#include <xxhash.h>

namespace pith {

struct Digest::State {
  XXH3_state_t* hash = XXH3_createState();
};

void Digest::Free::operator()(State* state) const {
  XXH3_freeState(state->hash);
  delete state;
}

Digest::Digest() : state_(new State) {
  XXH3_128bits_reset(state_->hash);
}

void Digest::add(const void* data, size_t bytes) {
  XXH3_128bits_update(state_->hash, data, bytes);
}

std::string Digest::text() const {
  const XXH128_hash_t hash = XXH3_128bits_digest(state_->hash);
  std::array<char, 33> text{};
  std::snprintf(text.data(), text.size(), "%016llx%016llx",
                static_cast<unsigned long long>(hash.high64),
                static_cast<unsigned long long>(hash.low64));
  return text.data();
}

}  // namespace pith

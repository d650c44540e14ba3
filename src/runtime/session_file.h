// A compressed session on disk: `pith run --save`, `--load`.
//
//   "PITHSESS", version | model digest, spec, digest of the files it names | tokens | progress |
//   logits | heads | length, checksum
//
// Little-endian; numbers are aligned to their size and pages to 64 bytes, so a mapped file can be
// read in place. The checksum (XXH3, 128 bits) covers every byte before it. A restored session
// gives the same logits bit for bit. docs/store_format.md has the layout.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "backend/backend.h"
#include "model/model.h"
#include "runtime/session.h"

namespace pith {

// Between prompts. The file appears under its name only when it is complete; throws Errc::io.
void save_session(const Session& session, const Model& model, const std::string& path);

using PolicyOf = std::function<std::shared_ptr<const Policy>(std::string_view spec)>;

// Throws bad_file for a file that is damaged, from another version, or made with another model or
// with other files behind its spec, each in one sentence; bad_option if its spec cannot be built
// here; no_memory if the pool has too little room.
std::unique_ptr<Session> load_session(const std::string& path, const Model& model, Backend& ops,
                                      PagePool& pool, const SamplingOptions& sampling,
                                      const PolicyOf& policy_of);

}  // namespace pith

// What a GGUF file holds, found and checked: the walk over everything before the data. reader.cpp
// answers from it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "gguf/gguf.h"

namespace pith {

// Names and data are views of the file's bytes.
struct GgufContents {
  uint32_t version = 0;
  uint64_t alignment = 32;
  std::vector<GgufEntry> entries;
  std::vector<GgufTensor> tensors;
  std::vector<uint32_t> entry_order, tensor_order;  // indices, sorted by name

  const GgufEntry* find_entry(std::string_view key) const;  // null if there is none
  const GgufTensor* find_tensor(std::string_view name) const;
};

// Throws bad_file, or unsupported, with a sentence that begins with `path`.
GgufContents parse_gguf(std::span<const std::byte> bytes, const std::string& path);

}  // namespace pith

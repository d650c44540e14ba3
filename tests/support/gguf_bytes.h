// Builds GGUF files byte by byte, without the project's writer, so that they may lie. Remembers
// where every field begins, for tests that cut or falsify the file there.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace pith {

class GgufBytes {
 public:
  struct Field {
    size_t at;
    size_t bytes;
    std::string what;
  };

  template <class T>
  GgufBytes& put(T value, std::string_view what) {
    fields.push_back({bytes.size(), sizeof value, std::string(what)});
    const auto* from = reinterpret_cast<const std::byte*>(&value);
    bytes.insert(bytes.end(), from, from + sizeof value);
    return *this;
  }

  GgufBytes& raw(std::string_view text, std::string_view what) {
    fields.push_back({bytes.size(), text.size(), std::string(what)});
    const auto* from = reinterpret_cast<const std::byte*>(text.data());
    bytes.insert(bytes.end(), from, from + text.size());
    return *this;
  }

  GgufBytes& string(std::string_view text, std::string_view what) {
    put(uint64_t{text.size()}, std::string(what) + " length");
    return raw(text, what);
  }

  GgufBytes& header(uint64_t tensors, uint64_t entries, uint32_t version = 3) {
    raw("GGUF", "magic").put(version, "version");
    return put(tensors, "tensor count").put(entries, "entry count");
  }

  // A scalar entry; `type` is GGUF's number.
  template <class T>
  GgufBytes& entry(std::string_view key, uint32_t type, T value) {
    return string(key, "key").put(type, "value type").put(value, "value");
  }

  GgufBytes& text(std::string_view key, std::string_view value) {
    return string(key, "key").put(uint32_t{8}, "value type").string(value, "string value");
  }

  GgufBytes& texts(std::string_view key, const std::vector<std::string>& values) {
    array(key, 8, values.size());
    for (const std::string& v : values) string(v, "array string");
    return *this;
  }

  // Only the head of an array; its elements follow by `put`.
  GgufBytes& array(std::string_view key, uint32_t element, uint64_t count) {
    string(key, "key").put(uint32_t{9}, "value type").put(element, "element type");
    return put(count, "array count");
  }

  GgufBytes& tensor(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type,
                    uint64_t offset) {
    string(name, "tensor name").put(static_cast<uint32_t>(dims.size()), "rank");
    for (const uint64_t d : dims) put(d, "dimension");
    return put(type, "tensor type").put(offset, "tensor offset");
  }

  GgufBytes& pad(size_t alignment) {
    fields.push_back({bytes.size(), 0, "padding"});
    bytes.resize((bytes.size() + alignment - 1) / alignment * alignment);
    return *this;
  }

  GgufBytes& data(size_t count) {
    fields.push_back({bytes.size(), 0, "data"});
    for (size_t i = 0; i < count; ++i) bytes.push_back(static_cast<std::byte>(i * 7 + 1));
    return *this;
  }

  std::vector<std::byte> bytes;
  std::vector<Field> fields;
};

}  // namespace pith

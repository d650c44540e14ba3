#include <cmath>

#include "base/digest.h"
#include "base/error.h"
#include "base/mapped_file.h"
#include "gguf/contents.h"
#include "gguf/gguf.h"
#include "gguf/names.h"
#include "gguf/values.h"

namespace pith {
namespace {

class Reader final : public GgufFile {
 public:
  Reader(std::span<const std::byte> bytes, std::string path)
      : bytes_(bytes), path_(std::move(path)), contents_(parse_gguf(bytes_, path_)) {
    PITH_CHECK(reinterpret_cast<uintptr_t>(bytes_.data()) % 8 == 0, "GGUF bytes are aligned to 8");
  }
  explicit Reader(std::unique_ptr<MappedFile> file)
      : file_(std::move(file)),
        bytes_(file_->bytes()),
        path_(file_->path()),
        contents_(parse_gguf(bytes_, path_)) {}

  const std::string& path() const override { return path_; }
  uint32_t version() const override { return contents_.version; }
  uint64_t alignment() const override { return contents_.alignment; }
  size_t bytes() const override { return bytes_.size(); }
  std::string content_digest() const override {
    Digest digest;
    digest.add(bytes_.data(), bytes_.size());
    return digest.text();
  }
  std::span<const GgufEntry> entries() const override { return contents_.entries; }
  std::span<const GgufTensor> tensors() const override { return contents_.tensors; }

  bool has(std::string_view key) const override { return contents_.find_entry(key) != nullptr; }

  int64_t integer(std::string_view key) const override {
    const GgufEntry& entry = need(key);
    if (!is_integer(entry.type)) wrong_type(entry, "an integer");
    int64_t value = 0;
    if (!load_integer(entry.type, entry.raw.data(), value))
      fail(shown_name(key) + " is too large for a 64-bit integer");
    return value;
  }
  int64_t integer(std::string_view key, int64_t fallback) const override {
    return has(key) ? integer(key) : fallback;
  }

  double number(std::string_view key) const override {
    const GgufEntry& entry = need(key);
    if (!is_number(entry.type)) wrong_type(entry, "a number");
    const double value = load_number(entry.type, entry.raw.data());
    if (!std::isfinite(value)) fail(shown_name(key) + " is not a finite number");
    return value;
  }
  double number(std::string_view key, double fallback) const override {
    return has(key) ? number(key) : fallback;
  }

  bool boolean(std::string_view key, bool fallback) const override {
    const GgufEntry* entry = contents_.find_entry(key);
    if (entry == nullptr) return fallback;
    if (entry->type != GgufType::boolean) wrong_type(*entry, "a boolean");
    return load_value<uint8_t>(entry->raw.data()) != 0;
  }

  std::string_view text(std::string_view key) const override {
    const GgufEntry& entry = need(key);
    if (entry.type != GgufType::string) wrong_type(entry, "a string");
    return {reinterpret_cast<const char*>(entry.raw.data()) + sizeof(uint64_t),
            entry.raw.size() - sizeof(uint64_t)};
  }
  std::string_view text(std::string_view key, std::string_view fallback) const override {
    return has(key) ? text(key) : fallback;
  }

  std::vector<std::string_view> texts(std::string_view key) const override {
    const GgufEntry& entry = need_array(key, "strings");
    if (entry.element != GgufType::string) wrong_type(entry, "an array of strings");
    std::vector<std::string_view> values;
    values.reserve(entry.count);
    const std::byte* at = entry.raw.data();
    for (uint64_t i = 0; i < entry.count; ++i) {
      const uint64_t bytes = load_value<uint64_t>(at);
      values.emplace_back(reinterpret_cast<const char*>(at) + sizeof bytes, bytes);
      at += sizeof bytes + bytes;
    }
    return values;
  }

  std::vector<int64_t> integers(std::string_view key) const override {
    const GgufEntry& entry = need_array(key, "integers");
    if (!is_integer(entry.element)) wrong_type(entry, "an array of integers");
    const uint64_t step = scalar_bytes(entry.element);
    std::vector<int64_t> values(entry.count);
    for (uint64_t i = 0; i < entry.count; ++i)
      if (!load_integer(entry.element, entry.raw.data() + i * step, values[i]))
        fail("element " + std::to_string(i) + " of " + shown_name(key) +
             " is too large for a 64-bit integer");
    return values;
  }

  std::vector<float> numbers(std::string_view key) const override {
    const GgufEntry& entry = need_array(key, "numbers");
    if (!is_number(entry.element)) wrong_type(entry, "an array of numbers");
    const uint64_t step = scalar_bytes(entry.element);
    std::vector<float> values(entry.count);
    for (uint64_t i = 0; i < entry.count; ++i)
      values[i] = static_cast<float>(load_number(entry.element, entry.raw.data() + i * step));
    return values;
  }

  bool has_tensor(std::string_view name) const override {
    return contents_.find_tensor(name) != nullptr;
  }

  const GgufTensor& tensor(std::string_view name) const override {
    const GgufTensor* found = contents_.find_tensor(name);
    if (found == nullptr) fail("the tensor " + shown_name(name) + " is missing");
    return *found;
  }

  WeightMatrix matrix(std::string_view name, int64_t rows, int64_t cols) const override {
    const GgufTensor& t = tensor(name);
    if (t.dims[0] != cols || t.rows() != rows)
      fail("the tensor " + shown_name(name) + " has " + std::to_string(t.rows()) + " rows of " +
           std::to_string(t.dims[0]) + ", but the model's metadata asks for " +
           std::to_string(rows) + " of " + std::to_string(cols));
    return {.dtype = t.dtype, .data = t.data.data(), .rows = rows, .cols = cols};
  }

  std::span<const float> floats(std::string_view name, int64_t count) const override {
    const GgufTensor& t = tensor(name);
    if (t.dtype != DType::f32)
      fail("the tensor " + shown_name(name) + " is " + std::string(traits(t.dtype).name) +
           ", but must be F32");
    if (t.elements() != count)
      fail("the tensor " + shown_name(name) + " has " + std::to_string(t.elements()) +
           " elements, but the model's metadata asks for " + std::to_string(count));
    return {reinterpret_cast<const float*>(t.data.data()), static_cast<size_t>(count)};
  }

 private:
  [[noreturn]] void fail(const std::string& why) const {
    throw Error(Errc::bad_file, path_ + ": " + why);
  }
  [[noreturn]] void wrong_type(const GgufEntry& entry, const std::string& wanted) const {
    fail(shown_name(entry.key) + " is " + type_words(entry) + ", but must be " + wanted);
  }

  const GgufEntry& need(std::string_view key) const {
    const GgufEntry* entry = contents_.find_entry(key);
    if (entry == nullptr) fail("the key " + shown_name(key) + " is missing");
    return *entry;
  }
  const GgufEntry& need_array(std::string_view key, const char* of) const {
    const GgufEntry& entry = need(key);
    if (entry.type != GgufType::array) wrong_type(entry, std::string("an array of ") + of);
    return entry;
  }

  std::unique_ptr<MappedFile> file_;
  std::span<const std::byte> bytes_;
  std::string path_;
  GgufContents contents_;
};

}  // namespace

int64_t GgufTensor::elements() const {
  int64_t product = 1;
  for (const int64_t d : dims) product *= d;
  return product;
}

std::shared_ptr<const GgufFile> GgufFile::open(const std::string& path) {
  return std::make_shared<Reader>(std::make_unique<MappedFile>(path));
}

std::shared_ptr<const GgufFile> GgufFile::parse(std::span<const std::byte> bytes,
                                                std::string name) {
  return std::make_shared<Reader>(bytes, std::move(name));
}

}  // namespace pith

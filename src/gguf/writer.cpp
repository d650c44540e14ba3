#include <bit>
#include <cstring>
#include <optional>
#include <set>

#include "base/error.h"
#include "base/output_file.h"
#include "gguf/gguf.h"
#include "gguf/names.h"

namespace pith {
namespace {

constexpr uint32_t kVersion = 3;
constexpr uint32_t kDefaultAlignment = 32;

void append(std::string& to, const void* data, size_t bytes) {
  to.append(static_cast<const char*>(data), bytes);
}

template <class T>
void append(std::string& to, T value) {
  append(to, &value, sizeof value);
}

void append_string(std::string& to, std::string_view value) {
  append(to, uint64_t{value.size()});
  to += value;
}

}  // namespace

struct GgufWriter::State {
  std::string path;
  uint32_t alignment;
  std::optional<OutputFile> file;  // or
  std::vector<std::byte>* memory = nullptr;
  uint64_t position = 0;

  std::string entries, tensors;
  uint64_t entry_count = 0, tensor_count = 0;
  std::set<std::string, std::less<>> keys, names;
  std::vector<uint64_t> tensor_bytes;
  uint64_t offset = 0;  // of the next tensor, from the start of the data

  bool begun = false;
  size_t current = 0;    // tensor being written
  uint64_t written = 0;  // bytes of it

  uint64_t padded(uint64_t bytes) const { return (bytes + alignment - 1) / alignment * alignment; }

  void emit(const void* data, size_t bytes) {
    position += bytes;
    if (file.has_value()) {
      file->write(data, bytes);
    } else {
      const auto* from = static_cast<const std::byte*>(data);
      memory->insert(memory->end(), from, from + bytes);
    }
  }

  void pad() {
    const std::string zeros(padded(position) - position, '\0');
    emit(zeros.data(), zeros.size());
  }

  // Begins an entry: its key and type.
  void open_entry(std::string_view key, GgufType type) {
    PITH_CHECK(!begun, "metadata is set before begin");
    PITH_CHECK(!key.empty(), "a key has a name");
    if (!keys.emplace(key).second)
      throw Error(Errc::bad_file,
                  path + ": the key " + shown_name(key) + " would be written twice");
    append_string(entries, key);
    append(entries, static_cast<uint32_t>(type));
    ++entry_count;
  }

  void open_array(std::string_view key, GgufType element, uint64_t count) {
    open_entry(key, GgufType::array);
    append(entries, static_cast<uint32_t>(element));
    append(entries, count);
  }

  template <class T>
  void set(std::string_view key, GgufType type, T value) {
    open_entry(key, type);
    append(entries, value);
  }
};

GgufWriter::GgufWriter(const std::string& path, uint32_t alignment)
    : state_(std::make_unique<State>()) {
  PITH_CHECK(std::has_single_bit(alignment) && alignment >= 8, "alignment is a power of two");
  state_->path = path;
  state_->alignment = alignment;
  state_->file.emplace(path);
  if (alignment != kDefaultAlignment) set_u32("general.alignment", alignment);
}

GgufWriter::GgufWriter(std::vector<std::byte>& memory, uint32_t alignment)
    : state_(std::make_unique<State>()) {
  PITH_CHECK(std::has_single_bit(alignment) && alignment >= 8, "alignment is a power of two");
  memory.clear();
  state_->path = "(memory)";
  state_->alignment = alignment;
  state_->memory = &memory;
  if (alignment != kDefaultAlignment) set_u32("general.alignment", alignment);
}

GgufWriter::~GgufWriter() = default;

void GgufWriter::set_u32(std::string_view key, uint32_t value) {
  state_->set(key, GgufType::u32, value);
}
void GgufWriter::set_i32(std::string_view key, int32_t value) {
  state_->set(key, GgufType::i32, value);
}
void GgufWriter::set_u64(std::string_view key, uint64_t value) {
  state_->set(key, GgufType::u64, value);
}
void GgufWriter::set_f32(std::string_view key, float value) {
  state_->set(key, GgufType::f32, value);
}
void GgufWriter::set_bool(std::string_view key, bool value) {
  state_->set(key, GgufType::boolean, static_cast<uint8_t>(value));
}

void GgufWriter::set_text(std::string_view key, std::string_view value) {
  state_->open_entry(key, GgufType::string);
  append_string(state_->entries, value);
}

void GgufWriter::set_texts(std::string_view key, std::span<const std::string> values) {
  state_->open_array(key, GgufType::string, values.size());
  for (const std::string& value : values) append_string(state_->entries, value);
}

void GgufWriter::set_i32s(std::string_view key, std::span<const int32_t> values) {
  state_->open_array(key, GgufType::i32, values.size());
  append(state_->entries, values.data(), values.size_bytes());
}

void GgufWriter::set_f32s(std::string_view key, std::span<const float> values) {
  state_->open_array(key, GgufType::f32, values.size());
  append(state_->entries, values.data(), values.size_bytes());
}

void GgufWriter::copy(const GgufEntry& entry) {
  if (entry.key == "general.alignment") return;
  if (entry.type == GgufType::array)
    state_->open_array(entry.key, entry.element, entry.count);
  else
    state_->open_entry(entry.key, entry.type);
  append(state_->entries, entry.raw.data(), entry.raw.size());
}

void GgufWriter::add_tensor(std::string_view name, DType dtype, std::span<const int64_t> dims) {
  State& s = *state_;
  PITH_CHECK(!s.begun, "tensors are added before begin");
  PITH_CHECK(!name.empty() && !dims.empty() && dims.size() <= 4, "a tensor has 1 to 4 dimensions");
  if (!s.names.emplace(name).second)
    throw Error(Errc::bad_file,
                s.path + ": the tensor " + shown_name(name) + " would be written twice");
  append_string(s.tensors, name);
  append(s.tensors, static_cast<uint32_t>(dims.size()));
  uint64_t bytes = row_bytes(dtype, dims[0]);
  for (size_t i = 0; i < dims.size(); ++i) {
    PITH_CHECK(dims[i] > 0, "dimensions are positive");
    append(s.tensors, static_cast<uint64_t>(dims[i]));
    if (i > 0) bytes *= static_cast<uint64_t>(dims[i]);
  }
  append(s.tensors, static_cast<uint32_t>(dtype));
  append(s.tensors, s.offset);
  s.offset += s.padded(bytes);
  s.tensor_bytes.push_back(bytes);
  ++s.tensor_count;
}

void GgufWriter::begin() {
  State& s = *state_;
  PITH_CHECK(!s.begun, "begin comes once");
  s.begun = true;
  std::string header = "GGUF";
  append(header, kVersion);
  append(header, s.tensor_count);
  append(header, s.entry_count);
  if (s.memory != nullptr)
    s.memory->reserve(s.padded(header.size() + s.entries.size() + s.tensors.size()) + s.offset);
  s.emit(header.data(), header.size());
  s.emit(s.entries.data(), s.entries.size());
  s.emit(s.tensors.data(), s.tensors.size());
  s.pad();
  s.entries = {};
  s.tensors = {};
}

void GgufWriter::write_tensor(std::span<const std::byte> data) {
  PITH_CHECK(state_->written == 0, "the tensor before is complete");
  PITH_CHECK(state_->current < state_->tensor_bytes.size() &&
                 data.size() == state_->tensor_bytes[state_->current],
             "a tensor's data has the size of its shape");
  write_part(data);
}

void GgufWriter::write_part(std::span<const std::byte> data) {
  State& s = *state_;
  PITH_CHECK(s.begun && s.current < s.tensor_bytes.size(), "a tensor was added for this data");
  PITH_CHECK(data.size() <= s.tensor_bytes[s.current] - s.written,
             "the parts of a tensor add up to its size");
  s.emit(data.data(), data.size());
  s.written += data.size();
  if (s.written < s.tensor_bytes[s.current]) return;
  s.pad();
  ++s.current;
  s.written = 0;
}

void GgufWriter::finish() {
  State& s = *state_;
  PITH_CHECK(s.begun && s.current == s.tensor_bytes.size(), "every tensor was written");
  if (s.file.has_value()) s.file->commit();
}

}  // namespace pith

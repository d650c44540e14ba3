#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "base/mapped_file.h"
#include "gguf/gguf.h"
#include "gguf/names.h"

namespace pith {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF is read as it lies");

constexpr uint64_t kMaxKeyBytes = 65535;  // of the GGUF specification
constexpr uint64_t kMaxNameBytes = 255;   // a tensor's; the specification says 64, some tools 128
constexpr uint64_t kMinEntryBytes = 14;   // key of one byte, type, one byte of value
constexpr uint64_t kMinTensorBytes = 33;  // name of one byte, one dimension, type, offset
constexpr uint64_t kDefaultAlignment = 32;

template <class T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

// Bytes of one value; 0 for strings and arrays.
uint64_t scalar_bytes(GgufType type) {
  switch (type) {
    case GgufType::u8:
    case GgufType::i8:
    case GgufType::boolean:
      return 1;
    case GgufType::u16:
    case GgufType::i16:
      return 2;
    case GgufType::u32:
    case GgufType::i32:
    case GgufType::f32:
      return 4;
    case GgufType::u64:
    case GgufType::i64:
    case GgufType::f64:
      return 8;
    case GgufType::string:
    case GgufType::array:
      return 0;
  }
  return 0;
}

bool is_integer(GgufType type) {
  switch (type) {
    case GgufType::u8:
    case GgufType::i8:
    case GgufType::u16:
    case GgufType::i16:
    case GgufType::u32:
    case GgufType::i32:
    case GgufType::u64:
    case GgufType::i64:
      return true;
    default:
      return false;
  }
}

bool is_number(GgufType type) {
  return is_integer(type) || type == GgufType::f32 || type == GgufType::f64;
}

// Integers beyond int64_t come back as false.
bool load_integer(GgufType type, const std::byte* from, int64_t& value) {
  switch (type) {
    case GgufType::u8:
      value = load<uint8_t>(from);
      return true;
    case GgufType::i8:
      value = load<int8_t>(from);
      return true;
    case GgufType::u16:
      value = load<uint16_t>(from);
      return true;
    case GgufType::i16:
      value = load<int16_t>(from);
      return true;
    case GgufType::u32:
      value = load<uint32_t>(from);
      return true;
    case GgufType::i32:
      value = load<int32_t>(from);
      return true;
    case GgufType::i64:
      value = load<int64_t>(from);
      return true;
    case GgufType::u64: {
      const uint64_t wide = load<uint64_t>(from);
      value = static_cast<int64_t>(wide);
      return wide <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
    }
    default:
      return false;
  }
}

double load_number(GgufType type, const std::byte* from) {
  if (type == GgufType::f32) return load<float>(from);
  if (type == GgufType::f64) return load<double>(from);
  if (type == GgufType::u64) return static_cast<double>(load<uint64_t>(from));
  int64_t value = 0;
  load_integer(type, from, value);
  return static_cast<double>(value);
}

// Walks the part of the file before the data. Every read asks first whether the bytes are there.
class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, const std::string& path) : bytes_(bytes), path_(path) {}

  uint64_t position() const { return position_; }
  uint64_t left() const { return bytes_.size() - position_; }

  [[noreturn]] void fail(const std::string& why, Errc code = Errc::bad_file) const {
    throw Error(code, path_ + ": " + why);
  }

  // `what` names what is being read, for the sentence.
  template <class What>
  const std::byte* take(uint64_t bytes, const What& what) {
    if (bytes > left())
      fail("the file ends inside " + what() + ": it needs " + std::to_string(bytes) +
           " bytes at byte " + std::to_string(position_) + ", but " + std::to_string(left()) +
           " are left; it is truncated or not a GGUF file");
    const std::byte* at = bytes_.data() + position_;
    position_ += bytes;
    return at;
  }

  template <class T, class What>
  T read(const What& what) {
    return load<T>(take(sizeof(T), what));
  }

  template <class What>
  std::string_view read_string(const What& what) {
    const uint64_t bytes = read<uint64_t>(what);
    return {reinterpret_cast<const char*>(take(bytes, what)), static_cast<size_t>(bytes)};
  }

 private:
  std::span<const std::byte> bytes_;
  const std::string& path_;
  uint64_t position_ = 0;
};

auto named(const char* what) {
  return [what] { return std::string(what); };
}

// Indices of `names` in the order of the names; the index of a name that comes twice, or -1.
int64_t sort_names(const std::vector<std::string_view>& names, std::vector<uint32_t>& order) {
  order.resize(names.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(),
            [&](uint32_t a, uint32_t b) { return names[a] < names[b]; });
  for (size_t i = 1; i < order.size(); ++i)
    if (names[order[i - 1]] == names[order[i]]) return order[i];
  return -1;
}

class Reader final : public GgufFile {
 public:
  Reader(std::span<const std::byte> bytes, std::string path)
      : bytes_(bytes), path_(std::move(path)) {
    parse_all();
  }
  explicit Reader(std::unique_ptr<MappedFile> file)
      : file_(std::move(file)), bytes_(file_->bytes()), path_(file_->path()) {
    parse_all();
  }

  const std::string& path() const override { return path_; }
  uint32_t version() const override { return version_; }
  uint64_t alignment() const override { return alignment_; }
  size_t bytes() const override { return bytes_.size(); }
  std::span<const GgufEntry> entries() const override { return entries_; }
  std::span<const GgufTensor> tensors() const override { return tensors_; }

  bool has(std::string_view key) const override { return find(key) != nullptr; }

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
    const GgufEntry* entry = find(key);
    if (entry == nullptr) return fallback;
    if (entry->type != GgufType::boolean) wrong_type(*entry, "a boolean");
    return load<uint8_t>(entry->raw.data()) != 0;
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
      const uint64_t bytes = load<uint64_t>(at);
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

  bool has_tensor(std::string_view name) const override { return find_tensor(name) != nullptr; }

  const GgufTensor& tensor(std::string_view name) const override {
    const GgufTensor* found = find_tensor(name);
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

  const GgufEntry* find(std::string_view key) const {
    const auto at = std::lower_bound(
        entry_order_.begin(), entry_order_.end(), key,
        [&](uint32_t i, std::string_view wanted) { return entries_[i].key < wanted; });
    return at != entry_order_.end() && entries_[*at].key == key ? &entries_[*at] : nullptr;
  }
  const GgufTensor* find_tensor(std::string_view name) const {
    const auto at = std::lower_bound(
        tensor_order_.begin(), tensor_order_.end(), name,
        [&](uint32_t i, std::string_view wanted) { return tensors_[i].name < wanted; });
    return at != tensor_order_.end() && tensors_[*at].name == name ? &tensors_[*at] : nullptr;
  }
  const GgufEntry& need(std::string_view key) const {
    const GgufEntry* entry = find(key);
    if (entry == nullptr) fail("the key " + shown_name(key) + " is missing");
    return *entry;
  }
  const GgufEntry& need_array(std::string_view key, const char* of) const {
    const GgufEntry& entry = need(key);
    if (entry.type != GgufType::array) wrong_type(entry, std::string("an array of ") + of);
    return entry;
  }

  void parse_all();
  void parse_header(Cursor& cursor);
  void parse_entries(Cursor& cursor);
  void parse_value(Cursor& cursor, GgufEntry& entry);
  GgufType parse_type(Cursor& cursor, std::string_view key);
  uint64_t parse_tensors(Cursor& cursor, std::vector<uint64_t>& offsets);
  void place_tensors(const Cursor& cursor, const std::vector<uint64_t>& offsets);

  std::unique_ptr<MappedFile> file_;
  std::span<const std::byte> bytes_;
  std::string path_;
  uint32_t version_ = 0;
  uint64_t alignment_ = kDefaultAlignment;
  uint64_t tensor_count_ = 0, entry_count_ = 0;
  std::vector<GgufEntry> entries_;
  std::vector<GgufTensor> tensors_;
  std::vector<uint32_t> entry_order_, tensor_order_;  // indices, sorted by name
};

void Reader::parse_all() {
  PITH_CHECK(reinterpret_cast<uintptr_t>(bytes_.data()) % 8 == 0, "GGUF bytes are aligned to 8");
  Cursor cursor(bytes_, path_);
  parse_header(cursor);
  parse_entries(cursor);
  std::vector<uint64_t> offsets;
  parse_tensors(cursor, offsets);
  place_tensors(cursor, offsets);
}

void Reader::parse_header(Cursor& cursor) {
  const auto header = named("the header");
  if (std::memcmp(cursor.take(4, header), "GGUF", 4) != 0)
    cursor.fail("not a GGUF file: it does not begin with 'GGUF'");
  version_ = cursor.read<uint32_t>(header);
  if (version_ != 0 && (version_ & 0xffffu) == 0)
    cursor.fail("a big-endian GGUF file, which is not supported; convert it to little endian",
                Errc::unsupported);
  if (version_ != 2 && version_ != 3)
    cursor.fail(
        "GGUF version " + std::to_string(version_) + " is not supported; versions 2 and 3 are",
        Errc::unsupported);
  tensor_count_ = cursor.read<uint64_t>(header);
  entry_count_ = cursor.read<uint64_t>(header);
  // Both counts are bounded by what the file can hold before anything is allocated for them.
  if (entry_count_ > cursor.left() / kMinEntryBytes)
    cursor.fail("the header promises " + std::to_string(entry_count_) +
                " metadata entries, more than the file's " + std::to_string(bytes_.size()) +
                " bytes can hold");
  if (tensor_count_ > cursor.left() / kMinTensorBytes)
    cursor.fail("the header promises " + std::to_string(tensor_count_) +
                " tensors, more than the file's " + std::to_string(bytes_.size()) +
                " bytes can hold");
  if (entry_count_ > UINT32_MAX || tensor_count_ > UINT32_MAX)
    cursor.fail("more than 2^32 entries or tensors", Errc::unsupported);
}

GgufType Reader::parse_type(Cursor& cursor, std::string_view key) {
  const uint32_t type = cursor.read<uint32_t>([&] { return "the type of " + shown_name(key); });
  if (type > static_cast<uint32_t>(GgufType::f64))
    cursor.fail(shown_name(key) + " has the unknown type " + std::to_string(type));
  return static_cast<GgufType>(type);
}

void Reader::parse_value(Cursor& cursor, GgufEntry& entry) {
  const auto value = [&] { return "the value of " + shown_name(entry.key); };
  const GgufType type = entry.element;
  const uint64_t start = cursor.position();
  if (type == GgufType::string) {
    if (entry.count > cursor.left() / sizeof(uint64_t))
      cursor.fail(shown_name(entry.key) + " promises " + std::to_string(entry.count) +
                  " strings, more than the rest of the file can hold");
    for (uint64_t i = 0; i < entry.count; ++i) cursor.read_string(value);
  } else {
    const uint64_t step = scalar_bytes(type);
    if (entry.count > cursor.left() / step)
      cursor.fail(shown_name(entry.key) + " promises " + std::to_string(entry.count) +
                  " values, more than the rest of the file can hold");
    cursor.take(entry.count * step, value);
  }
  entry.raw = bytes_.subspan(start, cursor.position() - start);
}

void Reader::parse_entries(Cursor& cursor) {
  std::vector<std::string_view> names;
  for (uint64_t i = 0; i < entry_count_; ++i) {
    const auto key = [&] { return "the key of metadata entry " + std::to_string(i); };
    GgufEntry entry{};
    entry.key = cursor.read_string(key);
    if (entry.key.empty() || entry.key.size() > kMaxKeyBytes)
      cursor.fail(key() + " has " + std::to_string(entry.key.size()) + " bytes; 1 to " +
                  std::to_string(kMaxKeyBytes) + " are allowed");
    entry.type = entry.element = parse_type(cursor, entry.key);
    entry.count = 1;
    if (entry.type == GgufType::array) {
      entry.element = parse_type(cursor, entry.key);
      entry.count = cursor.read<uint64_t>([&] { return "the length of " + shown_name(entry.key); });
      if (entry.element == GgufType::array)
        cursor.fail(shown_name(entry.key) + " is an array of arrays, which is not supported",
                    Errc::unsupported);
    }
    parse_value(cursor, entry);
    if (entry.type == GgufType::boolean && load<uint8_t>(entry.raw.data()) > 1)
      cursor.fail(shown_name(entry.key) + " is a boolean, but neither 0 nor 1");
    entries_.push_back(entry);
    names.push_back(entry.key);
  }
  if (const int64_t twice = sort_names(names, entry_order_); twice >= 0)
    cursor.fail("the key " + shown_name(names[static_cast<size_t>(twice)]) + " comes twice");
  if (!has("general.alignment")) return;
  const int64_t alignment = integer("general.alignment");
  if (alignment < 8 || !std::has_single_bit(static_cast<uint64_t>(alignment)) ||
      alignment > (int64_t{1} << 30))
    cursor.fail("'general.alignment' is " + std::to_string(alignment) +
                "; it must be a power of two from 8 to 2^30");
  alignment_ = static_cast<uint64_t>(alignment);
}

uint64_t Reader::parse_tensors(Cursor& cursor, std::vector<uint64_t>& offsets) {
  std::vector<std::string_view> names;
  for (uint64_t i = 0; i < tensor_count_; ++i) {
    const auto where = [&] { return "the description of tensor " + std::to_string(i); };
    GgufTensor tensor{};
    tensor.name = cursor.read_string(where);
    if (tensor.name.empty() || tensor.name.size() > kMaxNameBytes)
      cursor.fail("the name of tensor " + std::to_string(i) + " has " +
                  std::to_string(tensor.name.size()) + " bytes; 1 to " +
                  std::to_string(kMaxNameBytes) + " are allowed");
    const uint32_t rank = cursor.read<uint32_t>(where);
    if (rank < 1 || rank > 4)
      cursor.fail("the tensor " + shown_name(tensor.name) + " has " + std::to_string(rank) +
                  " dimensions; 1 to 4 are allowed");
    uint64_t elements = 1;
    for (uint32_t d = 0; d < rank; ++d) {
      const uint64_t dim = cursor.read<uint64_t>(where);
      // 2^60 elements of at most 4 bytes still fit into 64 bits.
      if (dim == 0 || dim > (uint64_t{1} << 60) / elements)
        cursor.fail("dimension " + std::to_string(d) + " of the tensor " + shown_name(tensor.name) +
                    " is " + std::to_string(dim) + (dim == 0 ? "" : ", too large for any file"));
      elements *= dim;
      tensor.dims.push_back(static_cast<int64_t>(dim));
    }
    const uint32_t type = cursor.read<uint32_t>(where);
    if (!known(type))
      cursor.fail("the tensor " + shown_name(tensor.name) + " has the format " +
                      foreign_format_name(type) + ", which is not supported; supported are " +
                      supported_format_names(),
                  Errc::unsupported);
    tensor.dtype = static_cast<DType>(type);
    const DTypeTraits& format = traits(tensor.dtype);
    if (tensor.dims[0] % format.block_elements != 0)
      cursor.fail("the rows of the tensor " + shown_name(tensor.name) + " have " +
                  std::to_string(tensor.dims[0]) + " elements, not a multiple of the " +
                  std::to_string(format.block_elements) + " of a " + std::string(format.name) +
                  " block");
    offsets.push_back(cursor.read<uint64_t>(where));
    tensors_.push_back(std::move(tensor));
    names.push_back(tensors_.back().name);
  }
  if (const int64_t twice = sort_names(names, tensor_order_); twice >= 0)
    cursor.fail("the tensor " + shown_name(names[static_cast<size_t>(twice)]) + " comes twice");
  return cursor.position();
}

void Reader::place_tensors(const Cursor& cursor, const std::vector<uint64_t>& offsets) {
  const uint64_t start = (cursor.position() + alignment_ - 1) / alignment_ * alignment_;
  const uint64_t data_bytes = start <= bytes_.size() ? bytes_.size() - start : 0;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    GgufTensor& t = tensors_[i];
    const DTypeTraits& format = traits(t.dtype);
    const uint64_t bytes = static_cast<uint64_t>(t.elements()) /
                           static_cast<uint64_t>(format.block_elements) *
                           static_cast<uint64_t>(format.block_bytes);
    if (offsets[i] % alignment_ != 0)
      cursor.fail("the data of the tensor " + shown_name(t.name) + " begins at offset " +
                  std::to_string(offsets[i]) + ", not a multiple of the alignment " +
                  std::to_string(alignment_));
    if (offsets[i] > data_bytes || bytes > data_bytes - offsets[i])
      cursor.fail("the tensor " + shown_name(t.name) + " needs " + std::to_string(bytes) +
                  " bytes at offset " + std::to_string(offsets[i]) + ", but the file has only " +
                  std::to_string(data_bytes) + " bytes of data; it is truncated");
    t.data = bytes_.subspan(start + offsets[i], bytes);
  }
}

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

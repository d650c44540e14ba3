#include "gguf/contents.h"

#include <algorithm>
#include <bit>
#include <numeric>

#include "base/error.h"
#include "gguf/names.h"
#include "gguf/values.h"

namespace pith {
namespace {

constexpr uint64_t kMaxKeyBytes = 65535;  // of the GGUF specification
constexpr uint64_t kMaxNameBytes = 255;   // a tensor's; the specification says 64, some tools 128
constexpr uint64_t kMinEntryBytes = 14;   // key of one byte, type, one byte of value
constexpr uint64_t kMinTensorBytes = 33;  // name of one byte, one dimension, type, offset

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
    return load_value<T>(take(sizeof(T), what));
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

// Every count is bounded by what the rest of the file can hold before anything is allocated for it.
class Parser {
 public:
  Parser(std::span<const std::byte> bytes, const std::string& path) : bytes_(bytes), path_(path) {}

  GgufContents run();

 private:
  void parse_header(Cursor& cursor);
  void parse_entries(Cursor& cursor);
  void parse_value(Cursor& cursor, GgufEntry& entry);
  void parse_alignment(const Cursor& cursor);
  static GgufType parse_type(Cursor& cursor, std::string_view key);
  std::vector<uint64_t> parse_tensors(Cursor& cursor);  // returns offsets
  void place_tensors(const Cursor& cursor, const std::vector<uint64_t>& offsets);

  std::span<const std::byte> bytes_;
  const std::string& path_;
  uint64_t tensor_count_ = 0, entry_count_ = 0;
  GgufContents contents_;
};

GgufContents Parser::run() {
  Cursor cursor(bytes_, path_);
  parse_header(cursor);
  parse_entries(cursor);
  parse_alignment(cursor);
  const std::vector<uint64_t> offsets = parse_tensors(cursor);
  place_tensors(cursor, offsets);
  return std::move(contents_);
}

void Parser::parse_header(Cursor& cursor) {
  const auto header = named("the header");
  if (std::memcmp(cursor.take(4, header), "GGUF", 4) != 0)
    cursor.fail("not a GGUF file: it does not begin with 'GGUF'");
  contents_.version = cursor.read<uint32_t>(header);
  if (contents_.version != 0 && (contents_.version & 0xffffu) == 0)
    cursor.fail("a big-endian GGUF file, which is not supported; convert it to little endian",
                Errc::unsupported);
  if (contents_.version != 2 && contents_.version != 3)
    cursor.fail("GGUF version " + std::to_string(contents_.version) +
                    " is not supported; versions 2 and 3 are",
                Errc::unsupported);
  tensor_count_ = cursor.read<uint64_t>(header);
  entry_count_ = cursor.read<uint64_t>(header);
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

GgufType Parser::parse_type(Cursor& cursor, std::string_view key) {
  const uint32_t type = cursor.read<uint32_t>([&] { return "the type of " + shown_name(key); });
  if (type > static_cast<uint32_t>(GgufType::f64))
    cursor.fail(shown_name(key) + " has the unknown type " + std::to_string(type));
  return static_cast<GgufType>(type);
}

void Parser::parse_value(Cursor& cursor, GgufEntry& entry) {
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

void Parser::parse_entries(Cursor& cursor) {
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
    if (entry.type == GgufType::boolean && load_value<uint8_t>(entry.raw.data()) > 1)
      cursor.fail(shown_name(entry.key) + " is a boolean, but neither 0 nor 1");
    contents_.entries.push_back(entry);
    names.push_back(entry.key);
  }
  if (const int64_t twice = sort_names(names, contents_.entry_order); twice >= 0)
    cursor.fail("the key " + shown_name(names[static_cast<size_t>(twice)]) + " comes twice");
}

void Parser::parse_alignment(const Cursor& cursor) {
  const GgufEntry* entry = contents_.find_entry("general.alignment");
  if (entry == nullptr) return;
  int64_t alignment = 0;
  if (!is_integer(entry->type))
    cursor.fail("'general.alignment' is " + type_words(*entry) + ", but must be an integer");
  const bool fits = load_integer(entry->type, entry->raw.data(), alignment);
  if (!fits || alignment < 8 || !std::has_single_bit(static_cast<uint64_t>(alignment)) ||
      alignment > (int64_t{1} << 30))
    cursor.fail("'general.alignment' is " + (fits ? std::to_string(alignment) : "far too large") +
                "; it must be a power of two from 8 to 2^30");
  contents_.alignment = static_cast<uint64_t>(alignment);
}

std::vector<uint64_t> Parser::parse_tensors(Cursor& cursor) {
  std::vector<uint64_t> offsets;
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
    contents_.tensors.push_back(std::move(tensor));
    names.push_back(contents_.tensors.back().name);
  }
  if (const int64_t twice = sort_names(names, contents_.tensor_order); twice >= 0)
    cursor.fail("the tensor " + shown_name(names[static_cast<size_t>(twice)]) + " comes twice");
  return offsets;
}

void Parser::place_tensors(const Cursor& cursor, const std::vector<uint64_t>& offsets) {
  const uint64_t start =
      (cursor.position() + contents_.alignment - 1) / contents_.alignment * contents_.alignment;
  const uint64_t data_bytes = start <= bytes_.size() ? bytes_.size() - start : 0;
  for (size_t i = 0; i < contents_.tensors.size(); ++i) {
    GgufTensor& t = contents_.tensors[i];
    const DTypeTraits& format = traits(t.dtype);
    const uint64_t bytes = static_cast<uint64_t>(t.elements()) /
                           static_cast<uint64_t>(format.block_elements) *
                           static_cast<uint64_t>(format.block_bytes);
    if (offsets[i] % contents_.alignment != 0)
      cursor.fail("the data of the tensor " + shown_name(t.name) + " begins at offset " +
                  std::to_string(offsets[i]) + ", not a multiple of the alignment " +
                  std::to_string(contents_.alignment));
    if (offsets[i] > data_bytes || bytes > data_bytes - offsets[i])
      cursor.fail("the tensor " + shown_name(t.name) + " needs " + std::to_string(bytes) +
                  " bytes at offset " + std::to_string(offsets[i]) + ", but the file has only " +
                  std::to_string(data_bytes) + " bytes of data; it is truncated");
    t.data = bytes_.subspan(start + offsets[i], bytes);
  }
}

}  // namespace

const GgufEntry* GgufContents::find_entry(std::string_view key) const {
  const auto at = std::lower_bound(
      entry_order.begin(), entry_order.end(), key,
      [&](uint32_t i, std::string_view wanted) { return entries[i].key < wanted; });
  return at != entry_order.end() && entries[*at].key == key ? &entries[*at] : nullptr;
}

const GgufTensor* GgufContents::find_tensor(std::string_view name) const {
  const auto at = std::lower_bound(
      tensor_order.begin(), tensor_order.end(), name,
      [&](uint32_t i, std::string_view wanted) { return tensors[i].name < wanted; });
  return at != tensor_order.end() && tensors[*at].name == name ? &tensors[*at] : nullptr;
}

GgufContents parse_gguf(std::span<const std::byte> bytes, const std::string& path) {
  return Parser(bytes, path).run();
}

}  // namespace pith

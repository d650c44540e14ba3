#include "apps/npz.h"

#include <bit>
#include <zlib.h>

#include "base/error.h"

namespace pith {
namespace {

static_assert(std::endian::native == std::endian::little, "zip and our arrays are little-endian");

void put(std::string& to, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) to += static_cast<char>(value >> (8 * i) & 0xff);
}

constexpr uint16_t kVersion = 20;          // of the zip format: plain entries
constexpr uint16_t kDate = 0x21;           // 1980-01-01: the same data gives the same file
constexpr uint64_t kMost = 0xffffffffull;  // sizes and offsets have 32 bits

// What the local header and the central directory have in common.
std::string fields(uint32_t crc, uint32_t bytes, size_t name_bytes) {
  std::string h;
  put(h, kVersion, 2);
  put(h, 0, 2);  // flags
  put(h, 0, 2);  // stored
  put(h, 0, 2);  // time
  put(h, kDate, 2);
  put(h, crc, 4);
  put(h, bytes, 4);
  put(h, bytes, 4);
  put(h, name_bytes, 2);
  put(h, 0, 2);  // extra
  return h;
}

uint32_t crc_of(uint32_t crc, const void* data, size_t bytes) {
  return static_cast<uint32_t>(crc32_z(crc, static_cast<const Bytef*>(data), bytes));
}

}  // namespace

void NpzWriter::add(std::string_view name, std::span<const float> numbers,
                    std::initializer_list<int64_t> shape) {
  add(name, "<f4", std::as_bytes(numbers), numbers.size(), shape);
}

void NpzWriter::add(std::string_view name, std::span<const int32_t> numbers,
                    std::initializer_list<int64_t> shape) {
  add(name, "<i4", std::as_bytes(numbers), numbers.size(), shape);
}

void NpzWriter::add(std::string_view name, std::span<const int64_t> numbers,
                    std::initializer_list<int64_t> shape) {
  add(name, "<i8", std::as_bytes(numbers), numbers.size(), shape);
}

void NpzWriter::add(std::string_view name, std::string_view type, std::span<const std::byte> data,
                    size_t count, std::initializer_list<int64_t> shape) {
  int64_t product = 1;
  std::string sizes;
  for (const int64_t size : shape) {
    product *= size;
    sizes += std::to_string(size) + ", ";
  }
  PITH_CHECK(product == static_cast<int64_t>(count), "an array has as many numbers as its shape");

  // The .npy header: magic, version 1.0, its length, a Python literal padded to 64 bytes.
  std::string text =
      "{'descr': '" + std::string(type) + "', 'fortran_order': False, 'shape': (" + sizes + "), }";
  text.append(63 - (10 + text.size()) % 64, ' ');
  text += '\n';
  std::string header("\x93NUMPY\x01\x00", 8);
  put(header, text.size(), 2);
  header += text;

  const std::string file = std::string(name) + ".npy";
  const uint64_t bytes = header.size() + data.size();
  if (bytes > kMost || file_.position() + bytes > kMost)
    throw Error(Errc::unsupported,
                "the arrays take more than the 4 GiB of an .npz file; trace fewer layers or a "
                "shorter prompt");
  Entry entry{file, 0, static_cast<uint32_t>(bytes), static_cast<uint32_t>(file_.position())};
  entry.crc = crc_of(crc_of(0, header.data(), header.size()), data.data(), data.size());
  std::string local("PK\x03\x04", 4);
  local += fields(entry.crc, entry.bytes, file.size()) + file + header;
  file_.write(local.data(), local.size());
  file_.write(data);
  entries_.push_back(std::move(entry));
}

void NpzWriter::commit() {
  const uint64_t start = file_.position();
  std::string directory;
  for (const Entry& entry : entries_) {
    directory += std::string("PK\x01\x02", 4);
    put(directory, kVersion, 2);
    directory += fields(entry.crc, entry.bytes, entry.name.size());
    directory.append(2 + 2 + 2 + 4, '\0');  // comment, disk, attributes
    put(directory, entry.offset, 4);
    directory += entry.name;
  }
  const size_t bytes = directory.size();
  directory += std::string("PK\x05\x06", 4);
  put(directory, 0, 4);  // disks
  put(directory, entries_.size(), 2);
  put(directory, entries_.size(), 2);
  put(directory, bytes, 4);
  put(directory, start, 4);
  put(directory, 0, 2);  // comment
  if (start > kMost || entries_.size() > 0xffff)
    throw Error(Errc::unsupported,
                "an .npz file holds 4 GiB and 65,535 arrays; trace fewer layers");
  file_.write(directory.data(), directory.size());
  file_.commit();
}

}  // namespace pith

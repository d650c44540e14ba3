// The one container for weights, adapters and calibration (GGUF versions 2 and 3, little endian).
// Files are not trusted: every count, offset, length and alignment is checked against the file's
// size before it is used, so a hostile file costs one Error{bad_file} whose sentence names the
// file, the field and the reason, in time and memory bounded by the file's size.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "tensor/view.h"

namespace pith {

enum class GgufType : uint32_t {
  u8 = 0,
  i8 = 1,
  u16 = 2,
  i16 = 3,
  u32 = 4,
  i32 = 5,
  f32 = 6,
  boolean = 7,
  string = 8,
  array = 9,
  u64 = 10,
  i64 = 11,
  f64 = 12,
};

// One metadata entry as it lies in the file.
struct GgufEntry {
  std::string_view key;
  GgufType type;
  GgufType element;                // of an array
  uint64_t count = 1;              // elements of an array; 1 otherwise
  std::span<const std::byte> raw;  // scalars and number arrays: packed; strings: length-prefixed
};

struct GgufTensor {
  std::string_view name;
  DType dtype;
  std::vector<int64_t> dims;  // GGUF order: dims[0] runs fastest; 1 to 4 of them
  std::span<const std::byte> data;
  int64_t elements() const;
  int64_t rows() const { return elements() / dims[0]; }  // all dims but the first
};

class GgufFile {
 public:
  static std::shared_ptr<const GgufFile> open(const std::string& path);  // maps it
  // Reads from memory that outlives the file and is aligned to 8 bytes; `name` is used in messages.
  static std::shared_ptr<const GgufFile> parse(std::span<const std::byte> bytes, std::string name);
  virtual ~GgufFile() = default;
  virtual const std::string& path() const = 0;
  virtual uint32_t version() const = 0;
  virtual uint64_t alignment() const = 0;
  virtual size_t bytes() const = 0;  // of the whole file
  // 32 hexadecimal digits of all of them (XXH3). Reads the file from end to end.
  virtual std::string content_digest() const = 0;

  // Metadata. A missing key, or one of another type, throws bad_file unless there is a fallback.
  virtual std::span<const GgufEntry> entries() const = 0;
  virtual bool has(std::string_view key) const = 0;
  virtual int64_t integer(std::string_view key) const = 0;
  virtual int64_t integer(std::string_view key, int64_t fallback) const = 0;
  virtual double number(std::string_view key) const = 0;
  virtual double number(std::string_view key, double fallback) const = 0;
  virtual bool boolean(std::string_view key, bool fallback) const = 0;
  virtual std::string_view text(std::string_view key) const = 0;
  virtual std::string_view text(std::string_view key, std::string_view fallback) const = 0;
  virtual std::vector<std::string_view> texts(std::string_view key) const = 0;  // array of strings
  virtual std::vector<int64_t> integers(std::string_view key) const = 0;  // array, any int type
  virtual std::vector<float> numbers(std::string_view key) const = 0;     // array, any number type

  // Tensors, as they lie in the file.
  virtual std::span<const GgufTensor> tensors() const = 0;
  virtual bool has_tensor(std::string_view name) const = 0;
  virtual const GgufTensor& tensor(std::string_view name) const = 0;
  // Checked to have `rows` x `cols` elements.
  virtual WeightMatrix matrix(std::string_view name, int64_t rows, int64_t cols) const = 0;
  virtual std::span<const float> floats(std::string_view name,
                                        int64_t count) const = 0;  // F32 only
};

// Writes a GGUF v3 file in one pass: metadata and tensor descriptions first, data after.
//
//   GgufWriter ( set_* | add_tensor )* begin ( write_tensor )* finish
//
// Tensors are written in the order they were added; nothing larger than one tensor is ever in
// memory. The file appears under its name only at `finish` (base/output_file.h). A key or tensor
// name that comes twice throws bad_file: names often come from somebody else's file.
class GgufWriter {
 public:
  explicit GgufWriter(const std::string& path, uint32_t alignment = 32);  // a power of two from 8
  // The same bytes into `memory`, which outlives the writer; for models that are small.
  explicit GgufWriter(std::vector<std::byte>& memory, uint32_t alignment = 32);
  ~GgufWriter();

  void set_u32(std::string_view key, uint32_t value);
  void set_i32(std::string_view key, int32_t value);
  void set_u64(std::string_view key, uint64_t value);
  void set_f32(std::string_view key, float value);
  void set_bool(std::string_view key, bool value);
  void set_text(std::string_view key, std::string_view value);
  void set_texts(std::string_view key, std::span<const std::string> values);
  void set_i32s(std::string_view key, std::span<const int32_t> values);
  void set_f32s(std::string_view key, std::span<const float> values);
  // An entry of another file as it is, but for general.alignment, which is this file's own.
  void copy(const GgufEntry& entry);

  // dims in GGUF order: dims[0] is the row length, a multiple of the format's block.
  void add_tensor(std::string_view name, DType dtype, std::span<const int64_t> dims);

  void begin();
  void write_tensor(std::span<const std::byte> data);  // the next one; size must fit
  // The next tensor in pieces; their sizes must add up.
  void write_part(std::span<const std::byte> data);
  void finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pith

// Weights as Hugging Face stores them: an eight-byte length, a JSON table, then the bytes. The
// table is not trusted: names, formats, shapes and offsets are checked against the file when it is
// opened, so that reading a tensor afterwards cannot fail.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/mapped_file.h"

namespace pith {

enum class SafeType { f64, f32, f16, bf16, other };  // other: integers, F8 and the like

struct SafeTensor {
  SafeType type = SafeType::other;
  std::string type_name;       // as in the file
  std::vector<int64_t> shape;  // the last dimension runs fastest
  std::span<const std::byte> data;
  std::string origin;  // "path: tensor 'name'"

  int64_t elements() const;
  // Values [first, first + count) as floats. `type` is not other.
  void read(int64_t first, int64_t count, float* out) const;
};

// One file's tensors by name. The map keeps the file mapped by holding on to `file`.
struct SafeFile {
  std::shared_ptr<const MappedFile> file;
  std::map<std::string, SafeTensor> tensors;
};
SafeFile open_safetensors(const std::string& path);

// All weights of a folder: model.safetensors, or model.safetensors.index.json and the files it
// names, or whatever *.safetensors lie there with disjoint names.
class SafeFolder {
 public:
  explicit SafeFolder(const std::string& folder);
  const SafeTensor* find(const std::string& name) const;  // null: no such tensor
  const std::map<std::string, SafeTensor>& tensors() const { return tensors_; }
  const std::string& path() const { return path_; }

 private:
  void add(SafeFile&& file, const std::string& path);
  void read_index(const std::string& path);
  std::string path_;
  std::vector<std::shared_ptr<const MappedFile>> files_;
  std::map<std::string, SafeTensor> tensors_;
};

}  // namespace pith

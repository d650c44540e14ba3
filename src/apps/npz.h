// Arrays in one file that NumPy opens: np.load("x.npz")["layer0.k"]. The format is a zip archive of
// stored .npy files (NEP 1 describes their header).
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/output_file.h"

namespace pith {

class NpzWriter {
 public:
  explicit NpzWriter(const std::string& path) : file_(path) {}  // throws Errc::io

  // Row-major numbers; the product of the shape is their count. Throws Errc::io, and too_large
  // beyond the 4 GiB of a plain zip archive.
  void add(std::string_view name, std::span<const float> numbers,
           std::initializer_list<int64_t> shape);
  void add(std::string_view name, std::span<const int32_t> numbers,
           std::initializer_list<int64_t> shape);
  void add(std::string_view name, std::span<const int64_t> numbers,
           std::initializer_list<int64_t> shape);
  // Nothing appears under the file's name before.
  void commit();

 private:
  struct Entry {
    std::string name;
    uint32_t crc = 0, bytes = 0, offset = 0;
  };
  void add(std::string_view name, std::string_view type, std::span<const std::byte> data,
           size_t count, std::initializer_list<int64_t> shape);

  OutputFile file_;
  std::vector<Entry> entries_;
};

}  // namespace pith

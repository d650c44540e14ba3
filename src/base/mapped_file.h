// A file mapped read-only. Pages come from the system's cache and are shared by processes.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace pith {

class MappedFile {
 public:
  explicit MappedFile(const std::string& path);  // throws Errc::io with the system's reason
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace pith

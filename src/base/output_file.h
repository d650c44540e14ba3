// A file that appears under its name only when it is complete:
//
//   OutputFile ( write | write_at )* commit
//
// Bytes go to a temporary file in the same folder, which `commit` syncs and renames and which
// the destructor removes. A full disk, an exception or Ctrl-C therefore leaves nothing behind.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace pith {

class OutputFile {
 public:
  // A link is followed and the mode of an existing file kept; what is not a regular file is
  // refused. Throws Errc::io.
  explicit OutputFile(const std::string& path);
  // Throws what the constructor would: asked before long work whose result goes there.
  static void check(const std::string& path) { OutputFile probe(path); }
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;
  ~OutputFile();

  void write(const void* data, size_t bytes);  // throws Errc::io: disk full and the like
  void write(std::span<const std::byte> bytes) { write(bytes.data(), bytes.size()); }
  void write(std::string_view text) { write(text.data(), text.size()); }
  void pad_to(uint64_t alignment);  // with zeros
  uint64_t position() const { return position_; }
  void commit();

 private:
  void flush();
  std::string path_, temporary_;
  std::string buffer_;
  uint64_t position_ = 0;
  int fd_ = -1;
};

void write_file(const std::string& path, std::string_view text);  // the whole of it

// Removes the temporary files of all OutputFiles that are open. Async-signal-safe; called by the
// handler of a second Ctrl-C just before the process ends.
void remove_unfinished_files() noexcept;

}  // namespace pith

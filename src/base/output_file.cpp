#include "base/output_file.h"

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"

namespace pith {
namespace {

constexpr size_t kBufferBytes = 1 << 20;

// Names of open temporary files, where a signal handler can read them without a lock.
std::array<std::atomic<const char*>, 16> unfinished{};

void remember(const char* name) {
  for (auto& slot : unfinished) {
    const char* empty = nullptr;
    if (slot.compare_exchange_strong(empty, name)) return;
  }
}

void forget(const char* name) {
  for (auto& slot : unfinished) {
    const char* expected = name;
    if (slot.compare_exchange_strong(expected, nullptr)) return;
  }
}

[[noreturn]] void fail(const std::string& path, const char* what) {
  throw Error(Errc::io, path + ": " + what + ": " + std::strerror(errno));
}

}  // namespace

void write_file(const std::string& path, std::string_view text) {
  OutputFile file(path);
  file.write(text);
  file.commit();
}

void remove_unfinished_files() noexcept {
  for (auto& slot : unfinished)
    if (const char* name = slot.load()) ::unlink(name);
}

OutputFile::OutputFile(const std::string& path) : path_(path) {
  if (path.empty()) throw Error(Errc::io, "a file to write has no name");
  struct stat old {};
  const bool exists = ::stat(path.c_str(), &old) == 0;
  if (exists) {
    if (!S_ISREG(old.st_mode))
      throw Error(Errc::io, path + ": cannot write: not a regular file; name another");
    std::error_code error;  // behind links, so that they stay
    const auto target = std::filesystem::canonical(path, error);
    if (!error) path_ = target.string();
  }
  temporary_ = path_ + ".part-" + std::to_string(::getpid());
  fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd_ < 0) fail(path_, "cannot create");
  remember(temporary_.c_str());
  if (exists && ::fchmod(fd_, old.st_mode & 07777) != 0) {
    // Another owner's file on a system without modes: the new one has the default.
  }
  buffer_.reserve(kBufferBytes);
}

OutputFile::~OutputFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_.c_str());
  forget(temporary_.c_str());
}

void OutputFile::write(const void* data, size_t bytes) {
  const char* from = static_cast<const char*>(data);
  position_ += bytes;
  while (bytes > 0) {
    const size_t room = std::min(bytes, kBufferBytes - buffer_.size());
    buffer_.append(from, room);
    from += room;
    bytes -= room;
    if (buffer_.size() == kBufferBytes) flush();
  }
}

void OutputFile::pad_to(uint64_t alignment) {
  const std::string zeros((alignment - position_ % alignment) % alignment, '\0');
  write(zeros.data(), zeros.size());
}

void OutputFile::flush() {
  size_t done = 0;
  while (done < buffer_.size()) {
    const ssize_t n = ::write(fd_, buffer_.data() + done, buffer_.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(path_, "cannot write");
    done += static_cast<size_t>(n);
  }
  buffer_.clear();
}

void OutputFile::commit() {
  PITH_CHECK(fd_ >= 0, "an output file is committed once");
  flush();
  if (::fsync(fd_) != 0 && errno != EINVAL) fail(path_, "cannot write");
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail(path_, "cannot rename into place");
  ::close(fd_);
  fd_ = -1;
  forget(temporary_.c_str());
}

}  // namespace pith

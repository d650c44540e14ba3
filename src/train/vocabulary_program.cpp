#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/mapped_file.h"
#include "base/output_file.h"
#include "base/programs.h"
#include "convert/sentencepiece.h"
#include "train/subwords.h"

namespace pith {
namespace {

namespace fs = std::filesystem;

std::string program() {
  const std::string name = "pith-train-vocabulary", path = program_beside(name);
  if (path.empty())
    throw Error(Errc::unsupported,
                name + ": is not there; it is built and installed together with pith-train");
  return path;
}

}  // namespace

Vocabulary vocabulary_of_lines(std::span<const std::string> lines, int tokens,
                               const std::string& model) {
  const std::string text = model + ".txt", path = program(), count = std::to_string(tokens);
  {
    OutputFile out(text);
    for (const std::string& line : lines) {
      out.write(line);
      out.write("\n");
    }
    out.commit();
  }
  const char* arguments[] = {path.c_str(), text.c_str(), count.c_str(), model.c_str(), nullptr};
  pid_t child = 0;
  const int refused =
      posix_spawn(&child, path.c_str(), nullptr, nullptr, const_cast<char**>(arguments), environ);
  if (refused != 0) throw Error(Errc::io, path + ": cannot be started: " + std::strerror(refused));
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  std::error_code ignored;
  fs::remove(text, ignored);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
    throw Error(Errc::bad_option, "vocabulary: " + path + " could not learn " + count +
                                      " tokens; its own message stands above");
  const MappedFile file(model);
  return read_sentencepiece(file.bytes(), model, Monitor::silent());
}

}  // namespace pith

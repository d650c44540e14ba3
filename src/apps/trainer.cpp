#include "apps/trainer.h"

#include <cerrno>
#include <cstring>
#include <unistd.h>

#include "base/error.h"
#include "base/programs.h"

namespace pith {
namespace {

std::string trainer() {
  std::string path = program_beside("pith-train");
  if (path.empty())
    throw Error(Errc::unsupported,
                "the trainer is not here: install libtorch-dev and libsentencepiece-dev, build "
                "Pith again with -DPITH_TRAIN=ON, and it lies beside this program");
  return path;
}

}  // namespace

void become_trainer(const std::vector<std::string>& words) {
  const std::string path = trainer();
  std::vector<char*> arguments = {const_cast<char*>(path.c_str())};
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  execv(path.c_str(), arguments.data());
  throw Error(Errc::io, path + ": cannot be started: " + std::strerror(errno));
}

}  // namespace pith

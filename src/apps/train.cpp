// pith train: hands over to pith-train, the trainer, which is a program of its own because it needs
// libtorch and nothing else does.
#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <unistd.h>
#include <vector>

#include "apps/command.h"
#include "base/error.h"
#include "base/programs.h"

namespace pith {
namespace {

std::string trainer() {
  const std::string path = program_beside("pith-train");
  if (path.empty())
    throw Error(Errc::unsupported,
                "the trainer is not here: install libtorch-dev and libsentencepiece-dev, build "
                "Pith again with -DPITH_TRAIN=ON, and it lies beside this program");
  return path;
}

int run_train(const std::vector<std::string>& words) {
  const std::string path = trainer();
  std::vector<char*> arguments = {const_cast<char*>(path.c_str())};
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  execv(path.c_str(), arguments.data());
  throw Error(Errc::io, path + ": cannot be started: " + std::strerror(errno));
}

std::function<int()> setup(Arguments& arguments) {
  const auto words = std::make_shared<std::vector<std::string>>();
  arguments.operands("ARGUMENT", *words, "what pith-train is told; options stand behind --");
  return [words] { return run_train(*words); };
}

}  // namespace

const Command kTrainCommand = {
    "train",
    "train a small model of one's own",
    "Runs pith-train, a program of its own: it needs libtorch and sentencepiece, and nothing else "
    "does. Debian: apt install libtorch-dev libsentencepiece-dev libopenblas0-pthread. Elsewhere "
    "any libtorch will do, that of an installed PyTorch too, if CMAKE_PREFIX_PATH leads to it. "
    "Then build with -DPITH_TRAIN=ON.\n\n"
    "docs/training.md describes configurations, tasks and what a run leaves behind. "
    "'pith-train --help' lists its commands.",
    "$ pith train pretrain pith-ref.json\n"
    "$ pith train -- pretrain pith-ref.json --folder run --threads 2\n"
    "$ pith train -- export run/checkpoint.gguf model.gguf --type q8_0",
    setup,
};

}  // namespace pith

// pith train: hands over to pith-train.
#include <memory>
#include <string>
#include <vector>

#include "apps/command.h"
#include "apps/trainer.h"

namespace pith {
namespace {

std::function<int()> setup(Arguments& arguments) {
  const auto words = std::make_shared<std::vector<std::string>>();
  arguments.operands("ARGUMENT", *words, "what pith-train is told; options stand behind --");
  return [words]() -> int { become_trainer(*words); };
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

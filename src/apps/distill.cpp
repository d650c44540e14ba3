// pith distill: hands over to pith-train distill.
#include <memory>
#include <string>
#include <vector>

#include "apps/command.h"
#include "apps/trainer.h"

namespace pith {
namespace {

struct Words {
  std::string config, folder;
  int threads = 2, steps = 0;
};

std::function<int()> setup(Arguments& arguments) {
  const auto words = std::make_shared<Words>();
  arguments.operand("CONFIG", words->config, "what to distill, as docs/training.md describes it")
      .required();
  arguments
      .option("--folder", words->folder, "FOLDER",
              "where the run lies; CONFIG's name without its ending, if not given")
      .completes(Complete::folder);
  arguments.option("--threads", words->threads, "N", "threads of the CPU").at_least(1);
  arguments.option("--steps", words->steps, "N", "stop after so many; 0: at the end").at_least(0);
  return [words]() -> int {
    std::vector<std::string> all = {"distill",   words->config,
                                    "--threads", std::to_string(words->threads),
                                    "--steps",   std::to_string(words->steps)};
    if (!words->folder.empty()) all.insert(all.end(), {"--folder", words->folder});
    become_trainer(all);
  };
}

}  // namespace

const Command kDistillCommand = {
    "distill",
    "train what kvdistill needs for a model",
    "Trains a scorer of tokens and an adapter for a model of the llama architecture (KV-Distill, "
    "arXiv:2503.10337): with them a few rows of the cache stand for a whole text, whatever is "
    "asked about it later. The model stays as it is. A run that was stopped goes on where it "
    "was.\n\n"
    "Runs pith-train, a program of its own: it needs libtorch and sentencepiece, and nothing else "
    "does. Debian: apt install libtorch-dev libsentencepiece-dev libopenblas0-pthread. Elsewhere "
    "any libtorch will do, that of an installed PyTorch too, if CMAKE_PREFIX_PATH leads to it. "
    "Then build with -DPITH_TRAIN=ON.",
    "$ pith distill pith-ref-distill.json --threads 4\n"
    "$ pith run -m model.gguf --opening report.txt --prompts questions.txt \\\n"
    "    --kv kvdistill:adapter=run/name.adapter.gguf,budget=0.1",
    setup,
};

}  // namespace pith

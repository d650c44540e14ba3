// pith calibrate basis: find the directions that each head's keys and values are stored in.
#include <cstdio>
#include <filesystem>
#include <memory>
#include <numeric>

#include "apps/calibrate_text.h"
#include "apps/command.h"
#include "apps/json_writer.h"
#include "apps/progress_bar.h"
#include "apps/table.h"
#include "apps/units.h"
#include "calibrate/basis.h"

namespace pith {
namespace {

struct CalibrateOptions {
  CalibrateArguments common;
  BasisOptions basis;
};

int calibrate_basis(const CalibrateOptions& all) {
  const CalibrateArguments& options = all.common;
  const std::unique_ptr<Engine> engine = open_to_calibrate(options);
  const auto prompts = read_prompts(*engine, options);
  const ModelConfig& config = engine->model().config();
  const std::string part = progress_file(options, "basis");
  BasisFinding found;
  {
    ProgressBar bar;
    found = find_basis(*engine, prompts, all.basis, part, bar);
  }
  std::vector<CalibrationTensor> tensors =
      basis_tensors(found.bases, found.ranks, found.unturned_ranks);
  tensors.push_back({"basis.agreement", {1}, {static_cast<float>(found.agreement)}});
  tensors.push_back(
      {"basis.unturned_agreement", {1}, {static_cast<float>(found.unturned_agreement)}});
  add_calibration(options.out, config.digest,
                  {.kind = "basis",
                   .made_by = "pith calibrate basis",
                   .text_digest = text_digest(prompts),
                   .seed = 0},
                  tensors);
  std::error_code none;
  std::filesystem::remove(part, none);
  Table table({{"layer", "layer"},
               {"head", "head"},
               {"keys", "keys"},
               {"values", "values"},
               {"unturned keys", "unturned_keys"},
               {"values beside them", "values_beside_them"}});
  const size_t sides = found.ranks.size() / 2;
  const auto heads = static_cast<size_t>(config.shape.heads);
  for (size_t i = 0; i < sides; ++i)
    table.add({std::to_string(i / heads), std::to_string(i % heads), std::to_string(found.ranks[i]),
               std::to_string(found.ranks[sides + i]), std::to_string(found.unturned_ranks[i]),
               std::to_string(found.unturned_ranks[sides + i])});
  table.print(stdout, options.format);
  const auto share = [&](const std::vector<int>& ranks) {
    const auto kept = std::accumulate(ranks.begin(), ranks.end(), int64_t{0});
    return fixed_text(static_cast<double>(kept) / static_cast<double>(found.bases.coordinates()),
                      3);
  };
  if (options.format == "md")
    std::printf(
        "\n%s of the coordinates, %s of the full cache's tokens\n"
        "with keys as they were before their rotation: %s and %s\n",
        share(found.ranks).c_str(), fixed_text(found.agreement, 4).c_str(),
        share(found.unturned_ranks).c_str(), fixed_text(found.unturned_agreement, 4).c_str());
  return 0;
}

std::function<int()> setup(Arguments& arguments) {
  const auto options = std::make_shared<CalibrateOptions>();
  declare_calibrate(arguments, options->common);
  arguments
      .option("--target", options->basis.target, "S",
              "share of tokens whose most likely successor stays the full cache's")
      .between(0, 1);
  arguments.option("--step", options->basis.step, "N", "ranks are multiples of it").at_least(1);
  arguments
      .option("--judged", options->basis.judged, "N",
              "tokens of each prompt, at most half of it, that ranks are judged by")
      .at_least(1);
  arguments.format(options->common.format);
  return [options] { return calibrate_basis(*options); };
}

}  // namespace

const Command kCalibrateBasisCommand = {
    "calibrate basis",
    "find the directions that keys and values are stored in",
    "Reads prompts from a text, finds the directions in which each head's keys meet its queries "
    "and in which its values reach the stream, and then the fewest of them that keep the most "
    "likely successor of the target's share of tokens, by bisection: it generates the ends of the "
    "prompts again with fewer and fewer directions, taken away where they matter least. `zack` "
    "stores keys and values that way. The same is done for keys as they were before rotary "
    "positions turned them, for `palu` and `eigen`. What it has so far is kept in OUT.basis.part, "
    "so a run that is stopped goes on where it was; the search for ranks begins anew.",
    "$ pith calibrate basis -m model.gguf -f book.txt model.cal.gguf\n"
    "$ pith run -m model.gguf -f report.txt --kv zack:calibration=model.cal.gguf",
    setup,
};

}  // namespace pith

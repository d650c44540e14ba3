// pith calibrate entropy: measure how many directions queries spread over.
#include <cstdio>
#include <filesystem>
#include <memory>

#include "apps/calibrate_text.h"
#include "apps/command.h"
#include "apps/json_writer.h"
#include "apps/progress_bar.h"
#include "apps/table.h"
#include "apps/units.h"
#include "calibrate/entropy.h"

namespace pith {
namespace {

struct CalibrateOptions {
  CalibrateArguments common;
  EntropyOptions entropy;
};

Table::Cell share_cell(float share) {
  return {fixed_text(share, 4), JsonWriter(0).value(share).text()};
}

int calibrate_entropy(const CalibrateOptions& all) {
  const CalibrateArguments& options = all.common;
  const std::unique_ptr<Engine> engine = open_to_calibrate(options);
  const auto prompts = read_prompts(*engine, options);
  const ModelConfig& config = engine->model().config();
  const std::string part = progress_file(options, "entropy");
  EntropyFinding finding;
  {
    ProgressBar bar;
    finding = find_entropy(*engine, prompts, all.entropy, part, bar);
  }
  add_calibration(options.out, config.digest,
                  {.kind = "entropy",
                   .made_by = "pith calibrate entropy",
                   .text_digest = text_digest(prompts),
                   .seed = 0},
                  entropy_tensors(finding, config.shape));
  std::error_code none;
  std::filesystem::remove(part, none);
  Table table({{"layer", "layer"}, {"entropy", "entropy"}, {"rank", "rank"}, {"stage", "stage"}});
  for (size_t l = 0; l < finding.layers.size(); ++l)
    table.add({std::to_string(l), share_cell(finding.layers[l]), share_cell(finding.rank[l]),
               std::to_string(finding.stage[l])});
  table.print(stdout, options.format);
  return 0;
}

std::function<int()> setup(Arguments& arguments) {
  const auto options = std::make_shared<CalibrateOptions>();
  declare_calibrate(arguments, options->common);
  arguments
      .option("--keep", options->entropy.keep, "K",
              "largest eigenvalues that count; 0: up to each spectrum's elbow")
      .at_least(0);
  arguments
      .option("--fall", options->entropy.fall, "R",
              "how far the effective rank falls where a stage begins")
      .at_least(0);
  arguments.option("--groups", options->entropy.groups, "N", "groups of heads").at_least(1);
  arguments.format(options->common.format);
  return [options] { return calibrate_entropy(*options); };
}

}  // namespace

const Command kCalibrateEntropyCommand = {
    "calibrate entropy",
    "measure how many directions queries spread over",
    "Reads prompts from a text and computes the truncated matrix entropy of every head's queries, "
    "the stages that layers fall into where their effective rank falls, and groups of heads by "
    "vote, for uncomp. What it has so far is kept in OUT.entropy.part, so a run that is stopped "
    "goes on where it was.",
    "$ pith calibrate entropy -m model.gguf -f book.txt model.cal.gguf",
    setup,
};

}  // namespace pith

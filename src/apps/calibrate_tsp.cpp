// pith calibrate tsp: the layer at which FastKV selects tokens.
#include <cstdio>
#include <memory>

#include "apps/calibrate_text.h"
#include "apps/command.h"
#include "apps/json_writer.h"
#include "apps/progress_bar.h"
#include "apps/table.h"
#include "apps/units.h"
#include "base/error.h"
#include "calibrate/tsp.h"

namespace pith {
namespace {

struct CalibrateOptions {
  CalibrateArguments common;
  TspOptions tsp;
};

int calibrate_tsp(const CalibrateOptions& all) {
  const CalibrateArguments& options = all.common;
  if (all.tsp.width % 2 == 0)
    throw Error(Errc::bad_option,
                "--width needs an odd number, a row and as many on either side, "
                "not '" +
                    std::to_string(all.tsp.width) + "'");
  const std::unique_ptr<Engine> engine = open_to_calibrate(options);
  const auto prompts = read_prompts(*engine, options);
  const int length = static_cast<int>(prompts[0].size());
  TspFinding finding;
  {
    ProgressBar bar;
    finding = find_tsp_layer(*engine, prompts, all.tsp, bar);
  }
  save_tsp_layer(options.out, engine->model().config().digest, finding, text_digest(prompts));
  if (options.format == "json") {
    JsonWriter json;
    json.object().key("file").value(options.out).key("layer").value(finding.layer);
    json.key("prompts").value(finding.prompts).key("tokens").value(length);
    json.key("overlap").array();
    for (const double share : finding.overlap) json.value(share);
    std::fputs(json.end().end().text().c_str(), stdout);
    return 0;
  }
  Table table(
      {{"layer", "layer"}, {"overlap", "overlap with later layers"}, {"chosen", "", false}});
  for (size_t layer = 0; layer < finding.overlap.size(); ++layer)
    table.add({std::to_string(layer),
               {fixed_text(finding.overlap[layer], 4),
                JsonWriter(0).value(finding.overlap[layer]).text()},
               static_cast<int>(layer) == finding.layer ? std::string("chosen") : std::string()});
  table.print(stdout, options.format);
  return 0;
}

std::function<int()> setup(Arguments& arguments) {
  const auto options = std::make_shared<CalibrateOptions>();
  declare_calibrate(arguments, options->common);
  arguments.option("--rate", options->tsp.rate, "R", "share of the tokens that would travel on")
      .between(0.001, 1);
  arguments.option("--window", options->tsp.window, "N", "last queries of a prompt that vote")
      .at_least(1);
  arguments.option("--width", options->tsp.width, "N", "neighbours that share a vote; odd")
      .at_least(1);
  arguments.format(options->common.format);
  return [options] { return calibrate_tsp(*options); };
}

}  // namespace

const Command kCalibrateTspCommand = {
    "calibrate tsp",
    "find the layer at which fastkv selects tokens",
    "Reads prompts from a text with the full cache and compares which tokens each layer would "
    "select with what the later layers select. The first layer that most of the later ones agree "
    "with is chosen and written to a file that belongs to this model.",
    "$ pith calibrate tsp -m model.gguf -f book.txt tsp.gguf\n"
    "$ pith run -m model.gguf -f report.txt \\\n"
    "    --kv fastkv:tsp_layer=auto,calibration=tsp.gguf,budget=0.1",
    setup,
};

}  // namespace pith

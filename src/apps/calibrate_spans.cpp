// pith calibrate spans: find how far each head needs to look.
#include <cstdio>
#include <filesystem>
#include <memory>

#include "apps/calibrate_text.h"
#include "apps/command.h"
#include "apps/json_writer.h"
#include "apps/progress_bar.h"
#include "apps/table.h"
#include "apps/units.h"
#include "calibrate/spans.h"

namespace pith {
namespace {

struct CalibrateOptions {
  CalibrateArguments common;
  int chunk = 2000, sink = 4;
};

Table::Cell share_cell(float share) {
  return {fixed_text(share, 4), JsonWriter(0).value(share).text()};
}

int calibrate_spans(const CalibrateOptions& all) {
  const CalibrateArguments& options = all.common;
  const std::unique_ptr<Engine> engine = open_to_calibrate(options);
  const auto prompts = read_prompts(*engine, options);
  const ModelConfig& config = engine->model().config();
  const std::string part = progress_file(options, "spans");
  std::vector<float> scores;
  {
    ProgressBar bar;
    scores = find_spans(*engine, prompts, all.chunk, all.sink, part, bar);
  }
  add_calibration(options.out, config.digest,
                  {.kind = "spans",
                   .made_by = "pith calibrate spans",
                   .text_digest = text_digest(prompts),
                   .seed = 0},
                  span_tensors(scores, config.shape));
  std::error_code none;
  std::filesystem::remove(part, none);
  Table table({{"layer", "layer"}, {"head", "head"}, {"score", "score"}});
  for (size_t i = 0; i < scores.size(); ++i)
    table.add({std::to_string(i / static_cast<size_t>(config.shape.heads)),
               std::to_string(i % static_cast<size_t>(config.shape.heads)), share_cell(scores[i])});
  table.print(stdout, options.format);
  return 0;
}

std::function<int()> setup(Arguments& arguments) {
  const auto options = std::make_shared<CalibrateOptions>();
  declare_calibrate(arguments, options->common);
  arguments.option("--chunk", options->chunk, "N", "tokens that are repeated at a time")
      .at_least(16);
  arguments.option("--sink", options->sink, "N", "first tokens that do not count").at_least(0);
  arguments.format(options->common.format);
  return [options] { return calibrate_spans(*options); };
}

}  // namespace

const Command kCalibrateSpansCommand = {
    "calibrate spans",
    "find how far each head needs to look",
    "Runs kvzip over prompts of a text and writes down the largest score that any row of a head "
    "gets: what `spans` tells heads apart by. What it has so far is kept in OUT.spans.part, so a "
    "run that is stopped goes on where it was.",
    "$ pith calibrate spans -m model.gguf -f book.txt model.cal.gguf\n"
    "$ pith run -m model.gguf -f report.txt --kv spans:calibration=model.cal.gguf",
    setup,
};

}  // namespace pith

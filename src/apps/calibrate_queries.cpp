// pith calibrate queries: find where the queries of each head point.
#include <cstdio>
#include <filesystem>
#include <memory>

#include "apps/calibrate_text.h"
#include "apps/command.h"
#include "apps/json_writer.h"
#include "apps/progress_bar.h"
#include "apps/table.h"
#include "apps/units.h"
#include "calibrate/queries.h"

namespace pith {
namespace {

struct CalibrateOptions {
  CalibrateArguments common;
};

Table::Cell share_cell(float share) {
  return {fixed_text(share, 4), JsonWriter(0).value(share).text()};
}

int calibrate_queries(const CalibrateOptions& all) {
  const CalibrateArguments& options = all.common;
  const std::unique_ptr<Engine> engine = open_to_calibrate(options);
  const auto prompts = read_prompts(*engine, options);
  const ModelConfig& config = engine->model().config();
  const std::string part = progress_file(options, "queries");
  QueryFinding finding;
  {
    ProgressBar bar;
    finding = find_queries(*engine, prompts, part, bar);
  }
  add_calibration(options.out, config.digest,
                  {.kind = "queries",
                   .made_by = "pith calibrate queries",
                   .text_digest = text_digest(prompts),
                   .seed = 0},
                  query_tensors(finding, config.shape));
  std::error_code none;
  std::filesystem::remove(part, none);
  Table table({{"layer", "layer"}, {"head", "head"}, {"share", "share of the main direction"}});
  for (size_t i = 0; i < finding.share.size(); ++i)
    table.add({std::to_string(i / static_cast<size_t>(config.shape.heads)),
               std::to_string(i % static_cast<size_t>(config.shape.heads)),
               share_cell(finding.share[i])});
  table.print(stdout, options.format);
  return 0;
}

std::function<int()> setup(Arguments& arguments) {
  const auto options = std::make_shared<CalibrateOptions>();
  declare_calibrate(arguments, options->common);
  arguments.format(options->common.format);
  return [options] { return calibrate_queries(*options); };
}

}  // namespace

const Command kCalibrateQueriesCommand = {
    "calibrate queries",
    "find where the queries of each head point",
    "Reads prompts from a text and finds the main direction of every head's queries, after "
    "rotation, which qfilter scores keys by. What it has so far is kept in OUT.queries.part, so a "
    "run that is stopped goes on where it was.",
    "$ pith calibrate queries -m model.gguf -f book.txt model.cal.gguf\n"
    "$ pith run -m model.gguf -f report.txt --kv qfilter:calibration=model.cal.gguf,budget=0.2",
    setup,
};

}  // namespace pith

// pith calibrate heads: find the heads that retrieve.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>

#include "apps/calibrate_text.h"
#include "apps/command.h"
#include "apps/json_writer.h"
#include "apps/progress_bar.h"
#include "apps/table.h"
#include "apps/units.h"
#include "calibrate/heads.h"

namespace pith {
namespace {

struct CalibrateOptions {
  CalibrateArguments common;
  HeadOptions heads;
};

Table::Cell share_cell(float share) {
  return {fixed_text(share, 4), JsonWriter(0).value(share).text()};
}

int calibrate_heads(const CalibrateOptions& all) {
  const CalibrateArguments& options = all.common;
  const std::unique_ptr<Engine> engine = open_to_calibrate(options);
  std::vector<int32_t> haystack;
  if (options.text.given_prompt || !options.text.file.empty())
    haystack = engine->tokenizer().encode(read_text(options.text, "text"), false);
  HeadOptions heads = all.heads;
  heads.tokens = options.tokens;
  heads.needles = options.prompts;
  const ModelConfig& config = engine->model().config();
  const std::string part = progress_file(options, "heads");
  HeadFinding finding;
  {
    ProgressBar bar;
    finding = find_heads(*engine, haystack, heads, part, bar);
  }
  add_calibration(
      options.out, config.digest,
      {.kind = "heads",
       .made_by = "pith calibrate heads",
       .text_digest = haystack.empty() ? "" : text_digest(std::as_bytes(std::span(haystack))),
       .seed = heads.seed},
      head_tensors(finding, config.shape));
  std::error_code none;
  std::filesystem::remove(part, none);
  Table table({{"layer", "layer"},
               {"head", "query head"},
               {"echo", "echo"},
               {"induction", "induction"},
               {"retrieval", "retrieval"},
               {"copy", "copy"},
               {"retrieves", "", false}});
  const KvShape& s = config.shape;
  for (int l = 0; l < s.layers; ++l)
    for (int h = 0; h < s.query_heads; ++h) {
      const auto at = static_cast<size_t>(l * s.query_heads + h);
      const bool found = std::ranges::find(finding.retrieving, std::pair(l, h / s.group())) !=
                         finding.retrieving.end();
      table.add({std::to_string(l), std::to_string(h), share_cell(finding.echo[at]),
                 share_cell(finding.induction[at]), share_cell(finding.retrieval[at]),
                 share_cell(finding.copy[at]), std::string(found ? "retrieves" : "")});
    }
  table.print(stdout, options.format);
  return 0;
}

std::function<int()> setup(Arguments& arguments) {
  const auto options = std::make_shared<CalibrateOptions>();
  options->common.prompts = options->heads.needles;
  declare_calibrate(arguments, options->common);
  arguments
      .option("--repeat", options->heads.repeated, "N",
              "random tokens of the sequence that repeats")
      .at_least(2);
  arguments.option("--value", options->heads.value, "N", "tokens of a needle").between(1, 64);
  arguments
      .option("--least", options->heads.least, "S",
              "induction or copy score from which a head counts as retrieving")
      .between(0, 1);
  arguments.option("-s,--seed", options->heads.seed, "N", "of random tokens and depths");
  arguments.format(options->common.format);
  return [options] { return calibrate_heads(*options); };
}

}  // namespace

const Command kCalibrateHeadsCommand = {
    "calibrate heads",
    "find the heads that retrieve",
    "Feeds random tokens that come four times, and prompts with needles, and measures how much "
    "each head attends to earlier occurrences of a token (echo), to what followed them "
    "(induction) and to a needle while it is copied (retrieval, copy). Needles are hidden in the "
    "text, if there is one, else in random tokens; no prompt's attention is ever held whole. What "
    "it has so far is kept in OUT.heads.part, so a run that is stopped goes on where it was.",
    "$ pith calibrate heads -m model.gguf -f book.txt model.cal.gguf\n"
    "$ pith inspect model.cal.gguf",
    setup,
};

}  // namespace pith

// pith calibrate tsp: the layer at which FastKV selects tokens.
#include <algorithm>
#include <cstdio>
#include <memory>

#include "apps/command.h"
#include "apps/engine_arguments.h"
#include "apps/json_writer.h"
#include "apps/progress_bar.h"
#include "apps/resources.h"
#include "apps/table.h"
#include "apps/text_input.h"
#include "apps/units.h"
#include "base/error.h"
#include "base/output_file.h"
#include "calibrate/tsp.h"

namespace pith {
namespace {

struct CalibrateOptions {
  EngineArguments engine;
  TextArguments text;
  TspOptions tsp;
  std::string out, format = "md";
  int tokens = 2048, prompts = 4;
};

// Pieces of the text from its whole length, so that a long text is not judged by its beginning.
std::vector<std::vector<int32_t>> cut_prompts(const Tokenizer& tokenizer, const std::string& text,
                                              int tokens, int prompts) {
  const std::vector<int32_t> all = tokenizer.encode(text, false);
  const bool begins = tokenizer.adds_begin() && tokenizer.begin_token() >= 0;
  const size_t length = std::min(static_cast<size_t>(tokens) - (begins ? 1 : 0), all.size());
  const size_t whole = length == 0 ? 0 : all.size() / length;
  const size_t count = std::min<size_t>(static_cast<size_t>(prompts), whole);
  std::vector<std::vector<int32_t>> out;
  for (size_t i = 0; i < count; ++i) {
    const size_t first = count == 1 ? 0 : (all.size() - length) * i / (count - 1);
    std::vector<int32_t>& prompt = out.emplace_back();
    if (begins) prompt.push_back(tokenizer.begin_token());
    const auto start = all.begin() + static_cast<std::ptrdiff_t>(first);
    prompt.insert(prompt.end(), start, start + static_cast<std::ptrdiff_t>(length));
  }
  return out;
}

int calibrate_tsp(const CalibrateOptions& options) {
  if (options.tsp.width % 2 == 0)
    throw Error(Errc::bad_option,
                "--width needs an odd number, a row and as many on either side, "
                "not '" +
                    std::to_string(options.tsp.width) + "'");
  refuse_same_file(options.engine.model, options.out);
  OutputFile::check(options.out);
  const std::string text = read_text(options.text, "text");
  const std::unique_ptr<Engine> engine = open_engine(options.engine);
  const int length = std::min(options.tokens, context_limit(*engine, options.engine));
  const auto prompts = cut_prompts(engine->tokenizer(), text, length, options.prompts);
  if (prompts.empty()) throw Error(Errc::bad_request, "the text has no tokens");
  TspFinding finding;
  {
    ProgressBar bar;
    finding = find_tsp_layer(*engine, prompts, options.tsp, bar);
  }
  save_tsp_layer(options.out, engine->model().config().digest, finding);
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
  declare_engine(arguments, options->engine);
  declare_text(arguments, options->text, "text");
  arguments.operand("OUT", options->out, "the calibration file to write, a GGUF file")
      .required()
      .completes(Complete::file);
  arguments.option("--tokens", options->tokens, "N", "length of a prompt").at_least(2);
  arguments.option("--prompts", options->prompts, "N", "prompts to cut from the text").at_least(1);
  arguments.option("--rate", options->tsp.rate, "R", "share of the tokens that would travel on")
      .between(0.001, 1);
  arguments.option("--window", options->tsp.window, "N", "last queries of a prompt that vote")
      .between(1, 65536);
  arguments.option("--width", options->tsp.width, "N", "neighbours that share a vote; odd")
      .between(1, 4095);
  arguments.format(options->format);
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

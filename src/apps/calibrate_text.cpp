#include "apps/calibrate_text.h"

#include <algorithm>

#include "apps/resources.h"
#include "base/error.h"
#include "base/output_file.h"

namespace pith {

void declare_calibrate(Arguments& arguments, CalibrateArguments& options) {
  declare_engine(arguments, options.engine);
  declare_text(arguments, options.text, "text");
  arguments
      .operand("OUT", options.out,
               "the calibration file, a GGUF file; what other calibrations wrote there stays")
      .required()
      .completes(Complete::file);
  arguments.option("--tokens", options.tokens, "N", "length of a prompt").at_least(2);
  arguments.option("--prompts", options.prompts, "N", "prompts to cut from the text").at_least(1);
}

std::unique_ptr<Engine> open_to_calibrate(const CalibrateArguments& options) {
  refuse_same_file(options.engine.model, options.out);
  OutputFile::check(options.out);
  return open_engine(options.engine);
}

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
  if (out.empty()) throw Error(Errc::bad_request, "the text has no tokens");
  return out;
}

std::vector<std::vector<int32_t>> read_prompts(const Engine& engine,
                                               const CalibrateArguments& options) {
  const std::string text = read_text(options.text, "text");
  const int length = std::min(options.tokens, context_limit(engine, options.engine));
  return cut_prompts(engine.tokenizer(), text, length, options.prompts);
}

std::string progress_file(const CalibrateArguments& options, std::string_view kind) {
  return options.out + "." + std::string(kind) + ".part";
}

}  // namespace pith

// What the commands that calibrate share: prompts cut from a text, and the file that results join.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "apps/engine_arguments.h"
#include "apps/text_input.h"
#include "calibrate/calibration_file.h"

namespace pith {

struct CalibrateArguments {
  EngineArguments engine;
  TextArguments text;
  std::string out, format = "md";
  int tokens = 2048, prompts = 4;
};
// The engine's arguments, the text, OUT, --tokens and --prompts.
void declare_calibrate(Arguments& arguments, CalibrateArguments& options);

// The model, once the result's name is known to be one that can be written.
std::unique_ptr<Engine> open_to_calibrate(const CalibrateArguments& options);

// Pieces of the text from its whole length, so that a long text is not judged by its beginning.
// Throws bad_request if the text has no tokens.
std::vector<std::vector<int32_t>> cut_prompts(const Tokenizer& tokenizer, const std::string& text,
                                              int tokens, int prompts);
// The same of the text that the arguments name.
std::vector<std::vector<int32_t>> read_prompts(const Engine& engine,
                                               const CalibrateArguments& options);

// Where a run keeps what it has so far, beside its result: "OUT.heads.part".
std::string progress_file(const CalibrateArguments& options, std::string_view kind);

}  // namespace pith

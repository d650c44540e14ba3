// pith convert: other people's model files to GGUF.
#include "convert/convert.h"

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>

#include "apps/command.h"
#include "apps/progress_bar.h"
#include "apps/resources.h"
#include "apps/units.h"
#include "base/error.h"

namespace pith {
namespace {

namespace fs = std::filesystem;

struct ConvertOptions {
  std::string in, out, type = "f16", tokenizer;
};

// A checkpoint of llama2.c does not carry its vocabulary; it usually lies beside it.
std::string tokenizer_of(const ConvertOptions& options) {
  if (!options.tokenizer.empty()) return options.tokenizer;
  const fs::path beside = fs::path(options.in).parent_path() / "tokenizer.bin";
  std::error_code ignored;
  if (fs::exists(beside, ignored)) return beside.string();
  throw Error(Errc::bad_option, options.in +
                                    ": a llama2.c checkpoint carries no vocabulary and there is "
                                    "no tokenizer.bin beside it; give --tokenizer FILE");
}

void refuse_gguf(const std::string& path) {
  char magic[4] = {};
  std::ifstream(path, std::ios::binary).read(magic, sizeof magic);
  if (std::string_view(magic, sizeof magic) == "GGUF")
    throw Error(Errc::bad_option,
                path + ": a GGUF file already; 'pith quantize' writes it in another format");
}

int run_convert(const ConvertOptions& options) {
  DType dtype = DType::f16;
  PITH_CHECK(parse_dtype(options.type, dtype), "a type that is offered is known");
  refuse_same_file(options.in, options.out);
  std::error_code error;
  const fs::file_status status = fs::status(options.in, error);
  if (!fs::exists(status)) throw Error(Errc::io, options.in + ": cannot open: " + error.message());
  {
    ProgressBar bar;
    if (fs::is_directory(status)) {
      if (!options.tokenizer.empty())
        throw Error(Errc::bad_option,
                    "--tokenizer is for llama2.c checkpoints; a folder brings its own");
      convert_hugging_face(options.in, options.out, dtype, bar);
    } else {
      refuse_gguf(options.in);
      convert_llama2c(options.in, tokenizer_of(options), options.out, dtype, bar);
    }
  }
  std::printf("%s: %s\n", options.out.c_str(),
              bytes_text(fs::file_size(options.out, error)).c_str());
  return 0;
}

std::function<int()> setup(Arguments& arguments) {
  const auto options = std::make_shared<ConvertOptions>();
  arguments.operand("IN", options->in, "a Hugging Face folder, or a .bin checkpoint of llama2.c")
      .required()
      .completes(Complete::file);
  arguments.operand("OUT", options->out, "the GGUF file to write")
      .required()
      .completes(Complete::file);
  arguments.choice("--type", options->type, "f32|f16|bf16", "format of matrices; vectors stay F32");
  arguments
      .option("--tokenizer", options->tokenizer, "FILE",
              "vocabulary of a llama2.c checkpoint; otherwise tokenizer.bin beside it")
      .completes(Complete::file);
  return [options] { return run_convert(*options); };
}

}  // namespace

const Command kConvertCommand = {
    "convert",
    "make a GGUF file of a Hugging Face folder or a llama2.c checkpoint",
    "A folder needs config.json, *.safetensors (sharded or not) and tokenizer.json or "
    "tokenizer.model. Other formats than f32, f16 and bf16 are 'pith quantize's business. The file "
    "appears under its name when it is complete.",
    "$ pith convert ./SmolLM-135M smollm-135m.gguf\n"
    "$ pith convert stories15M.bin stories15m.gguf --tokenizer tokenizer.bin --type f32",
    setup,
};

}  // namespace pith

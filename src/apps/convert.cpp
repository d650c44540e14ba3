// pith convert: other people's model files to GGUF, and GGUF files to folded ones.
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
#include "base/output_file.h"
#include "model/model.h"
#include "policy/low_rank.h"

namespace pith {
namespace {

namespace fs = std::filesystem;

struct ConvertOptions {
  std::string in, out, type = "f16", tokenizer, fold;
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

// Where the calibration of a folded model goes: beside it.
std::string folded_calibration(const std::string& out) {
  return fs::path(out).replace_extension("cal.gguf").string();
}

// Channels of values, and of keys that nothing turns, become the calibrated directions; the file
// beside the model says so to `zack`, which then cuts rows short and maps nothing. Keys that rotary
// positions turn are turned within the pairs of channels that these turn together, which commutes.
void run_fold(const ConvertOptions& options, DType dtype) {
  const std::string beside = folded_calibration(options.out);
  refuse_same_file(options.fold, beside);
  refuse_same_file(options.fold, options.out);
  OutputFile::check(beside);
  const std::shared_ptr<const Model> model = Model::load(options.in);
  const ModelConfig& config = model->config();
  const KvShape& shape = config.shape;
  if (config.clamp_qkv > 0)
    throw Error(Errc::unsupported,
                options.in +
                    ": the model clamps keys and values, which does not survive folding; "
                    "use zack without it");
  const auto file = Calibration::load(options.fold, config.digest);
  HeadBases bases = read_bases(*file, shape);
  const std::vector<int> ranks = read_ranks(*file, shape),
                         unturned = bases.unturned.empty() ? std::vector<int>()
                                                           : read_unturned_ranks(*file, shape);
  bool plain_keys = true, normed = false;
  for (size_t l = 0; l < config.shape.ropes.size(); ++l) {
    plain_keys &= config.shape.ropes[l].inv_freq.empty();
    normed |= !model->weights().layers[l].k_norm.empty();
  }
  plain_keys &= !normed;
  const bool turned = !plain_keys && !normed && !bases.turns.empty();
  const auto middle =
      bases.directions.begin() + static_cast<std::ptrdiff_t>(bases.directions.size() / 2);
  FoldMaps maps{shape.layers,
                shape.query_heads,
                shape.heads,
                shape.dim,
                {middle, bases.directions.end()},
                {}};
  if (plain_keys) maps.k.assign(bases.directions.begin(), middle);
  if (turned) maps.k = pair_directions(bases);
  {
    ProgressBar bar;
    fold(options.in, options.out, maps, dtype, bar);
  }
  bases = as_channels(std::move(bases), plain_keys);
  if (turned) bases = with_turned_pairs(std::move(bases));
  save_calibration(beside, Model::load(options.out)->config().digest, "pith convert --fold",
                   basis_tensors(bases, ranks, unturned));
  std::error_code error;
  std::printf("%s: %s\n", beside.c_str(), bytes_text(fs::file_size(beside, error)).c_str());
}

int run_convert(const ConvertOptions& options) {
  DType dtype = DType::f16;
  PITH_CHECK(parse_dtype(options.type, dtype), "a type that is offered is known");
  refuse_same_file(options.in, options.out);
  std::error_code error;
  const fs::file_status status = fs::status(options.in, error);
  if (!fs::exists(status)) throw Error(Errc::io, options.in + ": cannot open: " + error.message());
  if (!options.fold.empty()) {
    run_fold(options, dtype);
  } else {
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
  arguments
      .option("--fold", options->fold, "FILE",
              "IN is a GGUF file: write it with the directions of this file, which 'pith calibrate "
              "basis' made, as the channels of its values; and OUT's own calibration beside it")
      .completes(Complete::file);
  return [options] { return run_convert(*options); };
}

}  // namespace

const Command kConvertCommand = {
    "convert",
    "make a GGUF file of a Hugging Face folder or a llama2.c checkpoint",
    "A folder needs config.json, *.safetensors (sharded or not) and tokenizer.json or "
    "tokenizer.model. Other formats than f32, f16 and bf16 are 'pith quantize's business. The file "
    "appears under its name when it is complete.\n\n"
    "With --fold, a GGUF file becomes another one that answers the same: its values, and its keys "
    "where the model does not turn them by position, come in the directions that 'pith calibrate "
    "basis' found, so that zack only leaves out the last channels. Keys that rotary positions turn "
    "come turned within each pair of channels that these turn together, so that the first of a "
    "pair matters most (zack:form=pairs). Matrices that change are written "
    "as --type, all others stay as they are. OUT.cal.gguf beside OUT.gguf is its calibration.",
    "$ pith convert ./SmolLM-135M smollm-135m.gguf\n"
    "$ pith convert stories15M.bin stories15m.gguf --tokenizer tokenizer.bin --type f32\n"
    "$ pith convert model.gguf folded.gguf --fold model.cal.gguf\n"
    "$ pith run -m folded.gguf -f report.txt --kv zack:calibration=folded.cal.gguf",
    setup,
};

}  // namespace pith

#include "train/checkpoint.h"

#include <array>
#include <cstring>

#include "base/error.h"
#include "convert/hf_config.h"
#include "convert/model_writer.h"
#include "gguf/gguf.h"
#include "model/config.h"
#include "tensor/codec.h"

namespace pith {
namespace {

constexpr std::string_view kSteps = "train.steps", kTokens = "train.tokens",
                           kSeconds = "train.seconds", kOwn = "train.";
constexpr std::string_view kMoments[] = {"train.moment1", "train.moment2"};

void describe(GgufWriter& out, const ModelFacts& facts) {
  HfConfig config;
  config.arch = "llama";
  config.name = facts.name;
  const NetworkShape& s = facts.shape;
  config.layers = s.layers;
  config.width = s.width;
  config.query_heads = s.query_heads;
  config.heads = s.heads;
  config.dim = s.dim;
  config.ffn_width = s.ffn_width;
  config.vocab = s.vocab;
  config.context = s.context;
  config.norm_eps = s.norm_eps;
  config.rope_base = s.rope_base;
  write_hf_config(out, config);
  if (!facts.description.empty()) out.set_text("general.description", facts.description);
  out.set_text("general.license", "apache-2.0");
  out.set_u64("pith.trained.seed", facts.seed);
  out.set_u64("pith.trained.tokens", static_cast<uint64_t>(facts.tokens));
  write_vocabulary(out, *facts.vocabulary);
}

DType dtype_of(const Parameter& p, DType dtype) {
  return p.vector ? DType::f32 : dtype;
}

void add_tensors(GgufWriter& out, const ParameterLayout& layout, DType dtype) {
  for (const Parameter& p : layout.all()) {
    if (p.vector)
      out.add_tensor(p.name, DType::f32, std::array{p.cols});
    else
      out.add_tensor(p.name, dtype, std::array{p.cols, p.rows});
  }
}

void write_tensors(GgufWriter& out, const ParameterLayout& layout,
                   std::span<const float> parameters, DType dtype) {
  for (const Parameter& p : layout.all()) {
    const DType format = dtype_of(p, dtype);
    std::vector<std::byte> row(row_bytes(format, p.cols));
    for (int64_t r = 0; r < p.rows; ++r) {
      encode_row(format, parameters.data() + p.offset + r * p.cols, p.cols, row.data());
      out.write_part(row);
    }
  }
}

}  // namespace

void write_checkpoint(const std::string& path, const ModelFacts& facts,
                      const Progressed& progress) {
  GgufWriter out(path);
  const ParameterLayout layout(facts.shape);
  describe(out, facts);
  set_file_type(out, DType::f32);
  out.set_u64(kSteps, static_cast<uint64_t>(progress.state.steps));
  out.set_u64(kTokens, static_cast<uint64_t>(progress.tokens));
  out.set_f32(kSeconds, static_cast<float>(progress.seconds));
  add_tensors(out, layout, DType::f32);
  for (const std::string_view name : kMoments)
    out.add_tensor(name, DType::f32, std::array{layout.size()});
  out.begin();
  write_tensors(out, layout, progress.state.parameters, DType::f32);
  out.write_tensor(std::as_bytes(std::span(progress.state.moment1)));
  out.write_tensor(std::as_bytes(std::span(progress.state.moment2)));
  out.finish();
}

Progressed read_checkpoint(const std::string& path, const NetworkShape& shape) {
  const auto file = GgufFile::open(path);
  if (!file->has(kSteps))
    throw Error(Errc::bad_file, path + ": is a model without the state of its training");
  const ParameterLayout layout(shape);
  Progressed progress;
  progress.state.parameters = read_parameters(*file, shape);
  std::vector<float>* moments[] = {&progress.state.moment1, &progress.state.moment2};
  for (size_t i = 0; i < std::size(moments); ++i) {
    const auto values = file->floats(kMoments[i], layout.size());
    moments[i]->assign(values.begin(), values.end());
  }
  progress.state.steps = file->integer(kSteps);
  progress.tokens = file->integer(kTokens);
  progress.seconds = file->number(kSeconds);
  return progress;
}

NetworkShape read_shape(const GgufFile& file) {
  const ParsedConfig parsed = parse_config(file);
  const ModelConfig& c = parsed.config;
  const auto require = [&](bool good, const char* what) {
    if (!good)
      throw Error(Errc::unsupported, file.path() + ": the trainer does not compute " + what);
  };
  require(c.arch == "llama", "other architectures than llama");
  for (int l = 0; l < c.shape.layers; ++l) {
    const auto at = static_cast<size_t>(l);
    require(c.rules[at].window == 0, "sliding windows");
    require(static_cast<int>(c.shape.ropes[at].inv_freq.size()) * 2 == c.shape.dim &&
                c.shape.ropes[at].magnitude == 1 && !file.has_tensor("rope_freqs.weight") &&
                !file.has("llama.rope.scaling.type"),
            "scaled or partial rotation");
  }
  NetworkShape s;
  s.layers = c.shape.layers;
  s.width = c.shape.width;
  s.query_heads = c.shape.query_heads;
  s.heads = c.shape.heads;
  s.dim = c.shape.dim;
  s.ffn_width = c.ffn_width;
  s.vocab = c.vocab;
  s.context = c.max_position;
  s.rope_base = file.number("llama.rope.freq_base", 10000);
  s.norm_eps = c.norm_eps;
  return s;
}

std::vector<float> read_parameters(const GgufFile& file, const NetworkShape& shape) {
  const ParameterLayout layout(shape);
  std::vector<float> out(static_cast<size_t>(layout.size()));
  for (const Parameter& p : layout.all()) {
    // A file that ties them has one matrix for input and output.
    const bool tied = p.name == "output.weight" && !file.has_tensor(p.name);
    const GgufTensor& t = file.tensor(tied ? "token_embd.weight" : p.name);
    if (t.dims[0] != p.cols || t.elements() != p.size())
      throw Error(Errc::bad_file, file.path() + ": tensor '" + p.name +
                                      "' has another shape than the configuration says");
    const size_t bytes = row_bytes(t.dtype, p.cols);
    for (int64_t r = 0; r < p.rows; ++r)
      decode_row(t.dtype, t.data.data() + static_cast<size_t>(r) * bytes, p.cols,
                 out.data() + p.offset + r * p.cols);
  }
  return out;
}

void export_model(const std::string& path, const ModelFacts& facts,
                  std::span<const float> parameters, DType dtype) {
  GgufWriter out(path);
  const ParameterLayout layout(facts.shape);
  describe(out, facts);
  set_file_type(out, dtype);
  add_tensors(out, layout, dtype);
  out.begin();
  write_tensors(out, layout, parameters, dtype);
  out.finish();
}

void export_checkpoint(const std::string& checkpoint, const std::string& path, DType dtype) {
  const auto file = GgufFile::open(checkpoint);
  const NetworkShape shape = read_shape(*file);
  const ParameterLayout layout(shape);
  const std::vector<float> parameters = read_parameters(*file, shape);
  GgufWriter out(path);
  for (const GgufEntry& entry : file->entries())
    if (!entry.key.starts_with(kOwn) && entry.key != "general.file_type" &&
        entry.key != "general.quantization_version")
      out.copy(entry);
  set_file_type(out, dtype);
  add_tensors(out, layout, dtype);
  out.begin();
  write_tensors(out, layout, parameters, dtype);
  out.finish();
}

}  // namespace pith

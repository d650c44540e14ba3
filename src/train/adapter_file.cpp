#include "train/adapter_file.h"

#include <array>

#include "base/error.h"
#include "gguf/gguf.h"
#include "tensor/codec.h"

namespace pith {
namespace {

constexpr std::string_view kType = "general.type", kModel = "pith.adapter.model",
                           kLayer = "kvdistill.layer", kRank = "kvdistill.rank",
                           kAlpha = "kvdistill.alpha", kFold = "kvdistill.fold",
                           kSinks = "kvdistill.sinks", kSteps = "train.steps",
                           kTokens = "train.tokens", kSeconds = "train.seconds";
constexpr std::string_view kCheckpoint = "distillation";

void describe(GgufWriter& out, const AdapterFacts& facts, std::string_view type) {
  out.set_text(kType, type);
  out.set_text("general.name", facts.name);
  out.set_text("pith.adapter.method", "kvdistill");
  out.set_text(kModel, facts.model_digest);
  out.set_text("pith.adapter.made_by", "pith-train distill");
  out.set_u64("pith.trained.seed", facts.seed);
  out.set_u32(kLayer, static_cast<uint32_t>(facts.adapter.layer));
  out.set_u32(kRank, static_cast<uint32_t>(facts.adapter.rank));
  out.set_f32(kAlpha, static_cast<float>(facts.adapter.alpha));
  out.set_u32(kFold, static_cast<uint32_t>(facts.adapter.fold));
  out.set_u32(kSinks, static_cast<uint32_t>(facts.adapter.sinks));
}

}  // namespace

void write_adapter(const std::string& path, const AdapterFacts& facts,
                   std::span<const float> parameters, DType dtype) {
  GgufWriter out(path);
  describe(out, facts, "adapter");
  const AdapterLayout layout(facts.network, facts.adapter);
  const auto format = [&](const Parameter& p) { return p.vector ? DType::f32 : dtype; };
  for (const Parameter& p : layout.all()) {
    if (p.vector)
      out.add_tensor(p.name, DType::f32, std::array{p.cols});
    else
      out.add_tensor(p.name, dtype, std::array{p.cols, p.rows});
  }
  out.begin();
  std::vector<float> row;
  for (const Parameter& p : layout.all()) {
    const float scale =
        p.name.ends_with("lora_b") ? static_cast<float>(facts.adapter.scale()) : 1.0f;
    std::vector<std::byte> bytes(row_bytes(format(p), p.cols));
    for (int64_t r = 0; r < p.rows; ++r) {
      const float* const from = parameters.data() + p.offset + r * p.cols;
      row.assign(from, from + p.cols);
      for (float& x : row) x *= scale;
      encode_row(format(p), row.data(), p.cols, bytes.data());
      out.write_part(bytes);
    }
  }
  out.finish();
}

std::vector<float> read_adapter(const std::string& path, const AdapterFacts& facts) {
  const auto file = GgufFile::open(path);
  if (file->integer(kLayer) != facts.adapter.layer)
    throw Error(Errc::bad_file, path + ": its scorer reads another 'layer' than the configuration");
  const AdapterLayout layout(facts.network, facts.adapter);
  std::vector<float> out(static_cast<size_t>(layout.size()));
  for (const Parameter& p : layout.all()) {
    const GgufTensor& t = file->tensor(p.name);
    if (t.dims[0] != p.cols || t.elements() != p.size())
      throw Error(Errc::bad_file,
                  path + ": tensor '" + p.name + "' has another shape than the configuration says");
    const float scale =
        p.name.ends_with("lora_b") ? static_cast<float>(facts.adapter.scale()) : 1.0f;
    const size_t bytes = row_bytes(t.dtype, p.cols);
    for (int64_t r = 0; r < p.rows; ++r) {
      float* const row = out.data() + p.offset + r * p.cols;
      decode_row(t.dtype, t.data.data() + static_cast<size_t>(r) * bytes, p.cols, row);
      for (int64_t i = 0; i < p.cols; ++i) row[i] /= scale;
    }
  }
  return out;
}

void write_distill_checkpoint(const std::string& path, const AdapterFacts& facts,
                              const DistillProgress& progress) {
  GgufWriter out(path);
  describe(out, facts, kCheckpoint);
  out.set_u64(kSteps, static_cast<uint64_t>(progress.state.steps));
  out.set_u64(kTokens, static_cast<uint64_t>(progress.tokens));
  out.set_f32(kSeconds, static_cast<float>(progress.seconds));
  const std::vector<float>* const arrays[] = {&progress.state.parameters, &progress.state.moment1,
                                              &progress.state.moment2};
  const char* const names[] = {"train.parameters", "train.moment1", "train.moment2"};
  for (size_t i = 0; i < std::size(arrays); ++i)
    out.add_tensor(names[i], DType::f32, std::array{static_cast<int64_t>(arrays[i]->size())});
  out.begin();
  for (const std::vector<float>* array : arrays) out.write_tensor(std::as_bytes(std::span(*array)));
  out.finish();
}

DistillProgress read_distill_checkpoint(const std::string& path, const AdapterFacts& facts) {
  const auto file = GgufFile::open(path);
  const AdapterShape& a = facts.adapter;
  if (file->text(kType, "") != kCheckpoint)
    throw Error(Errc::bad_file, path + ": is no checkpoint of a distillation");
  if (file->text(kModel) != facts.model_digest || file->integer(kLayer) != a.layer ||
      file->integer(kRank) != a.rank || file->integer(kFold) != a.fold ||
      file->integer(kSinks) != a.sinks ||
      static_cast<float>(file->number(kAlpha)) != static_cast<float>(a.alpha))
    throw Error(Errc::bad_file, path +
                                    ": belongs to another model or another adapter than the "
                                    "configuration says; train in another folder");
  const AdapterLayout layout(facts.network, a);
  DistillProgress progress;
  const auto read = [&](const char* name, std::vector<float>& into) {
    const std::span<const float> values = file->floats(name, layout.size());
    into.assign(values.begin(), values.end());
  };
  read("train.parameters", progress.state.parameters);
  read("train.moment1", progress.state.moment1);
  read("train.moment2", progress.state.moment2);
  progress.state.steps = file->integer(kSteps);
  progress.tokens = file->integer(kTokens);
  progress.seconds = file->number(kSeconds);
  return progress;
}

}  // namespace pith

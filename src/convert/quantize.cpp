// One GGUF file's matrices in another format.
#include <algorithm>
#include <string_view>

#include "base/error.h"
#include "convert/convert.h"
#include "convert/model_writer.h"
#include "gguf/names.h"
#include "tensor/codec.h"

namespace pith {
namespace {

constexpr std::string_view kFallbacks = "pith.quantize.fallbacks";

bool is_float(DType dtype) {
  return traits(dtype).block_elements == 1;
}

// Vectors stay as they are: they are small, and norms and biases are what rounding hurts most.
DType format_of(const GgufTensor& t, DType wanted) {
  if (t.dims.size() < 2 || t.rows() <= 1) return DType::f32;
  return t.dims[0] % traits(wanted).block_elements == 0 ? wanted : DType::f16;
}

// Metadata that this file says of itself and that its copy says anew.
bool is_rewritten(std::string_view key) {
  return key == "general.file_type" || key == "general.quantization_version" || key == kFallbacks;
}

}  // namespace

QuantizeReport quantize(const std::string& in, const std::string& out, DType dtype,
                        Monitor& monitor) {
  if (!can_encode(dtype))
    throw Error(Errc::bad_option, "quantize cannot write " + std::string(traits(dtype).name));
  const std::shared_ptr<const GgufFile> file = GgufFile::open(in);
  QuantizeReport report;
  std::vector<std::string> fallbacks;
  bool coded_twice = false;
  for (const GgufTensor& t : file->tensors()) {
    const DType format = format_of(t, dtype);
    if (format == DType::f16 && dtype != DType::f16) fallbacks.emplace_back(t.name);
    coded_twice |= !is_float(t.dtype) && format != t.dtype && !is_float(format);
    report.bytes_before += t.data.size();
  }
  if (coded_twice)
    monitor.warn(in + ": is quantised already; coding it again loses more than from the original");

  ModelWriter writer(out, "quantize", monitor);
  for (const GgufEntry& entry : file->entries())
    if (!is_rewritten(entry.key)) writer.metadata().copy(entry);
  set_file_type(writer.metadata(), dtype);
  if (!fallbacks.empty()) writer.metadata().set_texts(kFallbacks, fallbacks);
  for (const GgufTensor& t : file->tensors()) {
    OutputTensor tensor;
    tensor.name = t.name;
    tensor.dims = t.dims;
    tensor.dtype = format_of(t, dtype);
    tensor.origin = in + ": tensor " + shown_name(t.name);
    tensor.read = [&t, bytes = row_bytes(t.dtype, t.dims[0])](int64_t row, float* to) {
      decode_row(t.dtype, t.data.data() + static_cast<size_t>(row) * bytes, t.dims[0], to);
    };
    if (tensor.dtype == t.dtype) tensor.raw = t.data;
    writer.add(std::move(tensor));
  }
  writer.write();
  report.bytes_after = writer.tensor_bytes();
  report.tensors = static_cast<int>(file->tensors().size());
  report.fallbacks = static_cast<int>(fallbacks.size());
  return report;
}

}  // namespace pith

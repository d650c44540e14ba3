// pith quantize: the same model in another format.
#include <cstdio>
#include <memory>

#include "apps/command.h"
#include "apps/json_writer.h"
#include "apps/progress_bar.h"
#include "apps/resources.h"
#include "apps/units.h"
#include "base/error.h"
#include "convert/convert.h"

namespace pith {
namespace {

struct QuantizeOptions {
  std::string in, out, type;
  bool json = false;
};

int run_quantize(const QuantizeOptions& options) {
  DType dtype = DType::f16;
  PITH_CHECK(parse_dtype(options.type, dtype), "a type that is offered is known");
  refuse_same_file(options.in, options.out);
  QuantizeReport report;
  {
    ProgressBar bar;
    report = quantize(options.in, options.out, dtype, bar);
  }
  if (options.json) {
    JsonWriter json;
    json.object().key("file").value(options.out).key("type").value(traits(dtype).name);
    json.key("bytes_before")
        .value(report.bytes_before)
        .key("bytes_after")
        .value(report.bytes_after);
    json.key("tensors").value(report.tensors).key("fallbacks").value(report.fallbacks);
    std::fputs(json.end().text().c_str(), stdout);
    return 0;
  }
  std::string line = options.out + ": " + bytes_text(report.bytes_before) + " -> " +
                     bytes_text(report.bytes_after) + ", " + std::to_string(report.tensors) +
                     " tensors as " + std::string(traits(dtype).name);
  if (report.fallbacks > 0)
    line +=
        ", " + std::to_string(report.fallbacks) + " as F16 because their rows are not whole blocks";
  std::printf("%s\n", line.c_str());
  return 0;
}

std::function<int()> setup(Arguments& arguments) {
  const auto options = std::make_shared<QuantizeOptions>();
  arguments.operand("IN", options->in, "a GGUF model").required().completes(Complete::file);
  arguments.operand("OUT", options->out, "the file to write").required().completes(Complete::file);
  arguments.operand("TYPE", options->type, "F32, F16, BF16, Q8_0, Q4_0, Q4_K or Q6_K")
      .required()
      .choices = {"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_K", "Q6_K"};
  arguments.flag("--json", options->json, "write the sizes as JSON");
  return [options] { return run_quantize(*options); };
}

}  // namespace

const Command kQuantizeCommand = {
    "quantize",
    "write a model in another weight format",
    "Matrices are written in TYPE; vectors stay F32. A matrix whose rows the format's blocks do "
    "not divide falls back to F16. The file appears under its name when it is complete.",
    "$ pith quantize model-f16.gguf model-q4_k.gguf Q4_K",
    setup,
};

}  // namespace pith

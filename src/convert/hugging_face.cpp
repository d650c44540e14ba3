// A Hugging Face folder to GGUF. The parts: hf_config (config.json), safetensors and hf_tensors
// (weights and where they go), hf_vocabulary (tokenizers).
#include <filesystem>

#include "base/error.h"
#include "convert/convert.h"
#include "convert/hf_config.h"
#include "convert/hf_tensors.h"
#include "convert/hf_vocabulary.h"
#include "convert/model_writer.h"
#include "convert/safetensors.h"

namespace pith {

void convert_hugging_face(const std::string& folder, const std::string& out, DType dtype,
                          Monitor& monitor) {
  check_convert_dtype(dtype);
  std::error_code ignored;
  if (!std::filesystem::is_directory(folder, ignored))
    throw Error(Errc::io, folder +
                              ": is not a folder; a Hugging Face model is a folder with "
                              "config.json, *.safetensors and a tokenizer");
  const HfConfig config = read_hf_config(folder);
  const SafeFolder weights(folder);
  std::vector<OutputTensor> tensors = place_hf_tensors(config, weights, dtype);
  const Vocabulary vocabulary = read_hf_vocabulary(folder, config, monitor);

  ModelWriter writer(out, "convert", monitor);
  write_hf_config(writer.metadata(), config);
  set_file_type(writer.metadata(), dtype);
  write_vocabulary(writer.metadata(), vocabulary);
  for (OutputTensor& tensor : tensors) writer.add(std::move(tensor));
  writer.write();
}

}  // namespace pith

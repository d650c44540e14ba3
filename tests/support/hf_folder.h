// Builds Hugging Face folders out of GGUF files: the way back of the converter, written on its own
// from the layout of Hugging Face's files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "support/tiny_model.h"

namespace pith::test {

struct SafeEntry {
  std::string name, dtype;
  std::vector<int64_t> shape;
  std::string data;
};
std::string safetensors_bytes(const std::vector<SafeEntry>& entries);

void write_file(const std::string& path, std::string_view bytes);
std::string read_file(const std::string& path);
std::vector<std::string> files_in(const std::string& folder);  // names, sorted

// A SentencePiece model of BPE type; kinds are 1 normal to 6 byte.
struct Piece {
  std::string text;
  float score = 0;
  int kind = 1;
};
std::string sentencepiece_bytes(const std::vector<Piece>& pieces, bool dummy_prefix = true,
                                int model_type = 2);

// config.json of the model.
nlohmann::json hf_config(const TinyModel& model);
// The weights of the tiny model's GGUF file under their Hugging Face names, as `dtype`: F32, F16,
// BF16 or F64.
std::vector<SafeEntry> hf_weights(const TinyModel& model, const std::string& gguf,
                                  const std::string& dtype = "F32");
// The vocabulary of a GGUF file as tokenizer.model.
std::string hf_tokenizer_model(const std::string& gguf);
// A small byte-level BPE tokenizer.json with llama-bpe's way of splitting.
nlohmann::json byte_level_tokenizer();

// A complete folder: config.json, model.safetensors and tokenizer.model of a new tiny model, whose
// own GGUF file is at `gguf`. The folder's path ends in '/'.
struct HfFolder {
  std::string path, gguf;
};
HfFolder write_hf_folder(const TinyModel& model, const std::string& dtype = "F32");

}  // namespace pith::test

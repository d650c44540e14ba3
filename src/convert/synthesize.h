// Models that nobody trained: the constructed recall model, and random weights of a known shape.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/progress.h"
#include "tensor/dtype.h"

namespace pith {

// A llama-architecture transformer whose weights are written down so that it looks up
// key -> value pairs at any distance; docs/recall_model.md has the circuit. Constructed, not
// trained: it knows no language.
struct RecallOptions {
  uint64_t seed = 1;    // of the tokens' codes; the vocabulary is the same for all
  int context = 65536;  // what the file promises; the circuit holds that far
};
void write_recall_model(const std::string& out, const RecallOptions& options = {},
                        Monitor& monitor = Monitor::silent());
// The same file in memory (about 8 MB), for GgufFile::parse.
std::vector<std::byte> recall_model_bytes(const RecallOptions& options = {});

// A prompt that hides needles "KEY VALUE." in filler and ends with all their keys. After a key the
// model answers its value, or kRecallNothing if the key's row is not there.
inline constexpr int32_t kRecallNothing = 2;  // "</s>"
struct RecallNeedle {
  int32_t key = 0, value = 0;
  int position = 0;  // of the value token in the prompt: the row that holds the answer
};
struct RecallPrompt {
  std::vector<int32_t> tokens;  // begins with "<s>", ends with the keys in the needles' order
  std::vector<RecallNeedle> needles;
};
// Needles lie one to each equal part of the haystack, anywhere in it; they are listed in random
// order. Throws bad_option where the needles do not fit or the vocabulary has no more names.
RecallPrompt make_recall_prompt(int tokens, int needles, uint64_t seed);
// Which (layer, KV head) of the recall model retrieve; all others only look nearby or at sinks.
std::vector<std::pair<int, int>> recall_retrieval_heads();

// Which format a weight matrix gets. Converts from a DType, which then serves for all.
struct WeightFormat {
  WeightFormat(DType all) : most(all), careful(all) {}
  WeightFormat(DType most, DType careful) : most(most), careful(careful) {}
  DType most;
  // Of the output matrix (the embedding, where it is tied), and of attn_v and ffn_down in the
  // first and last eighth of the layers and every third layer between, as llama.cpp mixes.
  DType careful;
};
// "F16" and every other format by its name; "Q4_K_M" (Q4_K, careful Q6_K) and "Q5_K_M".
bool parse_weight_format(std::string_view name, WeightFormat& format);

// Random weights of a public model's shape: "llama-3.2-1b", "qwen2.5-0.5b", "llama-3.1-8b", "tiny".
// Activations stay finite and no two rows are alike; nothing else is promised. The file loads in
// other GGUF engines too. Throws bad_option for an unknown name, naming the known. Rows that a
// K format's 256 elements do not divide get the nearest format of 32, as llama.cpp does.
std::vector<std::string_view> geometry_names();
void write_geometry(std::string_view geometry, const WeightFormat& format, const std::string& out,
                    uint64_t seed = 1, Monitor& monitor = Monitor::silent());
// The same file in memory, for GgufFile::parse. Nothing else of its size is allocated.
std::vector<std::byte> geometry_bytes(std::string_view geometry, const WeightFormat& format,
                                      uint64_t seed = 1, Monitor& monitor = Monitor::silent());
// Bytes of all its tensors, without making them.
uint64_t geometry_weight_bytes(std::string_view geometry, const WeightFormat& format);

}  // namespace pith

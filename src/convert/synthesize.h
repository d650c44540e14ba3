// Models that nobody trained: the constructed recall model, and random weights of a known shape.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/progress.h"
#include "tensor/dtype.h"

namespace pith {

// A llama-architecture transformer whose weights are written down so that it looks up
// key -> value pairs at any distance; docs/recall_model.md has the circuit. Constructed, not
// trained: it knows no language.
struct RecallOptions {
  uint64_t seed = 1;
  int context = 65536;
};
void write_recall_model(const std::string& out, const RecallOptions& options = {},
                        Monitor& monitor = Monitor::silent());

// A prompt that hides needles "KEY VALUE" in filler and ends with all their keys.
struct RecallNeedle {
  int32_t key = 0, value = 0;
  int position = 0;  // of the value token in the prompt
};
struct RecallPrompt {
  std::vector<int32_t> tokens;
  std::vector<RecallNeedle> needles;
};
RecallPrompt make_recall_prompt(int tokens, int needles, uint64_t seed);
// Which (layer, KV head) of the recall model retrieve; all others only look nearby or at sinks.
std::vector<std::pair<int, int>> recall_retrieval_heads();

// Random weights of a public model's shape: "llama-3.2-1b", "qwen2.5-0.5b", "llama-3.1-8b", "tiny".
// The file loads in other GGUF engines too. Throws bad_option for an unknown name, naming the
// known.
std::vector<std::string_view> geometry_names();
void write_geometry(std::string_view geometry, DType dtype, const std::string& out,
                    uint64_t seed = 1, Monitor& monitor = Monitor::silent());

}  // namespace pith

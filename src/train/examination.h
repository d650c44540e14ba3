// What a trained model can do, measured by the engine: how well it reads on, copies and looks up,
// at which depths, and that it fails where its cache is cut to a window.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/progress.h"
#include "runtime/engine.h"
#include "train/corpus.h"

namespace pith {

enum class Lookup { passkey, needle, eight_needles };
constexpr std::string_view lookup_name(Lookup lookup) {
  return lookup == Lookup::passkey  ? "passkey"
         : lookup == Lookup::needle ? "single needle"
                                    : "one of eight needles";
}

struct ExaminationOptions {
  int samples = 2;       // for each length and depth
  int depths = 11;       // from the first sentence to the last one
  int text_windows = 8;  // of held-out text, each as long as the context
  uint64_t seed = 1;
};

struct DepthResult {
  Lookup lookup;
  std::string spec;        // of the cache
  int length = 0;          // tokens of the prompt
  std::vector<int> right;  // [depths], of `samples` each
};

struct Examination {
  ExaminationOptions options;
  int context = 0;
  double bits_per_byte = 0;
  int64_t text_tokens = 0;
  double first_copy = 0,
         second_copy = 0;  // nats a token, of 1,000 tokens (or a third of the context)
  int copy_tokens = 0;
  std::vector<DepthResult> lookups;
};

// A prompt of `length` tokens whose continuation is `answer`, which it said at `depth` (0 to 1) of
// its text. Empty where needles and question leave less than a quarter of it to text.
struct LookupPrompt {
  std::vector<int32_t> tokens, answer;
};
LookupPrompt make_lookup(Lookup lookup, const Tokenizer& tokenizer, const Corpus& corpus,
                         Random& random, int length, double depth);

// Greedy answers, right where every token is. `corpus` is text that the model has not learnt.
Examination examine(Engine& engine, const Corpus& corpus, const ExaminationOptions& options,
                    Monitor& monitor);

}  // namespace pith

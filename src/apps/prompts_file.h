// A file of prompts: one per line, as text or as JSON objects.
//
//   Once upon a time
//   {"prompt": "Once upon a time", "kv": "snapkv:budget=0.1", "predict": 64, "seed": 7}
//
// It is JSON if its first line that is not empty begins with '{'. Empty lines are skipped.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace pith {

struct FilePrompt {
  std::string text;
  std::string where;  // "prompts.jsonl:12"
  std::optional<std::string> spec;
  std::optional<int> predict;
  std::optional<uint64_t> seed;
};

// `name` is how sentences name the file. Throws bad_request for a line that is not what its file
// is, and for a file without prompts.
std::vector<FilePrompt> parse_prompts(std::string_view text, const std::string& name);

}  // namespace pith

// Made-up English-like texts in a folder of their own, for what learns from texts.
#pragma once

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/random.h"

namespace pith::test {

inline std::string small_text(uint64_t seed, int sentences) {
  static const std::vector<std::string> kWords = {
      "river",  "garden",   "letter", "window",  "morning", "captain", "winter",
      "silver", "mountain", "answer", "bridge",  "candle",  "doctor",  "evening",
      "forest", "harbour",  "island", "journey", "kitchen", "ladder",  "the",
      "a",      "of",       "and",    "walked",  "under",   "found",   "said",
      "with",   "before",   "never",  "quiet",   "great"};
  Random random(seed);
  std::string text;
  for (int i = 0; i < sentences; ++i) {
    const uint64_t words = 5 + random.below(8);
    for (uint64_t w = 0; w < words; ++w) {
      std::string word = kWords[random.below(kWords.size())];
      if (w == 0) word[0] = static_cast<char>(word[0] - 'a' + 'A');
      text += (w == 0 ? "" : " ") + word;
    }
    text += i % 7 == 6 ? ".\n" : ". ";
  }
  return text;
}

// FOLDER/one.txt, FOLDER/two.txt, FOLDER/apart.txt
inline void write_small_texts(const std::filesystem::path& folder) {
  std::filesystem::create_directories(folder);
  uint64_t seed = 1;
  for (const char* name : {"one.txt", "two.txt", "apart.txt"})
    std::ofstream(folder / name) << small_text(seed++, 400);
}

}  // namespace pith::test

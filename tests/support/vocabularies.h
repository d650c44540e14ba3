// Vocabularies for the tests of tokenizers: those of shared/data, unpacked into a folder of the
// test's own, and those a list of byte-pair ranks stands for.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/token_table.h"
#include "text/tokenizer.h"

namespace pith::test {

// The file in the folder of test data ($PITH_DATA, or the one given at configuration).
std::string data_path(const std::string& name);
bool has_data(const std::string& name);
std::string read_text(const std::string& path);

// llama.cpp's vocabulary of that name, plain or from the archive; null if it is not there.
std::unique_ptr<Tokenizer> load_vocabulary(const std::string& name);

// What a VocabularySpec's views refer to.
struct OwnedSpec {
  VocabularySpec spec;
  std::deque<std::string> text;
  std::string_view keep(std::string value) { return text.emplace_back(std::move(value)); }
};

// A packed list of ranks ("base64 rank" per line) as a byte-level vocabulary: a token's merge is
// what merging its bytes by the lower ranks leaves of it, where that is a pair.
std::unique_ptr<OwnedSpec> read_ranks(const std::string& packed, std::string_view pre);

struct TokenizerCase {
  std::string text;
  std::vector<int32_t> tokens;
};
// The .inp/.out pair of that name.
std::vector<TokenizerCase> read_cases(const std::string& name);
// Those of one encoding of TestPlans.txt.
std::vector<TokenizerCase> read_plans(const std::string& encoding);

}  // namespace pith::test

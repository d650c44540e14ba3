#include "support/vocabularies.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <sstream>
#include <unistd.h>
#include <unordered_map>

#include "gguf/gguf.h"
#include "text/byte_letters.h"

namespace pith::test {
namespace {

namespace fs = std::filesystem;

// A folder that goes away with its last user.
struct Scratch {
  fs::path path = fs::path(::testing::TempDir()) / ("pith_text_" + std::to_string(::getpid()));
  Scratch() { fs::create_directories(path); }
  ~Scratch() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
};

std::string decode_base64(std::string_view text) {
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bytes;
  uint32_t bits = 0;
  int held = 0;
  for (const char c : text) {
    const size_t digit = kDigits.find(c);
    if (digit == std::string_view::npos) break;
    bits = bits << 6 | static_cast<uint32_t>(digit);
    held += 6;
    if (held >= 8) bytes += static_cast<char>(bits >> (held -= 8) & 0xff);
  }
  return bytes;
}

// Where the two tokens meet that `word` is just before it becomes one, by repeated passes over its
// parts. `cuts` are where parts end.
std::optional<size_t> last_cut(std::string_view word, int32_t rank,
                               const std::unordered_map<std::string_view, int32_t>& ranks) {
  std::vector<size_t> cuts;
  for (size_t i = 1; i <= word.size(); ++i) cuts.push_back(i);
  while (cuts.size() > 2) {
    size_t best = cuts.size(), begin = 0;
    int32_t lowest = rank;
    for (size_t i = 0; i + 1 < cuts.size(); begin = cuts[i++]) {
      const auto found = ranks.find(word.substr(begin, cuts[i + 1] - begin));
      if (found != ranks.end() && found->second < lowest) lowest = found->second, best = i;
    }
    if (best == cuts.size()) return std::nullopt;
    cuts.erase(cuts.begin() + static_cast<std::ptrdiff_t>(best));
  }
  return cuts[0];
}

}  // namespace

std::string data_path(const std::string& name) {
  const char* folder = std::getenv("PITH_DATA");
  return std::string(folder != nullptr ? folder : PITH_TEST_DATA) + "/" + name;
}

bool has_data(const std::string& name) {
  return fs::exists(data_path(name));
}

std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::unique_ptr<Tokenizer> load_vocabulary(const std::string& name) {
  const std::string file = "ggml-vocab-" + name + ".gguf";
  if (has_data("llama-cpp-vocabs/" + file))
    return Tokenizer::load(*GgufFile::open(data_path("llama-cpp-vocabs/" + file)));
  const std::string archive = data_path("llama-cpp-vocabs/other-vocabs.tar.xz");
  if (!fs::exists(archive)) return nullptr;
  const Scratch folder;
  const std::string command =
      "tar -xJf '" + archive + "' -C '" + folder.path.string() + "' " + file;
  if (std::system(command.c_str()) != 0) return nullptr;
  return Tokenizer::load(*GgufFile::open((folder.path / file).string()));
}

std::unique_ptr<OwnedSpec> read_ranks(const std::string& packed, std::string_view pre) {
  if (!has_data(packed)) return nullptr;
  const Scratch folder;
  const std::string unpacked = (folder.path / "ranks").string();
  if (std::system(("xz -dc '" + data_path(packed) + "' > '" + unpacked + "'").c_str()) != 0)
    return nullptr;

  auto owned = std::make_unique<OwnedSpec>();
  std::vector<std::string> words;
  std::ifstream lines(unpacked);
  for (std::string encoded, rank; lines >> encoded >> rank;) {
    // A rank that is skipped keeps a name that no merge uses.
    while (words.size() < static_cast<size_t>(std::stoi(rank))) words.emplace_back();
    words.push_back(decode_base64(encoded));
  }
  std::unordered_map<std::string_view, int32_t> ranks;
  for (size_t i = 0; i < words.size(); ++i)
    if (!words[i].empty()) ranks.emplace(words[i], static_cast<int32_t>(i));

  VocabularySpec& spec = owned->spec;
  spec.model = "gpt2";
  spec.pre = pre;
  for (size_t i = 0; i < words.size(); ++i)
    spec.tokens.push_back(owned->keep(words[i].empty() ? "[hole " + std::to_string(i) + "]"
                                                       : letters_of_bytes(words[i])));
  for (size_t i = 0; i < words.size(); ++i) {
    if (words[i].size() < 2) continue;
    const auto cut = last_cut(words[i], static_cast<int32_t>(i), ranks);
    if (!cut) continue;
    spec.merges.push_back(owned->keep(letters_of_bytes(words[i].substr(0, *cut)) + " " +
                                      letters_of_bytes(words[i].substr(*cut))));
  }
  return owned;
}

std::vector<TokenizerCase> read_cases(const std::string& name) {
  const std::string base = data_path("llama-cpp-vocabs/ggml-vocab-" + name + ".gguf");
  constexpr std::string_view kBetween = "\n__ggml_vocab_test__\n";
  const std::string texts = read_text(base + ".inp");
  std::istringstream answers(read_text(base + ".out"));
  std::vector<TokenizerCase> cases;
  size_t at = 0;
  for (std::string line; std::getline(answers, line);) {
    const size_t end = std::min(texts.find(kBetween, at), texts.size());
    TokenizerCase each{texts.substr(at, end - at), {}};
    std::istringstream ids(line);
    for (int32_t id = 0; ids >> id;) each.tokens.push_back(id);
    cases.push_back(std::move(each));
    at = std::min(end + kBetween.size(), texts.size());
  }
  return cases;
}

std::vector<TokenizerCase> read_plans(const std::string& encoding) {
  std::ifstream lines(data_path("tiktoken-ranks/TestPlans.txt"));
  const std::string kName = "EncodingName: ", kSample = "Sample: ", kEncoded = "Encoded: [";
  std::vector<TokenizerCase> cases;
  bool ours = false;
  std::string sample;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with(kName)) ours = line.substr(kName.size()) == encoding;
    if (line.starts_with(kSample)) sample = line.substr(kSample.size());
    if (!ours || !line.starts_with(kEncoded)) continue;
    TokenizerCase each{sample, {}};
    std::istringstream ids(line.substr(kEncoded.size()));
    for (int32_t id = 0; ids >> id; ids.ignore(1)) each.tokens.push_back(id);
    cases.push_back(std::move(each));
  }
  return cases;
}

}  // namespace pith::test

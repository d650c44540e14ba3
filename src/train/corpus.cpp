#include "train/corpus.h"

#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "base/mapped_file.h"

namespace pith {
namespace {

namespace fs = std::filesystem;

bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

// The end of a paragraph, as far as a line that was broken to fit a page tells; a very long line is
// a paragraph.
bool ends_paragraph(size_t length, char last) {
  constexpr size_t kShort = 52, kLong = 120;
  return length > kLong ||
         (length < kShort && std::string_view(".!?:\"'-").find(last) != std::string_view::npos);
}

void append_word(std::string& out, std::string_view word) {
  if (!out.empty() && out.back() != '\n') out += ' ';
  out += word;
}

}  // namespace

std::string flow_text(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    std::string_view last;
    size_t length = 0;
    for (size_t at = 0; at < line.size();) {
      const size_t begin = line.find_first_not_of(" \t\r", at);
      if (begin == line.npos) break;
      const size_t end = std::min(line.find_first_of(" \t\r", begin), line.size());
      append_word(out, last = line.substr(begin, end - begin));
      length += last.size() + 1;
      at = end;
    }
    if ((last.empty() || ends_paragraph(length, last.back())) && !out.empty() && out.back() != '\n')
      out += '\n';
  }
  return out;
}

std::vector<TextFile> read_texts(std::span<const std::string> folders) {
  std::vector<fs::path> paths;
  for (const std::string& folder : folders) {
    std::error_code error;
    for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
         entry.increment(error))
      if (entry->path().extension() == ".txt") paths.push_back(entry->path());
    if (error) throw Error(Errc::io, folder + ": cannot be read: " + error.message());
  }
  std::ranges::sort(paths, {}, [](const fs::path& p) { return p.filename().string(); });
  std::vector<TextFile> files;
  for (const fs::path& path : paths) {
    const MappedFile file(path.string());
    const auto bytes = file.bytes();
    files.push_back({path.stem().string(),
                     flow_text({reinterpret_cast<const char*>(bytes.data()), bytes.size()})});
  }
  return files;
}

Corpus::Corpus(std::span<const TextFile* const> files, const Tokenizer& tokenizer,
               Monitor& monitor) {
  if (tokenizer.size() > 65536)
    throw Error(Errc::unsupported, "the trainer takes vocabularies of up to 65536 tokens, not of " +
                                       std::to_string(tokenizer.size()));
  for (size_t i = 0; i < files.size(); ++i) {
    monitor.check();
    monitor.progress("tokens", static_cast<int64_t>(i), static_cast<int64_t>(files.size()));
    for (const int32_t token : tokenizer.encode(files[i]->text, false))
      tokens_.push_back(static_cast<uint16_t>(token));
    ends_.push_back(tokens_.size());
  }
  if (tokens_.empty()) throw Error(Errc::bad_option, "the texts have no tokens to train on");
  monitor.progress("tokens", static_cast<int64_t>(files.size()),
                   static_cast<int64_t>(files.size()));
  for (int32_t token = 0; token < tokenizer.size(); ++token) {
    const std::string_view piece = tokenizer.piece(token);
    const auto last = piece.find_last_not_of("\"'");
    ends_sentence_.push_back(last != piece.npos &&
                             std::string_view(".!?").find(piece[last]) != std::string_view::npos);
    ends_line_.push_back(piece == "\n");
    begins_word_.push_back(!piece.empty() && (piece[0] == ' ' || piece[0] == '\n'));
  }
}

bool Corpus::begins_sentence(size_t at) const {
  return at == 0 || (begins_word_[tokens_[at]] && ends_sentence_[tokens_[at - 1]]);
}

std::span<const uint16_t> Corpus::passage(Random& random, int count) const {
  size_t at = random.below(tokens_.size());
  auto document = std::ranges::upper_bound(ends_, at);
  const size_t begin = document == ends_.begin() ? 0 : *std::prev(document);
  // Not so late that too little is left of the document.
  const size_t wanted = static_cast<size_t>(count);
  if (*document - at < wanted) at = *document - begin > wanted ? *document - wanted : begin;
  constexpr size_t kLook = 200;  // tokens, for the begin of a sentence
  for (size_t back = 0; back < kLook && at - back > begin; ++back)
    if (begins_sentence(at - back)) {
      at -= back;
      if (ends_line_[tokens_[at]] && at + 1 < *document) ++at;
      break;
    }
  return std::span(tokens_).subspan(at, std::min(wanted, *document - at));
}

std::string Corpus::word(Random& random, const Tokenizer& tokenizer) const {
  for (int tries = 0; tries < 100; ++tries) {
    size_t at = random.below(tokens_.size());
    if (tokenizer.piece(tokens_[at]).substr(0, 1) != " ") continue;
    std::string word(tokenizer.piece(tokens_[at]).substr(1));
    while (++at < tokens_.size() && !begins_word_[tokens_[at]] && word.size() < 16)
      word += tokenizer.piece(tokens_[at]);
    const auto end = std::ranges::find_if_not(word, is_letter);
    word.erase(end, word.end());
    if (word.size() < 5 || word.size() > 12) continue;
    for (char& c : word)
      if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    return word;
  }
  return "letter";
}

std::vector<float> Corpus::shares() const {
  std::vector<float> shares(ends_sentence_.size());
  for (const uint16_t token : tokens_) shares[token] += 1;
  for (float& share : shares) share /= static_cast<float>(std::max<size_t>(1, tokens_.size()));
  return shares;
}

}  // namespace pith

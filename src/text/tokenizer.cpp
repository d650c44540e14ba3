#include "text/tokenizer.h"

#include "base/error.h"
#include "gguf/gguf.h"
#include "text/token_table.h"
#include "text/utf8.h"

namespace pith {

VocabularySpec read_vocabulary(const GgufFile& file) {
  VocabularySpec spec;
  spec.source = file.path();
  if (!file.has("tokenizer.ggml.model"))
    throw Error(Errc::bad_file, file.path() +
                                    " has no tokenizer.ggml.model, so its text cannot be read; "
                                    "convert the model together with its tokenizer");
  spec.model = file.text("tokenizer.ggml.model");
  if (file.has("tokenizer.ggml.pre")) spec.pre = file.text("tokenizer.ggml.pre");
  spec.architecture = file.text("general.architecture", "");
  spec.tokens = file.texts("tokenizer.ggml.tokens");
  if (file.has("tokenizer.ggml.scores")) spec.scores = file.numbers("tokenizer.ggml.scores");
  if (file.has("tokenizer.ggml.token_type"))
    spec.types = file.integers("tokenizer.ggml.token_type");
  if (file.has("tokenizer.ggml.merges")) spec.merges = file.texts("tokenizer.ggml.merges");
  const auto id = [&](const char* key) {
    return file.has(key) ? std::optional(file.integer(key)) : std::nullopt;
  };
  spec.begin = id("tokenizer.ggml.bos_token_id");
  spec.end = id("tokenizer.ggml.eos_token_id");
  spec.unknown = id("tokenizer.ggml.unknown_token_id");
  for (const char* key : {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"})
    if (const auto token = id(key)) spec.more_ends.push_back(*token);
  const auto flag = [&](const char* key) {
    return file.has(key) ? std::optional(file.boolean(key, false)) : std::nullopt;
  };
  spec.adds_begin = flag("tokenizer.ggml.add_bos_token");
  spec.adds_end = flag("tokenizer.ggml.add_eos_token");
  spec.adds_space = flag("tokenizer.ggml.add_space_prefix");
  return spec;
}

std::unique_ptr<Tokenizer> make_tokenizer(const VocabularySpec& spec) {
  if (spec.model == "gpt2") return make_byte_level_bpe(spec);
  if (spec.model == "llama") return make_sentencepiece(spec);
  std::string what = spec.source + ": its tokenizer is '";
  what.append(spec.model).append(spec.model == "bert" ? "' (WordPiece)" : "'");
  throw Error(Errc::unsupported, what +
                                     ", which is not supported; 'llama' (SentencePiece BPE) and "
                                     "'gpt2' (byte-level BPE) are");
}

std::unique_ptr<Tokenizer> Tokenizer::load(const GgufFile& file) {
  return make_tokenizer(read_vocabulary(file));
}

std::vector<int32_t> Tokenizer::encode_prompt(std::string_view text, bool parse_special) const {
  std::vector<int32_t> tokens = encode(text, parse_special);
  if (adds_begin() && (tokens.empty() || tokens.front() != begin_token()))
    tokens.insert(tokens.begin(), begin_token());
  if (adds_end() && (tokens.empty() || tokens.back() != end_token())) tokens.push_back(end_token());
  return tokens;
}

VocabularyTokenizer::VocabularyTokenizer(const VocabularySpec& spec, Spelling spelling,
                                         bool adds_begin)
    : table_(spec, spelling),
      adds_begin_(spec.adds_begin.value_or(adds_begin) && table_.begin() >= 0),
      adds_end_(spec.adds_end.value_or(false) && table_.end() >= 0) {}

std::vector<int32_t> VocabularyTokenizer::encode_from(std::string_view text, bool parse_special,
                                                      bool first) const {
  if (text.size() >= UINT32_MAX)
    throw Error(Errc::bad_request, "a text of 4 GiB or more cannot be turned into tokens at once");
  std::vector<int32_t> tokens;
  const std::unique_ptr<Scratch> scratch = make_scratch();
  size_t begin = 0;  // of the fragment in hand
  const auto flush = [&](size_t end) {
    if (end > begin) {
      encode_text(text.substr(begin, end - begin), first, *scratch, tokens);
      first = false;
    }
  };
  for (size_t at = 0; at < text.size();) {
    const int32_t token = table_.match_special(text.substr(at), parse_special);
    if (token < 0) {
      ++at;
      continue;
    }
    flush(at);
    tokens.push_back(token);
    first = true;
    at += table_.special_text(token).size();
    if (skips_blanks_after_special_)
      while (at < text.size() && (text[at] == ' ' || (text[at] >= '\t' && text[at] <= '\r'))) ++at;
    begin = at;
  }
  flush(text.size());
  return tokens;
}

std::string_view VocabularyTokenizer::piece(int32_t token) const {
  return token < 0 || token >= size() ? std::string_view() : table_.piece(token);
}

std::string_view VocabularyTokenizer::name(int32_t token) const {
  return token < 0 || token >= size() ? std::string_view() : table_.name(token);
}

bool VocabularyTokenizer::ends_generation(int32_t token) const {
  return token >= 0 && token < size() && table_.ends_generation(token);
}

std::string Utf8Stream::feed(std::string_view piece) {
  waiting_ += piece;
  const size_t ready = waiting_.size() - utf8_unfinished(waiting_);
  std::string out = waiting_.substr(0, ready);
  waiting_.erase(0, ready);
  return out;
}

std::string Utf8Stream::flush() {
  std::string out = std::move(waiting_);
  waiting_.clear();
  return out;
}

}  // namespace pith

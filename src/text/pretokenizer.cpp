#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/pretokenizer.h"

#include <algorithm>
#include <pcre2.h>

#include "base/error.h"
#include "text/utf8.h"

namespace pith {
namespace {

struct FreeMatch {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
struct FreeContext {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};

// Unicode's White_Space. PCRE2's own \s counts U+180E as a blank too, which Unicode gave up.
std::string with_unicode_blanks(std::string_view pattern) {
  constexpr std::string_view kBlanks = R"(\t-\r\x{85}\p{Z})";
  std::string out;
  bool in_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c != '\\') {
      if (c == '[') in_class = true;
      if (c == ']') in_class = false;
      out += c;
      continue;
    }
    const char escaped = pattern[++i];
    if (escaped == 's') {
      out += in_class ? std::string(kBlanks) : "[" + std::string(kBlanks) + "]";
    } else if (escaped == 'S') {
      PITH_CHECK(!in_class, "no pattern negates blanks inside a class");
      out += "[^" + std::string(kBlanks) + "]";
    } else {
      out += c;
      out += escaped;
    }
  }
  return out;
}

}  // namespace

struct PreTokenizer::Expression {
  pcre2_code* code = nullptr;

  explicit Expression(std::string_view pattern) {
    const std::string expanded = with_unicode_blanks(pattern);
    int error = 0;
    PCRE2_SIZE at = 0;
    code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expanded.data()), expanded.size(),
                         PCRE2_UTF | PCRE2_UCP | PCRE2_DOLLAR_ENDONLY, &error, &at, nullptr);
    PITH_CHECK(code != nullptr, "a pre-tokeniser's pattern does not compile");
    // Where the system forbids writable code, PCRE2 interprets instead.
    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  }
  Expression(const Expression&) = delete;
  Expression& operator=(const Expression&) = delete;
  ~Expression() { pcre2_code_free(code); }
};

PreTokenizer::PreTokenizer(const PreTokenizerRule& rule) {
  for (const std::string_view pattern : rule.patterns)
    expressions_.push_back(std::make_unique<Expression>(pattern));
}

PreTokenizer::~PreTokenizer() = default;

std::vector<Word> PreTokenizer::split(std::string_view text) const {
  std::vector<Word> words;
  for (size_t at = 0; at < text.size();) {
    const size_t valid = utf8_valid_prefix(text.substr(at));
    if (valid != 0) words.push_back({at, valid});
    at += valid;
    const size_t broken = at;
    while (at < text.size() && utf8_length(text.substr(at)) == 0) ++at;
    if (at != broken) words.push_back({broken, at - broken});
  }

  const std::unique_ptr<pcre2_match_data, FreeMatch> match(pcre2_match_data_create(1, nullptr));
  const std::unique_ptr<pcre2_match_context, FreeContext> context(
      pcre2_match_context_create(nullptr));
  PITH_CHECK(match && context, "PCRE2 has no memory for a match");
  pcre2_set_match_limit(context.get(), UINT32_MAX);
  const PCRE2_SIZE* found = pcre2_get_ovector_pointer(match.get());

  std::vector<Word> pieces;
  for (const auto& expression : expressions_) {
    pieces.swap(words);
    words.clear();
    words.reserve(pieces.size());
    for (const Word& piece : pieces) {
      const std::string_view subject = text.substr(piece.begin, piece.bytes);
      if (utf8_length(subject) == 0) {  // not UTF-8, or empty
        words.push_back(piece);
        continue;
      }
      size_t done = 0;
      while (done < subject.size()) {
        const int count = pcre2_match(
            expression->code, reinterpret_cast<PCRE2_SPTR>(subject.data()), subject.size(), done,
            PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY, match.get(), context.get());
        if (count == PCRE2_ERROR_NOMATCH) break;
        if (count < 0)
          throw Error(Errc::bad_request, "the text cannot be split into words (PCRE2 error " +
                                             std::to_string(count) + ")");
        if (found[0] > done) words.push_back({piece.begin + done, found[0] - done});
        words.push_back({piece.begin + found[0], found[1] - found[0]});
        done = found[1];
      }
      if (done < subject.size()) words.push_back({piece.begin + done, subject.size() - done});
    }
  }
  return words;
}

}  // namespace pith

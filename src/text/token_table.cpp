#include "text/token_table.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/error.h"
#include "text/byte_letters.h"
#include "text/marks.h"
#include "text/utf8.h"

namespace pith {
namespace {

// Names that end a generation in one model or another. Files often name only one of them.
constexpr std::string_view kEndNames[] = {
    "<|eot_id|>",      "<|eom_id|>",
    "<|end_of_text|>", "<|im_end|>",
    "<|end|>",         "<|endoftext|>",
    "<|return|>",      "<|EOT|>",
    "<|eot|>",         "<|eom|>",
    "<end_of_turn>",   "<|END_OF_TURN_TOKEN|>",
    "<|user_end|>",    "<end_of_utterance>",
    kDeepSeekEnd,
};
// As well, but only where the file marks them as more than text.
constexpr std::string_view kShortEndNames[] = {"</s>",   "<eos>", "<EOT>",
                                               "_<EOT>", "[EOS]", "[EOT]"};

std::string number(size_t value) {
  return std::to_string(value);
}

std::string with_blanks(std::string_view name) {
  std::string piece;
  for (size_t at = 0; at < name.size();) {
    const size_t mark = std::min(name.find(kMarkedBlank, at), name.size());
    piece += name.substr(at, mark - at);
    if (mark < name.size()) piece += ' ';
    at = mark + kMarkedBlank.size();
  }
  return piece;
}

// "<0x0A>"; -1 if it is not of that form.
int byte_of_name(std::string_view name) {
  int value = -1;
  if (name.size() != 6 || name.substr(0, 3) != "<0x" || name[5] != '>') return -1;
  const auto [end, error] = std::from_chars(name.data() + 3, name.data() + 5, value, 16);
  return error == std::errc() && end == name.data() + 5 ? value : -1;
}

}  // namespace

void TokenTable::fail(const VocabularySpec& spec, const std::string& what) {
  throw Error(Errc::bad_file, spec.source + ": " + what);
}

TokenTable::TokenTable(const VocabularySpec& spec, Spelling spelling) {
  std::ranges::fill(bytes_, -1);
  read_tokens(spec, spelling);
  read_special(spec);
  index_special();
}

void TokenTable::read_tokens(const VocabularySpec& spec, Spelling spelling) {
  const size_t count = spec.tokens.size();
  if (count == 0) fail(spec, "tokenizer.ggml.tokens is empty");
  if (count > INT32_MAX) fail(spec, "tokenizer.ggml.tokens has more tokens than 31 bits count");
  if (!spec.types.empty() && spec.types.size() != count)
    fail(spec, "tokenizer.ggml.token_type has " + number(spec.types.size()) + " entries for " +
                   number(count) + " tokens");
  types_.assign(count, TokenType::normal);
  for (size_t i = 0; i < spec.types.size(); ++i) {
    if (spec.types[i] < 0 || spec.types[i] > 6)
      fail(spec, "tokenizer.ggml.token_type[" + number(i) + "] is " +
                     std::to_string(spec.types[i]) + ", which is no type of token (0 to 6)");
    types_[i] = static_cast<TokenType>(spec.types[i]);
  }
  for (const std::string_view name : spec.tokens) names_.push_back(name);

  by_name_.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    const auto [place, added] = by_name_.emplace(names_[i], static_cast<int32_t>(i));
    // Of two tokens with one name the normal one is text; the other is of no use by its name.
    if (!added && types_[i] == TokenType::normal && types_[place->second] != TokenType::normal)
      place->second = static_cast<int32_t>(i);
  }

  // A name that ends turns is one, even if a converter took it for text.
  ends_.assign(count, false);
  const auto mark_end = [&](std::string_view name, bool even_if_normal) {
    const int32_t token = find(name);
    if (token < 0 || (types_[token] == TokenType::normal && !even_if_normal)) return;
    ends_[token] = true;
    types_[token] = TokenType::control;
  };
  for (const std::string_view name : kEndNames) mark_end(name, true);
  for (const std::string_view name : kShortEndNames) mark_end(name, spec.types.empty());

  for (size_t i = 0; i < count; ++i) push_piece(spec, spelling, static_cast<int32_t>(i));
  by_piece_.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    const auto token = static_cast<int32_t>(i);
    const std::string_view piece = pieces_[i];
    const bool is_text = types_[i] == TokenType::normal ||
                         (types_[i] == TokenType::unused && spelling == Spelling::marked_blanks);
    if (!is_text || piece.empty()) continue;
    if (spelling == Spelling::byte_letters && piece.size() == 1) {
      int32_t& byte = bytes_[static_cast<uint8_t>(piece[0])];
      if (byte < 0) byte = token;
    }
    by_piece_.emplace(piece, token);
    longest_piece_ = std::max(longest_piece_, piece.size());
  }
}

void TokenTable::push_piece(const VocabularySpec& spec, Spelling spelling, int32_t token) {
  const std::string_view name = names_[token];
  const bool marked = spelling == Spelling::marked_blanks;
  switch (types_[token]) {
    case TokenType::control:
    case TokenType::unknown:
      pieces_.push_back("");
      return;
    case TokenType::byte:
      if (const int value = byte_of_name(name); value >= 0) {
        const char byte = static_cast<char>(value);
        pieces_.push_back({&byte, 1});
        if (bytes_[value] < 0) bytes_[value] = token;
        return;
      }
      fail(spec, "token " + number(token) + " is of type byte but named '" + std::string(name) +
                     "', not '<0x00>' to '<0xFF>'");
    case TokenType::user_defined:
      pieces_.push_back(marked ? with_blanks(name) : std::string(name));
      return;
    default:
      pieces_.push_back(marked ? with_blanks(name) : bytes_of_letters(name));
  }
}

void TokenTable::read_special(const VocabularySpec& spec) {
  const auto checked = [&](int64_t token, const char* key) {
    if (token < 0 || token >= size())
      fail(spec, std::string(key) + " is " + std::to_string(token) + ", but there are " +
                     number(types_.size()) + " tokens");
    return static_cast<int32_t>(token);
  };
  if (spec.begin) begin_ = checked(*spec.begin, "tokenizer.ggml.bos_token_id");
  if (spec.end) end_ = checked(*spec.end, "tokenizer.ggml.eos_token_id");
  if (spec.unknown) unknown_ = checked(*spec.unknown, "tokenizer.ggml.unknown_token_id");
  for (const int64_t token : spec.more_ends)
    ends_[checked(token, "the id of a token that ends a turn or message")] = true;
  if (end_ >= 0) ends_[end_] = true;
}

void TokenTable::index_special() {
  for (int32_t token = 0; token < size(); ++token) {
    if (!is_special(token)) continue;
    if (const auto text = special_text(token); !text.empty()) special_.emplace_back(text, token);
  }
  std::ranges::sort(special_);
  size_t at = 0;
  for (int byte = 0; byte <= 256; ++byte) {
    while (at < special_.size() && static_cast<uint8_t>(special_[at].first[0]) < byte) ++at;
    first_[byte] = static_cast<uint32_t>(at);
  }
}

int32_t TokenTable::match_special(std::string_view text, bool parse_special) const {
  if (text.empty()) return -1;
  const auto byte = static_cast<uint8_t>(text[0]);
  auto low = special_.begin() + first_[byte], high = special_.begin() + first_[byte + 1];
  int32_t found = -1;
  // [low, high) share the first `length` bytes with the text; the one that is no longer than
  // that comes first among them.
  for (size_t length = 1; low != high; ++length) {
    for (; low != high && low->first.size() == length; ++low)
      if (parse_special || types_[low->second] == TokenType::user_defined) found = low->second;
    if (length == text.size()) break;
    const auto next = static_cast<uint8_t>(text[length]);
    const auto letter = [&](const auto& special) {
      return static_cast<uint8_t>(special.first[length]);
    };
    low = std::ranges::lower_bound(low, high, next, {}, letter);
    high = std::ranges::upper_bound(low, high, next, {}, letter);
  }
  return found;
}

}  // namespace pith

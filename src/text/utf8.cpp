#include "text/utf8.h"

#include <cstdint>
#include <cstring>

namespace pith {
namespace {

struct Lead {
  int length;          // of the whole character; 0: not a first byte
  unsigned low, high;  // what the second byte may be
};

Lead lead_of(unsigned char byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xc2) return {0, 0, 0};
  if (byte < 0xe0) return {2, 0x80, 0xbf};
  if (byte == 0xe0) return {3, 0xa0, 0xbf};
  if (byte == 0xed) return {3, 0x80, 0x9f};
  if (byte < 0xf0) return {3, 0x80, 0xbf};
  if (byte == 0xf0) return {4, 0x90, 0xbf};
  if (byte < 0xf4) return {4, 0x80, 0xbf};
  if (byte == 0xf4) return {4, 0x80, 0x8f};
  return {0, 0, 0};
}

// How many bytes of a character of `lead` are there, counted from the front; text is not empty.
int matched(std::string_view text, const Lead& lead) {
  int count = 1;
  while (count < lead.length && static_cast<size_t>(count) < text.size()) {
    const auto byte = static_cast<unsigned char>(text[count]);
    const bool fits = count == 1 ? byte >= lead.low && byte <= lead.high : (byte & 0xc0) == 0x80;
    if (!fits) break;
    ++count;
  }
  return count;
}

}  // namespace

int utf8_length(std::string_view text) {
  if (text.empty()) return 0;
  const Lead lead = lead_of(static_cast<unsigned char>(text[0]));
  return lead.length != 0 && matched(text, lead) == lead.length ? lead.length : 0;
}

int utf8_unfinished(std::string_view text) {
  for (int tail = 1; tail <= 3 && static_cast<size_t>(tail) <= text.size(); ++tail) {
    const std::string_view end = text.substr(text.size() - tail);
    const Lead lead = lead_of(static_cast<unsigned char>(end[0]));
    if (lead.length != 0) return lead.length > tail && matched(end, lead) == tail ? tail : 0;
  }
  return 0;
}

size_t utf8_valid_prefix(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    uint64_t eight;
    if (text.size() - at >= sizeof eight) {
      std::memcpy(&eight, text.data() + at, sizeof eight);
      if ((eight & 0x8080808080808080u) == 0) {
        at += sizeof eight;
        continue;
      }
    }
    const int length = utf8_length(text.substr(at));
    if (length == 0) break;
    at += length;
  }
  return at;
}

char32_t utf8_decode(std::string_view text, int length) {
  const auto byte = [&](int i) { return static_cast<unsigned char>(text[i]); };
  if (length == 1) return byte(0);
  char32_t character = byte(0) & (0x7fu >> length);
  for (int i = 1; i < length; ++i) character = character << 6 | (byte(i) & 0x3fu);
  return character;
}

void utf8_append(std::string& out, char32_t character) {
  const auto put = [&](char32_t byte) { out += static_cast<char>(byte); };
  if (character < 0x80) {
    put(character);
  } else if (character < 0x800) {
    put(0xc0 | character >> 6);
    put(0x80 | (character & 0x3f));
  } else if (character < 0x10000) {
    put(0xe0 | character >> 12);
    put(0x80 | (character >> 6 & 0x3f));
    put(0x80 | (character & 0x3f));
  } else {
    put(0xf0 | character >> 18);
    put(0x80 | (character >> 12 & 0x3f));
    put(0x80 | (character >> 6 & 0x3f));
    put(0x80 | (character & 0x3f));
  }
}

}  // namespace pith

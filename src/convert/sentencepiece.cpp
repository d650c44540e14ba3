#include "convert/sentencepiece.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <optional>

#include "base/error.h"

namespace pith {
namespace {

// Field numbers of sentencepiece_model.proto.
constexpr uint32_t kPieces = 1, kTrainer = 2, kNormalizer = 3;
constexpr uint32_t kPieceText = 1, kPieceScore = 2, kPieceType = 3;
constexpr uint32_t kModelType = 3, kUnknownId = 40, kBeginId = 41, kEndId = 42, kPaddingId = 43;
constexpr uint32_t kCharsMap = 2, kDummyPrefix = 3;
constexpr uint64_t kBpe = 2;

// One field of a message. `number` holds varints and the bits of fixed-size fields.
struct Field {
  uint32_t id = 0;
  uint64_t number = 0;
  std::span<const std::byte> bytes;  // of length-delimited fields
};

// The fields of one message in order.
class Message {
 public:
  Message(std::span<const std::byte> bytes, const std::string& name) : rest_(bytes), name_(name) {}

  std::optional<Field> next() {
    if (rest_.empty()) return std::nullopt;
    Field field;
    const uint64_t tag = varint();
    field.id = static_cast<uint32_t>(tag >> 3);
    if (tag >> 3 == 0 || tag >> 3 > 0x1fffffff) fail();
    switch (tag & 7) {
      case 0:
        field.number = varint();
        break;
      case 1:
        field.number = fixed(8);
        break;
      case 2: {
        const uint64_t length = varint();
        if (length > rest_.size()) fail();
        field.bytes = rest_.first(length);
        rest_ = rest_.subspan(length);
        break;
      }
      case 5:
        field.number = fixed(4);
        break;
      default:
        fail();
    }
    return field;
  }

  [[noreturn]] void fail() const {
    throw Error(Errc::bad_file, name_ + ": is no SentencePiece model, or it is damaged");
  }

 private:
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (rest_.empty()) fail();
      const auto byte = static_cast<uint8_t>(rest_[0]);
      rest_ = rest_.subspan(1);
      value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    fail();
  }
  uint64_t fixed(size_t bytes) {
    if (bytes > rest_.size()) fail();
    uint64_t value = 0;
    std::memcpy(&value, rest_.data(), bytes);
    rest_ = rest_.subspan(bytes);
    return value;
  }

  std::span<const std::byte> rest_;
  const std::string& name_;
};

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

void add_piece(Vocabulary& v, Message piece) {
  std::string text;
  float score = 0;
  uint64_t type = 1;
  while (const std::optional<Field> field = piece.next()) {
    if (field->id == kPieceText) text = text_of(field->bytes);
    if (field->id == kPieceScore)
      score = std::bit_cast<float>(static_cast<uint32_t>(field->number));
    if (field->id == kPieceType) type = field->number;
  }
  // Their numbers for the kinds of pieces are GGUF's.
  if (type < 1 || type > 6 || !std::isfinite(score) || text.empty()) piece.fail();
  const auto kind = static_cast<TokenKind>(type);
  if (kind == TokenKind::user_defined)
    add_token(v, v.size(), std::move(text), false);
  else
    v.set(v.size(), std::move(text), kind, score);
}

}  // namespace

bool looks_like_sentencepiece(std::span<const std::byte> bytes) {
  return !bytes.empty() && bytes[0] == std::byte{kPieces << 3 | 2};
}

Vocabulary read_sentencepiece(std::span<const std::byte> bytes, const std::string& name,
                              Monitor& monitor) {
  Vocabulary v;
  v.model = "llama";
  v.add_begin = v.add_space_prefix = true;
  v.unknown = 0;
  v.begin = 1;
  v.end = 2;
  uint64_t model_type = 1;
  bool normalises = false;
  Message model(bytes, name);
  while (const std::optional<Field> field = model.next()) {
    Message part(field->bytes, name);
    if (field->id == kPieces) {
      add_piece(v, part);
    } else if (field->id == kTrainer) {
      const auto id = [](uint64_t number) { return static_cast<int32_t>(number); };  // -1: none
      while (const std::optional<Field> setting = part.next()) {
        if (setting->id == kModelType) model_type = setting->number;
        if (setting->id == kUnknownId) v.unknown = id(setting->number);
        if (setting->id == kBeginId) v.begin = id(setting->number);
        if (setting->id == kEndId) v.end = id(setting->number);
        if (setting->id == kPaddingId) v.padding = id(setting->number);
      }
    } else if (field->id == kNormalizer) {
      while (const std::optional<Field> setting = part.next()) {
        if (setting->id == kDummyPrefix) v.add_space_prefix = setting->number != 0;
        if (setting->id == kCharsMap) normalises = !setting->bytes.empty();
      }
    }
  }
  if (v.size() == 0) model.fail();
  if (model_type != kBpe)
    throw Error(
        Errc::unsupported,
        name + ": is a SentencePiece model of another kind than BPE, which is not supported");
  for (int32_t* id : {&v.unknown, &v.begin, &v.end, &v.padding})
    if (*id >= v.size()) *id = -1;
  if (normalises)
    monitor.warn(name +
                 ": normalises text before splitting it, which is not done here; unusual "
                 "characters may become other tokens than in training");
  return v;
}

}  // namespace pith

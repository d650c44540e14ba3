#include "gguf/names.h"

#include <array>

namespace pith {
namespace {

constexpr std::array<std::string_view, 13> kTypeWords = {
    "an unsigned byte",
    "a byte",
    "an unsigned integer",
    "an integer",
    "an unsigned integer",
    "an integer",
    "a number",
    "a boolean",
    "a string",
    "an array",
    "an unsigned integer",
    "an integer",
    "a number",
};
constexpr std::array<std::string_view, 13> kTypeNames = {
    "u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"};

// Formats other engines write and this one does not read.
struct ForeignFormat {
  uint32_t type;
  std::string_view name;
};
constexpr ForeignFormat kForeign[] = {
    {4, "Q4_2"},    {5, "Q4_3"},     {9, "Q8_1"},   {15, "Q8_K"},  {16, "IQ2_XXS"},
    {17, "IQ2_XS"}, {18, "IQ3_XXS"}, {19, "IQ1_S"}, {21, "IQ3_S"}, {22, "IQ2_S"},
    {24, "I8"},     {25, "I16"},     {26, "I32"},   {27, "I64"},   {28, "F64"},
    {29, "IQ1_M"},  {34, "TQ1_0"},   {35, "TQ2_0"}, {39, "MXFP4"},
};

}  // namespace

std::string shown_name(std::string_view name) {
  constexpr size_t kShown = 80;
  static constexpr char kHex[] = "0123456789abcdef";
  std::string out = "'";
  for (const char c : name.substr(0, kShown)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7f) {
      out += c;
    } else {
      out += "\\x";
      out += kHex[byte >> 4];
      out += kHex[byte & 15];
    }
  }
  if (name.size() > kShown) out += "...";
  return out + "'";
}

std::string type_words(const GgufEntry& entry) {
  const auto index = static_cast<size_t>(entry.type);
  if (entry.type != GgufType::array) {
    std::string words(kTypeWords[index]);
    if (entry.type != GgufType::string && entry.type != GgufType::boolean)
      words += " (" + std::string(kTypeNames[index]) + ")";
    return words;
  }
  return "an array of " + std::to_string(entry.count) + " " +
         std::string(kTypeNames[static_cast<size_t>(entry.element)]);
}

std::string foreign_format_name(uint32_t gguf_type) {
  for (const ForeignFormat& f : kForeign)
    if (f.type == gguf_type) return std::string(f.name);
  return "number " + std::to_string(gguf_type);
}

std::string supported_format_names() {
  std::string names;
  for (uint32_t type = 0; type < 256; ++type) {
    if (!known(type)) continue;
    if (!names.empty()) names += ", ";
    names += traits(static_cast<DType>(type)).name;
  }
  return names;
}

}  // namespace pith

#include "convert/geometry.h"

#include <array>
#include <string>

#include "base/error.h"
#include "convert/synthesize.h"

namespace pith {
namespace {

constexpr std::string_view kNames[] = {"llama-3.2-1b", "qwen2.5-0.5b", "llama-3.1-8b", "tiny"};

// Llama 3.x: rotation scaled from 8,192 positions.
Geometry llama3(std::string_view name, double factor) {
  Geometry g;
  HfConfig& c = g.config;
  c.arch = "llama";
  c.name = "random weights of the shape of " + std::string(name);
  c.vocab = 128256;
  c.context = 131072;
  c.norm_eps = 1e-5;
  c.rope_base = 500000;
  c.scaling = RopeScaling::llama3;
  c.scaling_factor = factor;
  c.original_context = 8192;
  c.low_factor = 1;
  c.high_factor = 4;
  g.specials = 256;
  return g;
}

void set_shape(HfConfig& c, int64_t layers, int64_t width, int64_t query_heads, int64_t heads,
               int64_t dim, int64_t ffn_width) {
  c.layers = layers;
  c.width = width;
  c.query_heads = query_heads;
  c.heads = heads;
  c.dim = dim;
  c.ffn_width = ffn_width;
}

// How byte-level vocabularies write a byte: printable Latin-1 as itself, the others as U+0100 and
// on, in UTF-8.
std::array<std::string, 256> byte_texts() {
  std::array<std::string, 256> texts;
  uint32_t next = 0x100;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte != 0xad);
    const uint32_t point = printable ? byte : next++;
    if (point < 0x80)
      texts[byte] = {static_cast<char>(point)};
    else
      texts[byte] = {static_cast<char>(0xc0 | point >> 6), static_cast<char>(0x80 | (point & 63))};
  }
  return texts;
}

}  // namespace

std::vector<std::string_view> geometry_names() {
  return {std::begin(kNames), std::end(kNames)};
}

Geometry find_geometry(std::string_view name) {
  if (name == "llama-3.2-1b") {
    Geometry g = llama3(name, 32);
    set_shape(g.config, 16, 2048, 32, 8, 64, 8192);
    g.config.tied = true;
    return g;
  }
  if (name == "llama-3.1-8b") {
    Geometry g = llama3(name, 8);
    set_shape(g.config, 32, 4096, 32, 8, 128, 14336);
    return g;
  }
  if (name == "tiny") {
    Geometry g = llama3(name, 8);
    set_shape(g.config, 4, 256, 4, 2, 64, 512);
    g.config.name = "tiny random weights";
    g.config.vocab = 1024;
    g.config.tied = true;
    g.specials = 16;
    return g;
  }
  if (name == "qwen2.5-0.5b") {
    Geometry g;
    HfConfig& c = g.config;
    set_shape(c, 24, 896, 14, 2, 64, 4864);
    c.arch = "qwen2";
    c.name = "random weights of the shape of qwen2.5-0.5b";
    c.vocab = 151936;
    c.context = 32768;
    c.norm_eps = 1e-6;
    c.rope_base = 1e6;
    c.tied = true;
    g.qkv_bias = true;
    g.specials = 293;
    return g;
  }
  std::string known;
  for (const std::string_view n : kNames) known += (known.empty() ? "" : ", ") + std::string(n);
  throw Error(Errc::bad_option, "no geometry '" + std::string(name) + "'; there are " + known);
}

Vocabulary geometry_vocabulary(const Geometry& geometry) {
  const auto size = static_cast<int32_t>(geometry.config.vocab);
  const int32_t first_special = size - geometry.specials;
  const bool llama = geometry.config.arch == "llama";
  Vocabulary v;
  v.model = "gpt2";
  v.pre = llama ? "llama-bpe" : "qwen2";
  const std::array<std::string, 256> bytes = byte_texts();
  for (const std::string& text : bytes) v.set(v.size(), text, TokenKind::normal);
  const auto merge = [&](const std::string& left, const std::string& right) {
    if (v.size() >= first_special) return;
    v.merges.push_back(left + " " + right);
    v.set(v.size(), left + right, TokenKind::normal);
  };
  const std::string& space = bytes[' '];
  for (char a = 'a'; a <= 'z'; ++a) merge(space, {a});
  for (char a = 'a'; a <= 'z'; ++a)
    for (char b = 'a'; b <= 'z'; ++b) merge({a}, {b});
  for (char a = 'a'; a <= 'z'; ++a)
    for (char b = 'a'; b <= 'z'; ++b) merge(space + a, {b});
  for (int32_t id = v.size(); id < first_special; ++id)
    v.set(id, "[unused" + std::to_string(id) + "]", TokenKind::unused);

  for (int32_t i = 0; i < geometry.specials; ++i)
    v.set(first_special + i, "<|reserved_special_token_" + std::to_string(i) + "|>",
          TokenKind::control);
  const auto special = [&](int32_t i, const char* text) {
    v.set(first_special + i, text, TokenKind::control);
    return first_special + i;
  };
  if (llama) {
    v.begin = special(0, "<|begin_of_text|>");
    v.end = special(1, "<|end_of_text|>");
    special(6, "<|start_header_id|>");
    special(7, "<|end_header_id|>");
    v.end_of_turn = special(9, "<|eot_id|>");
    v.add_begin = true;
  } else {
    v.begin = v.padding = special(0, "<|endoftext|>");
    special(1, "<|im_start|>");
    v.end = v.end_of_turn = special(2, "<|im_end|>");
  }
  return v;
}

}  // namespace pith

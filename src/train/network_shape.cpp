#include "train/network_shape.h"

#include <algorithm>

#include "base/error.h"

namespace pith {

void check_shape(const NetworkShape& s) {
  const auto require = [](bool good, const char* name, const char* why) {
    if (!good) throw Error(Errc::bad_option, std::string("model: '") + name + "' " + why);
  };
  require(s.layers >= 1 && s.layers <= 256, "layers", "must be between 1 and 256");
  require(s.width >= 32 && s.width <= 16384 && s.width % 32 == 0, "width",
          "must be a multiple of 32 up to 16384");
  require(s.heads >= 1 && s.heads <= 256, "heads", "must be between 1 and 256");
  require(s.query_heads >= s.heads && s.query_heads % s.heads == 0 && s.query_heads <= 1024,
          "query_heads", "must be a multiple of 'heads' up to 1024");
  require(s.dim >= 8 && s.dim <= 256 && s.dim % 8 == 0, "head_dim",
          "must be a multiple of 8 up to 256");
  require(s.query_heads * s.dim % 32 == 0, "head_dim",
          "times 'query_heads' must be a multiple of 32, the block of Q8_0");
  require(s.ffn_width >= 32 && s.ffn_width <= 65536 && s.ffn_width % 32 == 0, "feed_forward",
          "must be a multiple of 32 up to 65536");
  require(s.context >= 16 && s.context <= 1 << 20, "context", "must be between 16 and 1048576");
  require(s.rope_base > 1, "rope_base", "must be more than 1");
  require(s.norm_eps > 0, "norm_eps", "must be positive");
}

ParameterLayout::ParameterLayout(const NetworkShape& s) {
  add("token_embd.weight", s.vocab, s.width);
  for (int l = 0; l < s.layers; ++l) {
    const std::string block = "blk." + std::to_string(l) + ".";
    add(block + "attn_norm.weight", 1, s.width, true);
    add(block + "attn_q.weight", int64_t{s.query_heads} * s.dim, s.width);
    add(block + "attn_k.weight", int64_t{s.heads} * s.dim, s.width);
    add(block + "attn_v.weight", int64_t{s.heads} * s.dim, s.width);
    add(block + "attn_output.weight", s.width, int64_t{s.query_heads} * s.dim);
    add(block + "ffn_norm.weight", 1, s.width, true);
    add(block + "ffn_gate.weight", s.ffn_width, s.width);
    add(block + "ffn_up.weight", s.ffn_width, s.width);
    add(block + "ffn_down.weight", s.width, s.ffn_width);
  }
  add("output_norm.weight", 1, s.width, true);
  add("output.weight", s.vocab, s.width);
}

void ParameterLayout::add(std::string name, int64_t rows, int64_t cols, bool vector) {
  all_.push_back({std::move(name), rows, cols, size_, vector});
  size_ += rows * cols;
}

const Parameter& ParameterLayout::find(std::string_view name) const {
  const auto found = std::ranges::find(all_, name, [](const Parameter& p) { return p.name; });
  PITH_CHECK(found != all_.end(), "a parameter is looked up by a name of the architecture");
  return *found;
}

const Parameter& ParameterLayout::of_layer(int layer, std::string_view name) const {
  return find("blk." + std::to_string(layer) + "." + std::string(name) + ".weight");
}

}  // namespace pith

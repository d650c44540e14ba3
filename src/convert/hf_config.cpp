#include "convert/hf_config.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numbers>

#include "base/error.h"
#include "convert/json_file.h"
#include "gguf/names.h"

namespace pith {
namespace {

constexpr int64_t kMaxLayers = 4096, kMaxWidth = 1 << 20, kMaxHeads = 4096, kMaxDim = 1024,
                  kMaxFfn = 1 << 24, kMaxVocab = 1 << 24, kMaxContext = int64_t{1} << 30;

[[noreturn]] void unsupported(const JsonView& c, const std::string& what) {
  throw Error(Errc::unsupported, c.file() + ": " + what);
}

void require(const JsonView& c, const std::string& key, const std::string& wanted) {
  const std::string is = c.text(key, wanted);
  if (is != wanted)
    unsupported(
        c, "'" + key + "' is " + shown_name(is) + ", which is not supported; '" + wanted + "' is");
}

void refuse_if_set(const JsonView& c, const std::string& key) {
  if (!c.has(key)) return;
  const nlohmann::json& value = c.at(key);
  const bool off =
      (value.is_boolean() && !value.get<bool>()) || (value.is_number() && value.get<double>() == 0);
  if (!off) unsupported(c, "'" + key + "' is set, which is not supported");
}

std::string architecture(const JsonView& c) {
  static constexpr std::pair<const char*, const char*> kKnown[] = {
      {"LlamaForCausalLM", "llama"},   {"MistralForCausalLM", "llama"},
      {"Qwen2ForCausalLM", "qwen2"},   {"Qwen3ForCausalLM", "qwen3"},
      {"Gemma2ForCausalLM", "gemma2"}, {"Gemma3ForCausalLM", "gemma3"},
      {"MPTForCausalLM", "mpt"},       {"MptForCausalLM", "mpt"}};
  const nlohmann::json& names = c.at("architectures");
  if (!names.is_array() || names.empty() || !names[0].is_string())
    c.fail("architectures", "is not a list of names");
  const std::string name = names[0].get<std::string>();
  for (const auto& [known, arch] : kKnown)
    if (name == known) return arch;
  unsupported(c,
              "architecture " + shown_name(name) +
                  " cannot be converted; Llama, Mistral, Qwen2, Qwen3, Gemma2, Gemma3 (text) and "
                  "MPT for causal language modelling can");
}

// YaRN's correction of the attention logits (arXiv:2309.00071, section 3.4).
double yarn_magnitude(double factor, double weight = 1) {
  return factor <= 1 ? 1 : 0.1 * weight * std::log(factor) + 1;
}

void read_yarn(const JsonView& scaling, HfConfig& out) {
  if (!scaling.boolean("truncate", true))
    unsupported(scaling, "'rope_scaling.truncate' is false, which is not supported");
  out.beta_fast = scaling.number("beta_fast", 32);
  out.beta_slow = scaling.number("beta_slow", 1);
  if (out.beta_fast <= 0 || out.beta_slow <= 0)
    scaling.fail("beta_fast", "and beta_slow must be positive");
  const double own = yarn_magnitude(out.scaling_factor);
  double wanted = own;
  if (scaling.has("attention_factor")) {
    wanted = scaling.number("attention_factor");
  } else if (scaling.number("mscale", 0) != 0 && scaling.number("mscale_all_dim", 0) != 0) {
    wanted = yarn_magnitude(out.scaling_factor, scaling.number("mscale")) /
             yarn_magnitude(out.scaling_factor, scaling.number("mscale_all_dim"));
  }
  if (!(wanted > 0)) scaling.fail("attention_factor", "must be positive");
  out.attention_factor = wanted / own;
}

void read_scaling(const JsonView& scaling, HfConfig& out) {
  const std::string type = scaling.text("rope_type", scaling.text("type", "default"));
  if (type == "default" || type == "none") return;
  out.original_context =
      scaling.integer("original_max_position_embeddings", 1, kMaxContext, out.context);
  out.scaling_factor = scaling.has("factor") || type == "linear"
                           ? scaling.number("factor")
                           : static_cast<double>(out.context) / out.original_context;
  if (out.scaling_factor <= 0) scaling.fail("factor", "must be positive");
  if (type == "linear") {
    out.scaling = RopeScaling::linear;
  } else if (type == "llama3") {
    out.scaling = RopeScaling::llama3;
    out.low_factor = scaling.number("low_freq_factor");
    out.high_factor = scaling.number("high_freq_factor");
    if (!(out.low_factor > 0 && out.high_factor > out.low_factor))
      scaling.fail("high_freq_factor", "must be larger than low_freq_factor, and both positive");
  } else if (type == "yarn") {
    out.scaling = RopeScaling::yarn;
    read_yarn(scaling, out);
  } else {
    unsupported(scaling, "rope scaling " + shown_name(type) +
                             " is not supported; linear, llama3 and yarn are");
  }
}

// Two spellings: rope_theta and rope_scaling, or everything under rope_parameters, where gemma3
// has one entry for global and one for sliding layers.
void read_rope(const JsonView& c, HfConfig& out) {
  const double usual = out.arch == "gemma3" ? 1e6 : 10000;
  if (c.number("partial_rotary_factor", 1) != 1)
    unsupported(c, "'partial_rotary_factor' other than 1 is not supported");
  out.local_rope_base = c.number("rope_local_base_freq", 10000);
  if (c.has("rope_parameters")) {
    JsonView rope = c.object("rope_parameters");
    if (rope.has("sliding_attention"))
      out.local_rope_base = rope.object("sliding_attention").number("rope_theta", 10000);
    if (rope.has("full_attention")) rope = rope.object("full_attention");
    out.rope_base = rope.number("rope_theta", c.number("rope_theta", usual));
    read_scaling(rope, out);
  } else {
    out.rope_base = c.number("rope_theta", usual);
    if (c.has("rope_scaling")) read_scaling(c.object("rope_scaling"), out);
  }
  if (out.rope_base <= 1 || out.local_rope_base <= 1) c.fail("rope_theta", "must be larger than 1");
}

// The period of gemma's layers: all but each last one slide. From layer_types if it is there.
void read_windows(const JsonView& c, HfConfig& out) {
  const int64_t own = out.arch == "gemma2" ? 2 : 6;
  out.window_pattern = c.integer("sliding_window_pattern", 1, kMaxLayers,
                                 c.integer("_sliding_window_pattern", 1, kMaxLayers, own));
  if (c.has("layer_types")) {
    const nlohmann::json& types = c.at("layer_types");
    if (!types.is_array() || types.size() != static_cast<size_t>(out.layers))
      c.fail("layer_types", "is not a list of one type per layer");
    const auto first = std::ranges::find(types, nlohmann::json("full_attention"));
    out.window_pattern = first - types.begin() + 1;
    for (int64_t l = 0; l < out.layers; ++l) {
      const bool global = (l + 1) % out.window_pattern == 0;
      if (types[static_cast<size_t>(l)] != (global ? "full_attention" : "sliding_attention"))
        unsupported(c, "'layer_types' is not a repeated run of sliding layers and a global one");
    }
  }
  out.window = out.window_pattern == 1 ? 0 : c.integer("sliding_window", 0, kMaxContext, 4096);
  if (out.window_pattern == own) out.window_pattern = 0;
}

void read_transformer(const JsonView& c, HfConfig& out) {
  const bool gemma3 = out.arch == "gemma3";  // whose files leave out defaults
  out.width = c.integer("hidden_size", 1, kMaxWidth);
  out.layers = c.integer("num_hidden_layers", 1, kMaxLayers);
  out.ffn_width = c.integer("intermediate_size", 1, kMaxFfn);
  out.query_heads = gemma3 ? c.integer("num_attention_heads", 1, kMaxHeads, 8)
                           : c.integer("num_attention_heads", 1, kMaxHeads);
  out.heads = c.integer("num_key_value_heads", 1, kMaxHeads, gemma3 ? 4 : out.query_heads);
  if (!out.gemma() && !c.has("head_dim") && out.width % out.query_heads != 0)
    c.fail("num_attention_heads", "does not divide the hidden size");
  out.dim = c.integer("head_dim", 1, kMaxDim, out.gemma() ? 256 : out.width / out.query_heads);
  out.vocab = c.integer("vocab_size", 1, kMaxVocab);
  out.context = c.integer("max_position_embeddings", 1, kMaxContext, gemma3 ? 131072 : 2048);
  out.norm_eps = c.number("rms_norm_eps", 1e-6);
  out.tied = c.boolean("tie_word_embeddings", out.gemma());
  refuse_if_set(c, "mlp_bias");
  refuse_if_set(c, "use_bidirectional_attention");
  read_rope(c, out);
  if (out.gemma()) {
    require(c, "hidden_activation", "gelu_pytorch_tanh");
    out.attention_softcap = c.number("attn_logit_softcapping", 0);
    out.logit_softcap = c.number("final_logit_softcapping", 0);
    const double scalar = c.number("query_pre_attn_scalar", static_cast<double>(out.dim));
    if (!(scalar > 0)) c.fail("query_pre_attn_scalar", "must be positive");
    if (scalar != static_cast<double>(out.dim)) out.attention_scale = 1 / std::sqrt(scalar);
    read_windows(c, out);
  } else {
    require(c, "hidden_act", "silu");
    if (out.arch == "llama") {  // Mistral's first release; every layer slides
      out.window = c.integer("sliding_window", 0, kMaxContext, 0);
    } else if (c.boolean("use_sliding_window", false)) {
      unsupported(c, "'use_sliding_window' is true, which is not supported for " + out.arch);
    }
  }
}

void read_mpt(const JsonView& c, HfConfig& out) {
  out.width = c.integer("d_model", 1, kMaxWidth);
  out.layers = c.integer("n_layers", 1, kMaxLayers);
  out.query_heads = c.integer("n_heads", 1, kMaxHeads);
  out.ffn_width = out.width * c.integer("expansion_ratio", 1, 64, 4);
  out.vocab = c.integer("vocab_size", 1, kMaxVocab);
  out.context = c.integer("max_seq_len", 1, kMaxContext);
  out.norm_eps = c.number("layer_norm_epsilon", 1e-5);
  out.tied = c.boolean("tie_word_embeddings", true);
  if (!c.boolean("no_bias", true)) unsupported(c, "'no_bias' is false, which is not supported");
  refuse_if_set(c, "logit_scale");
  if (out.width % out.query_heads != 0) c.fail("n_heads", "does not divide d_model");
  out.dim = out.width / out.query_heads;
  out.heads = out.query_heads;
  if (!c.has("attn_config"))
    unsupported(c, "without 'attn_config.alibi' an MPT model is not supported");
  const JsonView attention = c.object("attn_config");
  const std::string type = attention.text("attn_type", "multihead_attention");
  if (type == "multiquery_attention")
    out.heads = 1;
  else if (type != "multihead_attention" || attention.has("kv_n_heads"))
    out.heads = attention.integer("kv_n_heads", 1, out.query_heads);
  if (!attention.boolean("alibi", false))
    unsupported(c, "'attn_config.alibi' is not true; MPT with learned positions is not supported");
  refuse_if_set(attention, "qk_ln");
  refuse_if_set(attention, "qk_gn");
  refuse_if_set(attention, "rope");
  refuse_if_set(attention, "prefix_lm");
  out.alibi_bias = attention.number("alibi_bias_max", 8);
  out.clamp_qkv = attention.number("clip_qkv", 0);
  out.attention_scale = attention.number("softmax_scale", 0);
  if (!(out.alibi_bias > 0) || out.clamp_qkv < 0 || out.attention_scale < 0)
    attention.fail("alibi_bias_max",
                   "must be positive, and clip_qkv and softmax_scale not negative");
}

}  // namespace

HfConfig read_hf_config(const std::string& folder) {
  const std::filesystem::path path = std::filesystem::path(folder) / "config.json";
  const JsonView c = JsonView::read(path.string(), size_t{16} << 20);
  HfConfig out;
  out.file = path.string();
  out.arch = architecture(c);
  std::filesystem::path base = std::filesystem::absolute(folder).lexically_normal();
  if (base.filename().empty()) base = base.parent_path();
  out.name = base.filename().string();
  refuse_if_set(c, "quantization_config");
  if (out.arch == "mpt")
    read_mpt(c, out);
  else
    read_transformer(c, out);
  if (out.query_heads % out.heads != 0)
    c.fail("num_key_value_heads", "does not divide the number of attention heads");
  if (out.dim % 8 != 0)
    unsupported(c, "heads of " + std::to_string(out.dim) +
                       " dimensions are not supported; multiples of 8 are");
  if (!(out.norm_eps > 0)) c.fail("rms_norm_eps", "must be positive");
  if (out.attention_softcap < 0 || out.logit_softcap < 0)
    c.fail("attn_logit_softcapping", "and final_logit_softcapping must not be negative");
  return out;
}

std::vector<float> HfConfig::rope_divisors() const {
  if (scaling != RopeScaling::llama3) return {};
  std::vector<float> divisors;
  for (int64_t pair = 0; pair < dim / 2; ++pair) {
    const double wave =
        2 * std::numbers::pi *
        std::pow(rope_base, 2 * static_cast<double>(pair) / static_cast<double>(dim));
    const double turns = static_cast<double>(original_context) / wave;
    // Kept below wavelengths of original / high, divided above original / low, blended between.
    const double keep = std::clamp((turns - low_factor) / (high_factor - low_factor), 0.0, 1.0);
    divisors.push_back(static_cast<float>(1 / ((1 - keep) / scaling_factor + keep)));
  }
  return divisors;
}

void write_hf_config(GgufWriter& out, const HfConfig& c) {
  const auto u32 = [&](const char* key, int64_t value) {
    out.set_u32(c.arch + "." + key, static_cast<uint32_t>(value));
  };
  const auto f32 = [&](const char* key, double value) {
    out.set_f32(c.arch + "." + key, static_cast<float>(value));
  };
  out.set_text("general.architecture", c.arch);
  out.set_text("general.name", c.name);
  u32("context_length", c.context);
  u32("embedding_length", c.width);
  u32("block_count", c.layers);
  u32("feed_forward_length", c.ffn_width);
  u32("vocab_size", c.vocab);
  u32("attention.head_count", c.query_heads);
  u32("attention.head_count_kv", c.heads);
  u32("attention.key_length", c.dim);
  u32("attention.value_length", c.dim);
  if (c.attention_scale > 0) f32("attention.scale", c.attention_scale);
  if (c.logit_softcap > 0) f32("final_logit_softcapping", c.logit_softcap);
  if (c.arch == "mpt") {
    f32("attention.layer_norm_epsilon", c.norm_eps);
    f32("attention.max_alibi_bias", c.alibi_bias);
    if (c.clamp_qkv > 0) f32("attention.clamp_kqv", c.clamp_qkv);
    return;
  }
  f32("attention.layer_norm_rms_epsilon", c.norm_eps);
  if (c.attention_softcap > 0) f32("attn_logit_softcapping", c.attention_softcap);
  if (c.window > 0) u32("attention.sliding_window", c.window);
  if (c.window_pattern > 0) u32("attention.sliding_window_pattern", c.window_pattern);
  u32("rope.dimension_count", c.dim);
  f32("rope.freq_base", c.rope_base);
  if (c.arch == "gemma3") f32("rope.freq_base_swa", c.local_rope_base);
  if (c.scaling == RopeScaling::linear || c.scaling == RopeScaling::yarn) {
    const bool yarn = c.scaling == RopeScaling::yarn;
    out.set_text(c.arch + ".rope.scaling.type", yarn ? "yarn" : "linear");
    f32("rope.scaling.factor", c.scaling_factor);
    if (!yarn) return;
    u32("rope.scaling.original_context_length", c.original_context);
    f32("rope.scaling.yarn_beta_fast", c.beta_fast);
    f32("rope.scaling.yarn_beta_slow", c.beta_slow);
    if (std::fabs(c.attention_factor - 1) > 1e-6)
      f32("rope.scaling.attn_factor", c.attention_factor);
  }
}

}  // namespace pith

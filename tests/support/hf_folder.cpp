#include "support/hf_folder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "gguf/gguf.h"
#include "tensor/codec.h"
#include "tensor/half.h"

namespace pith::test {
namespace {

using nlohmann::json;

std::string varint(uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  return out + static_cast<char>(value);
}
std::string number_field(int id, uint64_t value) {
  return varint(static_cast<uint64_t>(id) << 3) + varint(value);
}
std::string bytes_field(int id, const std::string& bytes) {
  return varint(static_cast<uint64_t>(id) << 3 | 2) + varint(bytes.size()) + bytes;
}

template <class T>
void append(std::string& to, T value) {
  to.append(reinterpret_cast<const char*>(&value), sizeof value);
}

std::string coded(const std::vector<float>& values, const std::string& dtype) {
  std::string out;
  for (const float x : values) {
    if (dtype == "F64")
      append(out, static_cast<double>(x));
    else if (dtype == "F16")
      append(out, float_to_half(x));
    else if (dtype == "BF16")
      append(out, float_to_bf16(x));
    else
      append(out, x);
  }
  return out;
}

// "blk.3.attn_q.weight" -> "model.layers.3.self_attn.q_proj.weight"
std::string hf_name(const TinyModel& m, const std::string& name) {
  const bool gemma = m.arch == "gemma2" || m.arch == "gemma3", mpt = m.arch == "mpt";
  const auto from_table = [](const std::string& key,
                             const std::vector<std::array<const char*, 2>>& t) {
    for (const auto& [from, to] : t)
      if (key == from) return std::string(to);
    return std::string();
  };
  if (!name.starts_with("blk."))
    return from_table(
        name, {{"token_embd.weight", mpt ? "transformer.wte.weight" : "model.embed_tokens.weight"},
               {"output_norm.weight", mpt ? "transformer.norm_f.weight" : "model.norm.weight"},
               {"output.weight", "lm_head.weight"}});
  const size_t dot = name.find('.', 4), end = name.rfind('.');
  const std::string layer = name.substr(4, dot - 4), part = name.substr(dot + 1, end - dot - 1);
  if (mpt)
    return "transformer.blocks." + layer + "." +
           from_table(part, {{"attn_norm", "norm_1"},
                             {"attn_qkv", "attn.Wqkv"},
                             {"attn_output", "attn.out_proj"},
                             {"ffn_norm", "norm_2"},
                             {"ffn_up", "ffn.up_proj"},
                             {"ffn_down", "ffn.down_proj"}}) +
           name.substr(end);
  return "model.layers." + layer + "." +
         from_table(part,
                    {{"attn_norm", "input_layernorm"},
                     {"attn_q", "self_attn.q_proj"},
                     {"attn_k", "self_attn.k_proj"},
                     {"attn_v", "self_attn.v_proj"},
                     {"attn_output", "self_attn.o_proj"},
                     {"attn_q_norm", "self_attn.q_norm"},
                     {"attn_k_norm", "self_attn.k_norm"},
                     {"ffn_norm", gemma ? "pre_feedforward_layernorm" : "post_attention_layernorm"},
                     {"post_attention_norm", "post_attention_layernorm"},
                     {"post_ffw_norm", "post_feedforward_layernorm"},
                     {"ffn_gate", "mlp.gate_proj"},
                     {"ffn_up", "mlp.up_proj"},
                     {"ffn_down", "mlp.down_proj"}}) +
         name.substr(end);
}

}  // namespace

std::string safetensors_bytes(const std::vector<SafeEntry>& entries) {
  json table;
  std::string data;
  for (const SafeEntry& e : entries) {
    table[e.name] = {{"dtype", e.dtype},
                     {"shape", e.shape},
                     {"data_offsets", {data.size(), data.size() + e.data.size()}}};
    data += e.data;
  }
  const std::string header = table.dump();
  std::string out;
  append(out, uint64_t{header.size()});
  return out + header + data;
}

void write_file(const std::string& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

std::string read_file(const std::string& path) {
  std::ostringstream out;
  out << std::ifstream(path, std::ios::binary).rdbuf();
  return out.str();
}

std::vector<std::string> files_in(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    names.push_back(entry.path().filename().string());
  std::ranges::sort(names);
  return names;
}

std::string sentencepiece_bytes(const std::vector<Piece>& pieces, bool dummy_prefix,
                                int model_type) {
  std::string out;
  for (const Piece& p : pieces) {
    std::string piece = bytes_field(1, p.text) + varint(2 << 3 | 5);
    append(piece, p.score);
    out += bytes_field(1, piece + number_field(3, static_cast<uint64_t>(p.kind)));
  }
  const auto trainer = number_field(3, static_cast<uint64_t>(model_type)) + number_field(41, 1) +
                       number_field(43, ~uint64_t{0});  // pad_id: -1
  return out + bytes_field(2, trainer) + bytes_field(3, number_field(3, dummy_prefix));
}

json hf_config(const TinyModel& m) {
  json c;
  if (m.arch == "mpt") {
    json attention = {{"alibi", true}, {"alibi_bias_max", m.alibi_bias}};
    attention["clip_qkv"] = m.clamp_qkv > 0 ? json(m.clamp_qkv) : json();
    if (m.heads != m.query_heads) {
      attention["attn_type"] = "grouped_query_attention";
      attention["kv_n_heads"] = m.heads;
    }
    return {{"architectures", {"MPTForCausalLM"}},
            {"d_model", m.width},
            {"n_layers", m.layers},
            {"n_heads", m.query_heads},
            {"max_seq_len", m.context},
            {"vocab_size", m.vocab},
            {"expansion_ratio", m.ffn_width / m.width},
            {"attn_config", attention},
            {"no_bias", true},
            {"tie_word_embeddings", m.tied}};
  }
  const bool gemma = m.arch == "gemma2" || m.arch == "gemma3";
  const char* name = m.arch == "qwen2"    ? "Qwen2ForCausalLM"
                     : m.arch == "qwen3"  ? "Qwen3ForCausalLM"
                     : m.arch == "gemma2" ? "Gemma2ForCausalLM"
                     : m.arch == "gemma3" ? "Gemma3ForCausalLM"
                     : m.window > 0       ? "MistralForCausalLM"
                                          : "LlamaForCausalLM";
  c = {{"architectures", {name}},
       {"hidden_size", m.width},
       {"num_hidden_layers", m.layers},
       {"num_attention_heads", m.query_heads},
       {"num_key_value_heads", m.heads},
       {"head_dim", m.dim},
       {"intermediate_size", m.ffn_width},
       {"vocab_size", m.vocab},
       {"max_position_embeddings", m.context},
       {"rms_norm_eps", m.arch == "llama" ? 1e-5 : 1e-6},
       {"rope_theta", m.rope_base},
       {"tie_word_embeddings", m.tied}};
  c[gemma ? "hidden_activation" : "hidden_act"] = gemma ? "gelu_pytorch_tanh" : "silu";
  if (m.window > 0) c["sliding_window"] = m.window;
  if (m.window_pattern > 0) c["sliding_window_pattern"] = m.window_pattern;
  if (m.local_rope_base > 0) c["rope_local_base_freq"] = m.local_rope_base;
  if (m.attention_scale > 0) c["query_pre_attn_scalar"] = std::pow(m.attention_scale, -2);
  if (m.attention_softcap > 0) c["attn_logit_softcapping"] = m.attention_softcap;
  if (m.logit_softcap > 0) c["final_logit_softcapping"] = m.logit_softcap;
  if (m.scaling == TinyScaling::linear)
    c["rope_scaling"] = {{"type", "linear"}, {"factor", m.scaling_factor}};
  if (m.scaling == TinyScaling::llama3)
    c["rope_scaling"] = {{"rope_type", "llama3"},
                         {"factor", m.scaling_factor},
                         {"low_freq_factor", 1},
                         {"high_freq_factor", 4},
                         {"original_max_position_embeddings", m.original_context}};
  if (m.scaling == TinyScaling::yarn) {
    c["rope_scaling"] = {{"rope_type", "yarn"},
                         {"factor", m.scaling_factor},
                         {"original_max_position_embeddings", m.original_context}};
    if (m.yarn_attention > 0)
      c["rope_scaling"]["attention_factor"] =
          m.yarn_attention * (1 + 0.1 * std::log(m.scaling_factor));
  }
  return c;
}

std::vector<SafeEntry> hf_weights(const TinyModel& m, const std::string& gguf,
                                  const std::string& dtype) {
  const auto file = GgufFile::open(gguf);
  std::vector<SafeEntry> entries;
  for (const GgufTensor& t : file->tensors()) {
    const std::string name(t.name);
    if (name == "rope_freqs.weight") continue;  // follows from config.json
    const auto cols = static_cast<size_t>(t.dims[0]), rows = static_cast<size_t>(t.rows());
    std::vector<float> values(rows * cols);
    for (size_t r = 0; r < rows; ++r)
      decode_row(t.dtype, t.data.data() + r * row_bytes(t.dtype, t.dims[0]), t.dims[0],
                 &values[r * cols]);
    if (m.arch.starts_with("gemma") && name.ends_with("norm.weight"))
      for (float& x : values) x -= 1;
    if (m.arch == "llama" &&
        (name.find("attn_q.") != name.npos || name.find("attn_k.") != name.npos)) {
      // Neighbours 2i and 2i + 1 of a head go to i and i + half.
      const std::vector<float> paired = values;
      const auto dim = static_cast<size_t>(m.dim);
      for (size_t r = 0; r < rows; ++r) {
        const size_t i = r % dim, to = r - i + (i % 2 == 0 ? i / 2 : dim / 2 + i / 2);
        std::copy_n(&paired[r * cols], cols, &values[to * cols]);
      }
    }
    entries.push_back(
        {hf_name(m, name), dtype, {t.dims.rbegin(), t.dims.rend()}, coded(values, dtype)});
  }
  return entries;
}

std::string hf_tokenizer_model(const std::string& gguf) {
  const auto file = GgufFile::open(gguf);
  const auto tokens = file->texts("tokenizer.ggml.tokens");
  const auto scores = file->numbers("tokenizer.ggml.scores");
  const auto kinds = file->integers("tokenizer.ggml.token_type");
  std::vector<Piece> pieces;
  for (size_t i = 0; i < tokens.size(); ++i)
    pieces.push_back({std::string(tokens[i]), scores[i], static_cast<int>(kinds[i])});
  return sentencepiece_bytes(pieces);
}

json byte_level_tokenizer() {
  json vocab = {{"h", 0},
                {"e", 1},
                {"l", 2},
                {"o", 3},
                {"\xc4\xa0", 4},
                {"he", 5},
                {"ll", 6},
                {"hell", 7},
                {"hello", 8},
                {"\xc4\xa0"
                 "h",
                 9}};
  const char* pattern =
      "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
      "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
  json split = {{"type", "Split"},
                {"pattern", {{"Regex", pattern}}},
                {"behavior", "Isolated"},
                {"invert", false}};
  json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  json begin = {{"SpecialToken", {{"id", "<|begin|>"}, {"type_id", 0}}}};
  json text = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  return {{"version", "1.0"},
          {"normalizer", json()},
          {"added_tokens",
           {{{"id", 10}, {"content", "<|begin|>"}, {"special", true}},
            {{"id", 11}, {"content", "<|end|>"}, {"special", true}},
            {{"id", 12}, {"content", "<tool>"}, {"special", false}}}},
          {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {split, bytes}}}},
          {"post_processor", {{"type", "TemplateProcessing"}, {"single", {begin, text}}}},
          {"model",
           {{"type", "BPE"},
            {"ignore_merges", true},
            {"vocab", vocab},
            {"merges", {"h e", "l l", "he ll", "hell o", "\xc4\xa0 h"}}}}};
}

HfFolder write_hf_folder(const TinyModel& model, const std::string& dtype) {
  HfFolder out{fresh_folder(), write_tiny_model(model)};
  write_file(out.path + "config.json", hf_config(model).dump());
  write_file(out.path + "model.safetensors", safetensors_bytes(hf_weights(model, out.gguf, dtype)));
  write_file(out.path + "tokenizer.model", hf_tokenizer_model(out.gguf));
  return out;
}

}  // namespace pith::test

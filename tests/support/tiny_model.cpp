#include "support/tiny_model.h"

#include <cmath>
#include <filesystem>
#include <gtest/gtest.h>
#include <numbers>
#include <unistd.h>

#include "base/error.h"
#include "base/random.h"
#include "gguf/gguf.h"
#include "tensor/codec.h"

namespace pith::test {
namespace {

TinyModel variant(std::string name, std::string arch, void (*change)(TinyModel&)) {
  TinyModel model;
  model.name = std::move(name);
  model.arch = std::move(arch);
  change(model);
  return model;
}

// Random tensors in the order they are added, and the writer they go to.
class Weights {
 public:
  Weights(GgufWriter& out, const TinyModel& model)
      : out_(out), dtype_(model.dtype), random_(model.seed, 1u << 20) {}

  // Entries of standard deviation `gain` / sqrt(cols), so that outputs are about `gain` times
  // as large as inputs.
  void matrix(const std::string& name, int rows, int cols, double gain = 1) {
    std::vector<std::byte> data(row_bytes(dtype_, cols) * static_cast<size_t>(rows));
    std::vector<float> row(static_cast<size_t>(cols));
    for (int r = 0; r < rows; ++r) {
      for (float& x : row) x = static_cast<float>(gain / std::sqrt(cols)) * random_.normal();
      encode_row(dtype_, row.data(), cols, data.data() + row_bytes(dtype_, cols) * r);
    }
    add(name, dtype_, {cols, rows}, std::move(data));
  }
  void vector(const std::string& name, int count, float mean, float deviation) {
    std::vector<float> values(static_cast<size_t>(count));
    for (float& x : values) x = mean + deviation * random_.normal();
    floats(name, values);
  }
  void floats(const std::string& name, std::span<const float> values) {
    const auto bytes = std::as_bytes(values);
    add(name, DType::f32, {static_cast<int64_t>(values.size())}, {bytes.begin(), bytes.end()});
  }
  void write() {
    out_.begin();
    for (const std::vector<std::byte>& data : data_) out_.write_tensor(data);
  }

 private:
  void add(const std::string& name, DType dtype, std::vector<int64_t> dims,
           std::vector<std::byte> data) {
    out_.add_tensor(name, dtype, dims);
    data_.push_back(std::move(data));
  }
  GgufWriter& out_;
  DType dtype_;
  Random random_;
  std::vector<std::vector<std::byte>> data_;
};

// <unk> <s> </s>, the 256 bytes, the space mark and letters, and a few words made of them.
void write_vocabulary(GgufWriter& out, int vocab) {
  const std::string space = "\xe2\x96\x81";
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
  std::vector<int32_t> types = {2, 3, 3};
  for (int byte = 0; byte < 256; ++byte) {
    constexpr std::string_view kHex = "0123456789ABCDEF";
    tokens.push_back(std::string("<0x") + kHex[byte / 16] + kHex[byte % 16] + ">");
    types.push_back(6);
  }
  tokens.push_back(space);
  for (char letter = 'a'; letter <= 'z'; ++letter) tokens.emplace_back(1, letter);
  for (const char* word : {"th", "in", "the", "an"}) tokens.emplace_back(word);
  tokens.push_back(space + "the");
  tokens.resize(static_cast<size_t>(vocab));
  for (size_t i = 0; i < tokens.size(); ++i)
    if (tokens[i].empty()) tokens[i] = "<extra_" + std::to_string(i) + ">";
  types.resize(tokens.size(), 1);
  std::vector<float> scores(tokens.size());
  for (size_t i = 259; i < scores.size(); ++i) scores[i] = 259.f - static_cast<float>(i);
  out.set_text("tokenizer.ggml.model", "llama");
  out.set_text("tokenizer.ggml.pre", "default");
  out.set_texts("tokenizer.ggml.tokens", tokens);
  out.set_f32s("tokenizer.ggml.scores", scores);
  out.set_i32s("tokenizer.ggml.token_type", types);
  out.set_u32("tokenizer.ggml.bos_token_id", 1);
  out.set_u32("tokenizer.ggml.eos_token_id", 2);
  out.set_u32("tokenizer.ggml.unknown_token_id", 0);
  out.set_bool("tokenizer.ggml.add_bos_token", true);
  out.set_bool("tokenizer.ggml.add_space_prefix", true);
}

void write_metadata(GgufWriter& out, const TinyModel& m) {
  const auto key = [&](const char* name) { return m.arch + "." + name; };
  const auto f32 = [&](const char* name, double value) {
    if (value != 0) out.set_f32(key(name), static_cast<float>(value));
  };
  out.set_text("general.architecture", m.arch);
  out.set_text("general.name", "tiny " + m.name);
  out.set_u32(key("context_length"), static_cast<uint32_t>(m.context));
  out.set_u32(key("embedding_length"), static_cast<uint32_t>(m.width));
  out.set_u32(key("block_count"), static_cast<uint32_t>(m.layers));
  out.set_u32(key("feed_forward_length"), static_cast<uint32_t>(m.ffn_width));
  out.set_u32(key("attention.head_count"), static_cast<uint32_t>(m.query_heads));
  out.set_u32(key("attention.head_count_kv"), static_cast<uint32_t>(m.heads));
  if (m.dim * m.query_heads != m.width) {
    out.set_u32(key("attention.key_length"), static_cast<uint32_t>(m.dim));
    out.set_u32(key("attention.value_length"), static_cast<uint32_t>(m.dim));
  }
  f32("attention.scale", m.attention_scale);
  if (m.window > 0) out.set_u32(key("attention.sliding_window"), static_cast<uint32_t>(m.window));
  if (m.window_pattern > 0)
    out.set_u32(key("attention.sliding_window_pattern"), static_cast<uint32_t>(m.window_pattern));
  f32("attn_logit_softcapping", m.attention_softcap);
  f32("final_logit_softcapping", m.logit_softcap);
  if (m.arch == "mpt") {
    f32("attention.layer_norm_epsilon", 1e-5);
    f32("attention.clamp_kqv", m.clamp_qkv);
    f32("attention.max_alibi_bias", m.alibi_bias);
    return;
  }
  f32("attention.layer_norm_rms_epsilon", m.arch == "llama" ? 1e-5 : 1e-6);
  out.set_u32(key("rope.dimension_count"), static_cast<uint32_t>(m.dim));
  f32("rope.freq_base", m.rope_base);
  f32("rope.freq_base_swa", m.local_rope_base);
  if (m.scaling == TinyScaling::linear || m.scaling == TinyScaling::yarn) {
    out.set_text(key("rope.scaling.type"), m.scaling == TinyScaling::yarn ? "yarn" : "linear");
    f32("rope.scaling.factor", m.scaling_factor);
  }
  if (m.scaling == TinyScaling::yarn) {
    out.set_u32(key("rope.scaling.original_context_length"),
                static_cast<uint32_t>(m.original_context));
    f32("rope.scaling.attn_factor", m.yarn_attention);
  }
}

// Llama 3's divisors: 1 for short waves, the factor for long ones, a ramp between.
std::vector<float> llama3_divisors(const TinyModel& m) {
  std::vector<float> divisors;
  for (int pair = 0; pair < m.dim / 2; ++pair) {
    const double wave = 2 * std::numbers::pi * std::pow(m.rope_base, 2.0 * pair / m.dim);
    const double smooth = std::clamp((m.original_context / wave - 1) / 3, 0.0, 1.0);
    divisors.push_back(static_cast<float>(1 / ((1 - smooth) / m.scaling_factor + smooth)));
  }
  return divisors;
}

void add_weights(Weights& w, const TinyModel& m) {
  const bool gemma = m.arch == "gemma2" || m.arch == "gemma3", mpt = m.arch == "mpt";
  const int q = m.query_heads * m.dim, kv = m.heads * m.dim;
  // Gemma multiplies embeddings by sqrt(width); elsewhere they are of unit size as they lie.
  w.matrix("token_embd.weight", m.vocab, m.width, gemma ? 1 : std::sqrt(m.width));
  if (m.scaling == TinyScaling::llama3) w.floats("rope_freqs.weight", llama3_divisors(m));
  for (int l = 0; l < m.layers; ++l) {
    const std::string at = "blk." + std::to_string(l) + ".";
    const auto norm = [&](const char* name, int count) {
      w.vector(at + name + ".weight", count, 1, 0.2f);
    };
    norm("attn_norm", m.width);
    // Large queries and keys make attention choose; flat attention would hide mistakes.
    if (mpt) {
      w.matrix(at + "attn_qkv.weight", q + 2 * kv, m.width, 1.5);
    } else {
      w.matrix(at + "attn_q.weight", q, m.width, 1.5);
      w.matrix(at + "attn_k.weight", kv, m.width, 1.5);
      w.matrix(at + "attn_v.weight", kv, m.width);
    }
    if (m.arch == "qwen2") {
      w.vector(at + "attn_q.bias", q, 0, 0.5f);
      w.vector(at + "attn_k.bias", kv, 0, 0.5f);
      w.vector(at + "attn_v.bias", kv, 0, 0.5f);
    }
    if (m.arch == "qwen3" || m.arch == "gemma3") {
      norm("attn_q_norm", m.dim);
      norm("attn_k_norm", m.dim);
    }
    w.matrix(at + "attn_output.weight", m.width, q);
    if (gemma) norm("post_attention_norm", m.width);
    norm("ffn_norm", m.width);
    if (!mpt) w.matrix(at + "ffn_gate.weight", m.ffn_width, m.width, 1.5);
    w.matrix(at + "ffn_up.weight", m.ffn_width, m.width, 1.5);
    w.matrix(at + "ffn_down.weight", m.width, m.ffn_width);
    if (gemma) norm("post_ffw_norm", m.width);
  }
  w.vector("output_norm.weight", m.width, 1, 0.2f);
  if (!m.tied) w.matrix("output.weight", m.vocab, m.width, 3);
}

std::vector<TinyModel> all_models() {
  std::vector<TinyModel> all;
  const auto add = [&](const char* name, const char* arch, void (*change)(TinyModel&)) {
    all.push_back(variant(name, arch, change));
  };
  add("llama", "llama", [](TinyModel&) {});
  add("llama_tied", "llama", [](TinyModel& m) { m.tied = true; });
  add("llama_linear", "llama", [](TinyModel& m) { m.scaling = TinyScaling::linear; });
  add("llama_llama3", "llama",
      [](TinyModel& m) { m.dim = 16, m.width = 64, m.scaling = TinyScaling::llama3; });
  add("llama_yarn", "llama",
      [](TinyModel& m) { m.dim = 16, m.width = 64, m.scaling = TinyScaling::yarn; });
  add("llama_yarn_factor", "llama", [](TinyModel& m) {
    m.dim = 16, m.width = 64, m.scaling = TinyScaling::yarn, m.yarn_attention = 0.8;
  });
  add("llama_wide_heads", "llama", [](TinyModel& m) { m.dim = 24, m.layers = 3; });
  add("llama_window", "llama", [](TinyModel& m) { m.window = 11; });  // Mistral 7B v0.1
  add("llama_many_heads", "llama",
      [](TinyModel& m) { m.query_heads = 6, m.heads = 1, m.dim = 16; });
  add("qwen2", "qwen2", [](TinyModel&) {});
  add("qwen2_yarn", "qwen2",
      [](TinyModel& m) { m.dim = 16, m.width = 64, m.tied = true, m.scaling = TinyScaling::yarn; });
  add("qwen3", "qwen3", [](TinyModel& m) { m.dim = 16, m.rope_base = 1e6; });
  add("gemma2", "gemma2", [](TinyModel& m) {
    m.tied = true, m.dim = 16, m.layers = 3, m.window = 9;
    m.attention_softcap = 4, m.logit_softcap = 6;
  });
  add("gemma2_scale", "gemma2", [](TinyModel& m) {
    m.tied = true, m.attention_scale = 0.21, m.window = 9, m.logit_softcap = 6;
  });
  add("gemma3", "gemma3", [](TinyModel& m) {  // layer 5 is the global one
    m.tied = true, m.dim = 16, m.layers = 7, m.window = 9, m.rope_base = 1e6;
    m.scaling = TinyScaling::linear, m.scaling_factor = 8;
  });
  add("gemma3_pattern", "gemma3", [](TinyModel& m) {
    m.tied = true, m.layers = 3, m.window = 9, m.window_pattern = 2, m.local_rope_base = 500;
    m.logit_softcap = 6;
  });
  add("mpt", "mpt", [](TinyModel& m) { m.heads = 4, m.tied = true, m.ffn_width = 64; });
  add("mpt_six_heads", "mpt", [](TinyModel& m) {
    m.query_heads = 6, m.heads = 2, m.width = 48, m.ffn_width = 96, m.layers = 3;
    m.clamp_qkv = 1.5;
  });
  return all;
}

}  // namespace

const std::vector<TinyModel>& tiny_models() {
  static const std::vector<TinyModel> all = all_models();
  return all;
}

const TinyModel& tiny_model(std::string_view name) {
  for (const TinyModel& model : tiny_models())
    if (model.name == name) return model;
  check_failed("a known name", __FILE__, __LINE__, "no tiny model has this name");
}

void write_tiny_model(const TinyModel& model, const std::string& path) {
  PITH_CHECK(model.vocab >= 259, "a tiny vocabulary holds the control and byte tokens");
  GgufWriter out(path);
  write_metadata(out, model);
  write_vocabulary(out, model.vocab);
  Weights weights(out, model);
  add_weights(weights, model);
  weights.write();
  out.finish();
}

std::string write_tiny_model(const TinyModel& model) {
  const std::string path = fresh_folder() + model.name + ".gguf";
  write_tiny_model(model, path);
  return path;
}

std::vector<int32_t> tiny_tokens(const TinyModel& model, int count, uint64_t seed) {
  Random random(seed);
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (int32_t& token : tokens)
    token = 3 + static_cast<int32_t>(random.below(static_cast<uint64_t>(model.vocab - 3)));
  return tokens;
}

std::string fresh_folder() {
  std::string pattern = ::testing::TempDir() + "pith-XXXXXX";
  if (!::mkdtemp(pattern.data()))
    check_failed("mkdtemp", __FILE__, __LINE__, "tests need a folder to write to");
  return pattern + "/";
}

}  // namespace pith::test

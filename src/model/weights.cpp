// Tensor names to LayerWeights, per architecture.
#include <deque>
#include <limits>

#include "base/digest.h"
#include "base/error.h"
#include "model/config.h"
#include "model/model.h"
#include "tensor/codec.h"

namespace pith {
namespace {

class GgufModel final : public Model {
 public:
  explicit GgufModel(std::shared_ptr<const GgufFile> file)
      : file_(std::move(file)), parsed_(parse_config(*file_)) {
    load_weights();
    parsed_.config.digest = digest();
  }
  const ModelConfig& config() const override { return parsed_.config; }
  const Weights& weights() const override { return weights_; }
  const GgufFile& file() const override { return *file_; }
  size_t weight_bytes() const override {
    size_t bytes = 0;
    for (const GgufTensor& t : file_->tensors()) bytes += t.data.size();
    return bytes;
  }

 private:
  // A vector of any float format; copied unless it lies in the file as F32.
  std::span<const float> vector(const std::string& name, int64_t count) {
    const GgufTensor& t = file_->tensor(name);
    if (t.elements() != count)
      throw Error(Errc::bad_file, file_->path() + ": tensor '" + name + "' has " +
                                      std::to_string(t.elements()) + " values, not " +
                                      std::to_string(count));
    if (t.dtype == DType::f32) return file_->floats(name, count);
    std::vector<float>& copy = copies_.emplace_back(count);
    decode_row(t.dtype, t.data.data(), count, copy.data());
    return copy;
  }
  std::span<const float> optional_vector(const std::string& name, int64_t count) {
    return file_->has_tensor(name) ? vector(name, count) : std::span<const float>{};
  }

  static WeightMatrix rows_of(const WeightMatrix& w, int64_t first, int64_t rows) {
    WeightMatrix part = w;
    part.data = w.data + static_cast<size_t>(first) * row_bytes(w.dtype, w.cols);
    part.rows = rows;
    return part;
  }

  void load_weights() {
    const ModelConfig& c = parsed_.config;
    const int64_t width = c.shape.width, ffn = c.ffn_width;
    weights_.embedding = file_->matrix("token_embd.weight", c.vocab, width);
    weights_.unembedding = file_->has_tensor("output.weight")
                               ? file_->matrix("output.weight", c.vocab, width)
                               : weights_.embedding;
    weights_.final_norm = vector("output_norm.weight", width);
    weights_.final_norm_bias = optional_vector("output_norm.bias", width);
    for (int l = 0; l < c.shape.layers; ++l) {
      const std::string at = "blk." + std::to_string(l) + ".";
      LayerWeights w;
      w.attn_norm = vector(at + "attn_norm.weight", width);
      w.attn_norm_bias = optional_vector(at + "attn_norm.bias", width);
      w.ffn_norm = vector(at + "ffn_norm.weight", width);
      w.ffn_norm_bias = optional_vector(at + "ffn_norm.bias", width);
      load_attention(at, w);
      if (c.arch == "gemma2" || c.arch == "gemma3") {
        w.attn_post_norm = vector(at + "post_attention_norm.weight", width);
        w.ffn_post_norm = vector(at + "post_ffw_norm.weight", width);
      }
      if (c.feed_forward != FeedForwardKind::gelu)
        w.gate = file_->matrix(at + "ffn_gate.weight", ffn, width);
      w.up = file_->matrix(at + "ffn_up.weight", ffn, width);
      w.down = file_->matrix(at + "ffn_down.weight", width, ffn);
      refuse(at, {"ffn_up.bias", "ffn_down.bias", "ffn_gate.bias", "ffn_gate_inp.weight"});
      weights_.layers.push_back(w);
    }
    refuse("", {"position_embd.weight", "output.bias"});
  }

  void load_attention(const std::string& at, LayerWeights& w) {
    const ModelConfig& c = parsed_.config;
    const int64_t width = c.shape.width, q = int64_t{c.shape.query_heads} * c.shape.dim,
                  kv = int64_t{c.shape.heads} * c.shape.dim;
    if (file_->has_tensor(at + "attn_qkv.weight")) {
      const WeightMatrix all = file_->matrix(at + "attn_qkv.weight", q + 2 * kv, width);
      w.wq = rows_of(all, 0, q);
      w.wk = rows_of(all, q, kv);
      w.wv = rows_of(all, q + kv, kv);
      const std::span<const float> bias = optional_vector(at + "attn_qkv.bias", q + 2 * kv);
      if (!bias.empty()) {
        w.q_bias = bias.first(q);
        w.k_bias = bias.subspan(q, kv);
        w.v_bias = bias.subspan(q + kv, kv);
      }
    } else {
      w.wq = file_->matrix(at + "attn_q.weight", q, width);
      w.wk = file_->matrix(at + "attn_k.weight", kv, width);
      w.wv = file_->matrix(at + "attn_v.weight", kv, width);
      w.q_bias = optional_vector(at + "attn_q.bias", q);
      w.k_bias = optional_vector(at + "attn_k.bias", kv);
      w.v_bias = optional_vector(at + "attn_v.bias", kv);
    }
    w.wo = file_->matrix(at + "attn_output.weight", width, q);
    w.o_bias = optional_vector(at + "attn_output.bias", width);
    if (c.arch == "qwen3" || c.arch == "gemma3") {
      w.q_norm = vector(at + "attn_q_norm.weight", c.shape.dim);
      w.k_norm = vector(at + "attn_k_norm.weight", c.shape.dim);
    } else {
      refuse(at, {"attn_q_norm.weight", "attn_k_norm.weight"});
    }
  }

  // Tensors that would change the result and that the forward pass does not know.
  void refuse(const std::string& at, std::initializer_list<const char*> names) const {
    for (const char* name : names)
      if (file_->has_tensor(at + name))
        throw Error(Errc::unsupported, file_->path() + ": tensor '" + at + name +
                                           "' is not supported for architecture '" +
                                           parsed_.config.arch + "'");
  }

  // Of everything that makes a model another one, without reading gigabytes: metadata, tensor
  // table, and 4 KiB from both ends of every tensor.
  std::string digest() const {
    Digest digest;
    for (const GgufEntry& e : file_->entries()) {
      digest.add(e.key.data(), e.key.size());
      digest.add(e.raw.data(), e.raw.size());
    }
    for (const GgufTensor& t : file_->tensors()) {
      digest.add(t.name.data(), t.name.size());
      digest.add(&t.dtype, sizeof t.dtype);
      digest.add(t.dims.data(), t.dims.size() * sizeof(int64_t));
      const size_t end = std::min<size_t>(t.data.size(), 4096);
      digest.add(t.data.data(), end);
      digest.add(t.data.data() + (t.data.size() - end), end);
    }
    return digest.text();
  }

  std::shared_ptr<const GgufFile> file_;
  ParsedConfig parsed_;
  Weights weights_;
  std::deque<std::vector<float>> copies_;
};

}  // namespace

std::shared_ptr<const Model> Model::load(std::shared_ptr<const GgufFile> file) {
  return std::make_shared<GgufModel>(std::move(file));
}

std::shared_ptr<const Model> Model::load(const std::string& gguf_path) {
  return load(GgufFile::open(gguf_path));
}

}  // namespace pith

#include "convert/hf_tensors.h"

#include <algorithm>
#include <set>

#include "base/error.h"

namespace pith {
namespace {

enum class Presence { required, optional };

class Placement {
 public:
  Placement(const HfConfig& config, const SafeFolder& weights, DType dtype)
      : c_(config), weights_(weights), dtype_(dtype) {}

  std::vector<OutputTensor> run() {
    if (c_.arch == "mpt")
      place_mpt();
    else
      place_transformer();
    refuse_rest();
    return std::move(out_);
  }

 private:
  void place_transformer() {
    place_ends("model.embed_tokens.weight", "model.norm.weight");
    for (int64_t l = 0; l < c_.layers; ++l) place_layer(l);
  }

  void place_layer(int64_t l) {
    const std::string from = "model.layers." + std::to_string(l) + ".";
    const std::string to = "blk." + std::to_string(l) + ".";
    const int64_t q = c_.query_heads * c_.dim, kv = c_.heads * c_.dim;
    norm(to + "attn_norm", from + "input_layernorm");
    projection(to + "attn_q", from + "self_attn.q_proj", q, true);
    projection(to + "attn_k", from + "self_attn.k_proj", kv, true);
    projection(to + "attn_v", from + "self_attn.v_proj", kv, false);
    matrix(to + "attn_output.weight", from + "self_attn.o_proj.weight", c_.width, q);
    vector(to + "attn_output.bias", from + "self_attn.o_proj.bias", c_.width, Presence::optional);
    if (c_.arch == "qwen3" || c_.arch == "gemma3") {
      norm(to + "attn_q_norm", from + "self_attn.q_norm", c_.dim);
      norm(to + "attn_k_norm", from + "self_attn.k_norm", c_.dim);
    }
    if (c_.gemma()) {
      norm(to + "post_attention_norm", from + "post_attention_layernorm");
      norm(to + "ffn_norm", from + "pre_feedforward_layernorm");
    } else {
      norm(to + "ffn_norm", from + "post_attention_layernorm");
    }
    matrix(to + "ffn_gate.weight", from + "mlp.gate_proj.weight", c_.ffn_width, c_.width);
    matrix(to + "ffn_up.weight", from + "mlp.up_proj.weight", c_.ffn_width, c_.width);
    matrix(to + "ffn_down.weight", from + "mlp.down_proj.weight", c_.width, c_.ffn_width);
    if (c_.gemma()) norm(to + "post_ffw_norm", from + "post_feedforward_layernorm");
  }

  void place_mpt() {
    place_ends("transformer.wte.weight", "transformer.norm_f.weight");
    const int64_t q = c_.query_heads * c_.dim, kv = c_.heads * c_.dim;
    for (int64_t l = 0; l < c_.layers; ++l) {
      const std::string from = "transformer.blocks." + std::to_string(l) + ".";
      const std::string to = "blk." + std::to_string(l) + ".";
      norm(to + "attn_norm", from + "norm_1");
      matrix(to + "attn_qkv.weight", from + "attn.Wqkv.weight", q + 2 * kv, c_.width);
      matrix(to + "attn_output.weight", from + "attn.out_proj.weight", c_.width, q);
      norm(to + "ffn_norm", from + "norm_2");
      matrix(to + "ffn_up.weight", from + "ffn.up_proj.weight", c_.ffn_width, c_.width);
      matrix(to + "ffn_down.weight", from + "ffn.down_proj.weight", c_.width, c_.ffn_width);
    }
  }

  // Embedding, output and final norm. Some tied checkpoints keep the matrix under the output's
  // name only.
  void place_ends(const std::string& embedding, const std::string& final_norm) {
    const bool under_head = c_.tied && !weights_.find(embedding);
    matrix("token_embd.weight", under_head ? "lm_head.weight" : embedding, c_.vocab, c_.width);
    if (c_.tied)
      placed_.insert("lm_head.weight");
    else
      matrix("output.weight", "lm_head.weight", c_.vocab, c_.width);
    add("output_norm.weight", final_norm, {c_.width}, c_.gemma() ? 1.f : 0.f, false,
        Presence::required);
    const std::vector<float> divisors = c_.rope_divisors();
    if (divisors.empty()) return;
    OutputTensor t;
    t.name = "rope_freqs.weight";
    t.dims = {static_cast<int64_t>(divisors.size())};
    t.origin = c_.file + ": 'rope_scaling'";
    t.read = [divisors](int64_t, float* to) { std::ranges::copy(divisors, to); };
    out_.push_back(std::move(t));
  }

  void norm(const std::string& to, const std::string& from, int64_t count = 0) {
    add(to + ".weight", from + ".weight", {count ? count : c_.width}, c_.gemma() ? 1.f : 0.f, false,
        Presence::required);
  }
  void vector(const std::string& to, const std::string& from, int64_t count, Presence presence) {
    add(to, from, {count}, 0, false, presence);
  }
  void matrix(const std::string& to, const std::string& from, int64_t rows, int64_t cols) {
    add(to, from, {rows, cols}, 0, false, Presence::required);
  }
  void projection(const std::string& to, const std::string& from, int64_t rows, bool rotated) {
    const bool paired = rotated && c_.arch == "llama";
    add(to + ".weight", from + ".weight", {rows, c_.width}, 0, paired, Presence::required);
    add(to + ".bias", from + ".bias", {rows}, 0, paired,
        c_.arch == "qwen2" ? Presence::required : Presence::optional);
  }

  // `shape` as Hugging Face orders it. With `paired`, rows of each head change from halves
  // (i, i + dim / 2), as Hugging Face rotates them, to neighbours (2i, 2i + 1), as GGUF's llama.
  void add(const std::string& to, const std::string& from, const std::vector<int64_t>& shape,
           float shift, bool paired, Presence presence) {
    const SafeTensor* source = weights_.find(from);
    if (!source && presence == Presence::optional) return;
    if (!source) throw Error(Errc::bad_file, weights_.path() + ": has no tensor '" + from + "'");
    if (source->shape != shape)
      throw Error(Errc::bad_file, source->origin + " has the shape " + text(source->shape) +
                                      ", but by config.json it is " + text(shape));
    if (source->type == SafeType::other)
      throw Error(Errc::unsupported, source->origin + " is stored as " + source->type_name +
                                         ", which cannot be converted; F32, F16, BF16 and F64 can");
    placed_.insert(from);
    OutputTensor t;
    t.name = to;
    t.origin = source->origin;
    t.dtype = shape.size() > 1 ? dtype_ : DType::f32;
    t.dims = {shape.rbegin(), shape.rend()};
    const int64_t cols = shape.size() > 1 ? shape[1] : 1, dim = c_.dim;
    const auto source_row = [paired, dim](int64_t row) {
      if (!paired) return row;
      const int64_t in_head = row % dim;
      return row - in_head + in_head % 2 * (dim / 2) + in_head / 2;
    };
    if (shape.size() > 1) {
      t.read = [source, cols, source_row](int64_t row, float* out) {
        source->read(source_row(row) * cols, cols, out);
      };
    } else {
      t.read = [source, count = shape[0], source_row, shift](int64_t, float* out) {
        for (int64_t i = 0; i < count; ++i) {
          source->read(source_row(i), 1, out + i);
          out[i] += shift;
        }
      };
    }
    out_.push_back(std::move(t));
  }

  static std::string text(const std::vector<int64_t>& shape) {
    std::string out = "[";
    for (size_t i = 0; i < shape.size(); ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
    return out + "]";
  }

  // A weight left over means another model than the config says.
  void refuse_rest() const {
    for (const auto& [name, tensor] : weights_.tensors())
      if (!placed_.contains(name) && !name.ends_with(".rotary_emb.inv_freq"))
        throw Error(Errc::unsupported,
                    tensor.origin + " has no place in the architecture '" + c_.arch + "'");
  }

  const HfConfig& c_;
  const SafeFolder& weights_;
  const DType dtype_;
  std::vector<OutputTensor> out_;
  std::set<std::string> placed_;  // names in the checkpoint
};

}  // namespace

std::vector<OutputTensor> place_hf_tensors(const HfConfig& config, const SafeFolder& weights,
                                           DType dtype) {
  return Placement(config, weights, dtype).run();
}

}  // namespace pith

#include "support/reference_forward.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numbers>

#include "base/error.h"
#include "tensor/codec.h"

namespace pith::test {
namespace {

using Vector = std::vector<double>;

struct Matrix {  // [rows, cols], row after row
  Vector values;
  size_t rows = 0, cols = 0;
  bool empty() const { return values.empty(); }
};

Vector times(const Matrix& m, const Vector& x) {
  PITH_CHECK(m.cols == x.size(), "matrix and vector fit");
  Vector y(m.rows);
  for (size_t r = 0; r < m.rows; ++r)
    for (size_t c = 0; c < m.cols; ++c) y[r] += m.values[r * m.cols + c] * x[c];
  return y;
}

void add(Vector& x, const Vector& y) {
  if (y.empty()) return;
  PITH_CHECK(x.size() == y.size(), "summands fit");
  for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
}

double silu(double x) {
  return x / (1 + std::exp(-x));
}
double gelu_erf(double x) {
  return x * 0.5 * (1 + std::erf(x / std::numbers::sqrt2));
}
double gelu_tanh(double x) {
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
}
double softcap(double x, double cap) {
  return cap > 0 ? cap * std::tanh(x / cap) : x;
}

// Rotation of one layer: pair i turns by position * frequency[i]; both members are multiplied by
// `magnitude` as well.
struct Rotation {
  Vector frequency;
  double magnitude = 1;
};

// The part of YaRN (arXiv:2309.00071, section 3.2) that says how much of a frequency is left as
// it was: 1 for pairs that turn more than beta_fast times over the original context, 0 for those
// that turn less than beta_slow times, linear in the index between (rounded outwards).
double yarn_share(int pair, int dim, double base, double context, double fast, double slow) {
  const auto index_of = [&](double turns) {
    return dim * std::log(context / (turns * 2 * std::numbers::pi)) / (2 * std::log(base));
  };
  const double low = std::max(std::floor(index_of(fast)), 0.0);
  const double high = std::min(std::ceil(index_of(slow)), dim - 1.0);
  return 1 - std::clamp((pair - low) / std::max(high - low, 0.001), 0.0, 1.0);
}

struct Added {  // b (a x)
  Matrix a, b;
};

struct Layer {
  Added add_q, add_k, add_v, add_output;
  Vector attn_norm, post_attn_norm, ffn_norm, post_ffn_norm, q_norm, k_norm;
  Vector q_bias, k_bias, v_bias;
  Matrix q, k, v, qkv, output, gate, up, down;
  int window = 0;
  Rotation rotation;
  std::map<int, Vector> keys, values;  // by position, [heads * dim]
};

}  // namespace

struct ReferenceForward::State {
  std::shared_ptr<const GgufFile> file;
  std::string arch;
  int width = 0, query_heads = 0, heads = 0, dim = 0;
  double eps = 0, scale = 0, attention_cap = 0, logit_cap = 0, clamp = 0, embedding_scale = 1;
  Vector slopes;  // ALiBi, [query_heads]
  Matrix embedding, output;
  Vector output_norm;
  std::vector<Layer> layers;
  int position = 0;
  std::map<int, Vector> hidden;  // by position
  bool adapt_kv = false, adapt_qo = false;
  int first_read = 0;

  bool gemma() const { return arch == "gemma2" || arch == "gemma3"; }
  double number(const std::string& name, double fallback) const {
    const std::string key = arch + "." + name;
    if (!file->has(key)) return fallback;
    return file->number(key);
  }
  int count(const std::string& name, int64_t fallback) const {
    return static_cast<int>(file->integer(arch + "." + name, fallback));
  }

  Matrix matrix(const std::string& name) const { return matrix_of(*file, name); }
  static Matrix matrix_of(const GgufFile& file, const std::string& name) {
    if (!file.has_tensor(name)) return {};
    const GgufTensor& t = file.tensor(name);
    const auto rows = static_cast<size_t>(t.rows()), cols = static_cast<size_t>(t.dims[0]);
    Matrix m{Vector(rows * cols), rows, cols};
    std::vector<float> row(cols);
    for (size_t r = 0; r < rows; ++r) {
      decode_row(t.dtype, t.data.data() + r * row_bytes(t.dtype, t.dims[0]), t.dims[0], row.data());
      std::copy(row.begin(), row.end(), m.values.begin() + static_cast<ptrdiff_t>(r * cols));
    }
    return m;
  }
  Vector vector(const std::string& name) const { return matrix(name).values; }

  Rotation rotation(bool local) const {
    const int rotated = count("rope.dimension_count", dim);
    const double base =
        local ? number("rope.freq_base_swa", 10000) : number("rope.freq_base", 10000);
    const std::string type(file->text(arch + ".rope.scaling.type", "none"));
    const double factor = local || type == "none" ? 1 : number("rope.scaling.factor", 1);
    const Vector divisors = local ? Vector{} : vector("rope_freqs.weight");
    Rotation r;
    for (int pair = 0; pair < rotated / 2; ++pair) {
      double f = std::pow(base, -2.0 * pair / rotated);
      if (!divisors.empty()) f /= divisors[static_cast<size_t>(pair)];
      double share = 0;  // of the frequency that is not divided
      if (type == "yarn" && !local)
        share = yarn_share(pair, rotated, base, number("rope.scaling.original_context_length", 0),
                           number("rope.scaling.yarn_beta_fast", 32),
                           number("rope.scaling.yarn_beta_slow", 1));
      r.frequency.push_back(f * share + f / factor * (1 - share));
    }
    if (type == "yarn" && !local)
      r.magnitude = (1 + 0.1 * std::log(factor)) * number("rope.scaling.attn_factor", 1);
    return r;
  }

  // Slopes of ALiBi as its authors' code makes them: from the next power of two at or above the
  // number of heads, the odd-numbered of that sequence first, then the others.
  void set_slopes(double bias) {
    int power = 1;
    while (power < query_heads) power *= 2;
    Vector all;
    for (int i = 1; i <= power; ++i) all.push_back(std::exp2(-bias * i / power));
    if (power == query_heads) {
      slopes = all;
      return;
    }
    for (size_t i = 1; i < all.size(); i += 2) slopes.push_back(all[i]);
    for (size_t i = 0; i < all.size(); i += 2) slopes.push_back(all[i]);
    slopes.resize(static_cast<size_t>(query_heads));
  }

  void load() {
    arch = file->text("general.architecture");
    width = count("embedding_length", 0);
    query_heads = count("attention.head_count", 0);
    heads = count("attention.head_count_kv", query_heads);
    dim = count("attention.key_length", width / query_heads);
    eps = number(
        arch == "mpt" ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon", 1e-5);
    scale = number("attention.scale", 1 / std::sqrt(dim));
    attention_cap = number("attn_logit_softcapping", 0);
    logit_cap = number("final_logit_softcapping", 0);
    clamp = number("attention.clamp_kqv", 0);
    if (gemma()) embedding_scale = std::sqrt(width);
    if (arch == "mpt") set_slopes(number("attention.max_alibi_bias", 8));
    embedding = matrix("token_embd.weight");
    output = matrix("output.weight");
    output_norm = vector("output_norm.weight");
    const int window = count("attention.sliding_window", 0);
    const int pattern = count("attention.sliding_window_pattern", arch == "gemma2"   ? 2
                                                                  : arch == "gemma3" ? 6
                                                                                     : 0);
    layers.resize(static_cast<size_t>(count("block_count", 0)));
    for (size_t l = 0; l < layers.size(); ++l) {
      const bool global = pattern > 0 && (l + 1) % static_cast<size_t>(pattern) == 0;
      load_layer(layers[l], "blk." + std::to_string(l) + ".", global ? 0 : window);
    }
  }
  void load_layer(Layer& layer, const std::string& at, int window) {
    layer.window = window;
    if (arch != "mpt") layer.rotation = rotation(arch == "gemma3" && window > 0);
    layer.attn_norm = vector(at + "attn_norm.weight");
    layer.post_attn_norm = vector(at + "post_attention_norm.weight");
    layer.ffn_norm = vector(at + "ffn_norm.weight");
    layer.post_ffn_norm = vector(at + "post_ffw_norm.weight");
    layer.q_norm = vector(at + "attn_q_norm.weight");
    layer.k_norm = vector(at + "attn_k_norm.weight");
    layer.q_bias = vector(at + "attn_q.bias");
    layer.k_bias = vector(at + "attn_k.bias");
    layer.v_bias = vector(at + "attn_v.bias");
    layer.q = matrix(at + "attn_q.weight");
    layer.k = matrix(at + "attn_k.weight");
    layer.v = matrix(at + "attn_v.weight");
    layer.qkv = matrix(at + "attn_qkv.weight");
    layer.output = matrix(at + "attn_output.weight");
    layer.gate = matrix(at + "ffn_gate.weight");
    layer.up = matrix(at + "ffn_up.weight");
    layer.down = matrix(at + "ffn_down.weight");
  }

  // Over x[first, first + w.size()), in place.
  void norm_part(Vector& x, size_t first, const Vector& w) const {
    double mean = 0, square = 0;
    for (size_t i = 0; i < w.size(); ++i) mean += x[first + i];
    mean = arch == "mpt" ? mean / static_cast<double>(w.size()) : 0;  // RMS norms do not centre
    for (size_t i = 0; i < w.size(); ++i) square += std::pow(x[first + i] - mean, 2);
    const double size = std::sqrt(square / static_cast<double>(w.size()) + eps);
    for (size_t i = 0; i < w.size(); ++i) x[first + i] = (x[first + i] - mean) / size * w[i];
  }
  Vector norm(Vector x, const Vector& w) const {
    norm_part(x, 0, w);
    return x;
  }
  void norm_heads(Vector& x, const Vector& w) const {
    if (w.empty()) return;
    for (size_t first = 0; first < x.size(); first += w.size()) norm_part(x, first, w);
  }

  // Llama files hold rows so that neighbours form a pair; all others pair i with i + half.
  void rotate(Vector& x, int position, const Rotation& r) const {
    const size_t pairs = r.frequency.size(), per_head = static_cast<size_t>(dim);
    for (size_t first = 0; first < x.size(); first += per_head)
      for (size_t i = 0; i < pairs; ++i) {
        double& a = x[first + (arch == "llama" ? 2 * i : i)];
        double& b = x[first + (arch == "llama" ? 2 * i + 1 : i + pairs)];
        const double angle = position * r.frequency[i];
        const double c = r.magnitude * std::cos(angle), s = r.magnitude * std::sin(angle);
        const double turned = a * c - b * s;
        b = a * s + b * c;
        a = turned;
      }
  }

  Vector attention(Layer& layer, int position, const Vector& x, Vector& paid) const {
    const size_t per_head = static_cast<size_t>(dim), q_width = per_head * query_heads,
                 kv_width = per_head * heads;
    Vector q, k, v;
    if (!layer.qkv.empty()) {
      Vector all = times(layer.qkv, x);
      const auto begin = all.begin(), middle = begin + static_cast<ptrdiff_t>(q_width);
      q.assign(begin, middle);
      k.assign(middle, middle + static_cast<ptrdiff_t>(kv_width));
      v.assign(middle + static_cast<ptrdiff_t>(kv_width), all.end());
    } else {
      q = times(layer.q, x), k = times(layer.k, x), v = times(layer.v, x);
      add(q, layer.q_bias), add(k, layer.k_bias), add(v, layer.v_bias);
    }
    if (adapt_qo) add(q, added(layer.add_q, x));
    if (adapt_kv) add(k, added(layer.add_k, x)), add(v, added(layer.add_v, x));
    if (clamp > 0)
      for (Vector* part : {&q, &k, &v})
        for (double& y : *part) y = std::clamp(y, -clamp, clamp);
    norm_heads(q, layer.q_norm);
    norm_heads(k, layer.k_norm);
    rotate(q, position, layer.rotation);
    rotate(k, position, layer.rotation);
    PITH_CHECK(!layer.keys.contains(position), "a token passes a layer once");
    layer.keys[position] = k;
    layer.values[position] = v;
    paid.assign(static_cast<size_t>(position) + 1, 0);

    Vector mixed(q_width);
    for (int h = 0; h < query_heads; ++h) {
      const size_t at_q = per_head * static_cast<size_t>(h);
      const size_t at_k = per_head * static_cast<size_t>(h / (query_heads / heads));
      const int first = std::max(first_read, layer.window > 0 ? position - layer.window + 1 : 0);
      Vector logits;
      std::vector<int> rows;
      for (const auto& [row, key] : layer.keys) {
        if (row < first || row > position) continue;
        rows.push_back(row);
        double dot = 0;
        for (size_t i = 0; i < per_head; ++i) dot += q[at_q + i] * key[at_k + i];
        double logit = softcap(dot * scale, attention_cap);
        if (!slopes.empty()) logit -= slopes[static_cast<size_t>(h)] * (position - row);
        logits.push_back(logit);
      }
      const double sum = log_sum_exp(logits);
      for (size_t r = 0; r < rows.size(); ++r) {
        const double share = std::exp(logits[r] - sum);
        paid[static_cast<size_t>(rows[r])] += share;
        for (size_t i = 0; i < per_head; ++i)
          mixed[at_q + i] += share * layer.values.at(rows[r])[at_k + i];
      }
    }
    Vector out = times(layer.output, mixed);
    if (adapt_qo) add(out, added(layer.add_output, mixed));
    return out;
  }
  static Vector added(const Added& matrices, const Vector& x) {
    return times(matrices.b, times(matrices.a, x));
  }

  Vector feed_forward(const Layer& layer, const Vector& x) const {
    Vector up = times(layer.up, x);
    if (layer.gate.empty()) {
      for (double& y : up) y = gelu_erf(y);
    } else {
      const Vector gate = times(layer.gate, x);
      for (size_t i = 0; i < up.size(); ++i) up[i] *= gemma() ? gelu_tanh(gate[i]) : silu(gate[i]);
    }
    return times(layer.down, up);
  }

  void embed(int at, int32_t token) {
    const auto row = embedding.values.begin() + static_cast<ptrdiff_t>(token) * width;
    Vector& x = hidden[at];
    x.assign(row, row + width);
    for (double& y : x) y *= embedding_scale;
  }

  Vector pass(int at, Layer& layer) {
    Vector& x = hidden.at(at);
    Vector paid;
    Vector branch = attention(layer, at, norm(x, layer.attn_norm), paid);
    if (!layer.post_attn_norm.empty()) branch = norm(branch, layer.post_attn_norm);
    add(x, branch);
    branch = feed_forward(layer, norm(x, layer.ffn_norm));
    if (!layer.post_ffn_norm.empty()) branch = norm(branch, layer.post_ffn_norm);
    add(x, branch);
    return paid;
  }

  Vector logits(int at) const {
    Vector logits = times(output.empty() ? embedding : output, norm(hidden.at(at), output_norm));
    for (double& y : logits) y = softcap(y, logit_cap);
    return logits;
  }

  Vector feed(int32_t token) {
    embed(position, token);
    for (Layer& layer : layers) pass(position, layer);
    Vector answer = logits(position);
    hidden.erase(position++);
    return answer;
  }
};

ReferenceForward::ReferenceForward(std::shared_ptr<const GgufFile> file)
    : state_(std::make_unique<State>()) {
  state_->file = std::move(file);
  state_->load();
}

ReferenceForward::ReferenceForward(const std::string& path)
    : ReferenceForward(GgufFile::open(path)) {}

ReferenceForward::~ReferenceForward() = default;

std::vector<double> ReferenceForward::feed(int32_t token) {
  PITH_CHECK(token >= 0 && token < vocab(), "tokens are of the vocabulary");
  return state_->feed(token);
}

void ReferenceForward::embed(int position, int32_t token) {
  PITH_CHECK(token >= 0 && token < vocab(), "tokens are of the vocabulary");
  state_->embed(position, token);
}

std::vector<double> ReferenceForward::pass(int position, int layer) {
  return state_->pass(position, state_->layers.at(static_cast<size_t>(layer)));
}

std::vector<double> ReferenceForward::logits(int position) const {
  return state_->logits(position);
}

const std::vector<double>& ReferenceForward::hidden(int position) const {
  return state_->hidden.at(position);
}

void ReferenceForward::forget(int position) {
  for (Layer& layer : state_->layers) layer.keys.erase(position), layer.values.erase(position);
}

void ReferenceForward::set_adapter(std::shared_ptr<const GgufFile> file) {
  for (size_t l = 0; l < state_->layers.size(); ++l) {
    const auto read = [&](const char* side) {
      const std::string at = "blk." + std::to_string(l) + ".attn_" + side + ".weight.lora_";
      return Added{State::matrix_of(*file, at + "a"), State::matrix_of(*file, at + "b")};
    };
    Layer& layer = state_->layers[l];
    layer.add_q = read("q"), layer.add_k = read("k"), layer.add_v = read("v");
    layer.add_output = read("output");
  }
}

void ReferenceForward::adapt(bool keys_and_values, bool queries_and_outputs) {
  state_->adapt_kv = keys_and_values;
  state_->adapt_qo = queries_and_outputs;
}

void ReferenceForward::read_from(int position) {
  state_->first_read = position;
}

int ReferenceForward::layers() const {
  return static_cast<int>(state_->layers.size());
}

void ReferenceForward::clear() {
  state_->hidden.clear();
  state_->position = 0;
  for (Layer& layer : state_->layers) layer.keys.clear(), layer.values.clear();
}

int ReferenceForward::vocab() const {
  return static_cast<int>(state_->embedding.rows);
}

std::vector<std::vector<double>> reference_logits(const std::string& path,
                                                  std::span<const int32_t> tokens) {
  ReferenceForward model(path);
  std::vector<std::vector<double>> logits;
  for (const int32_t token : tokens) logits.push_back(model.feed(token));
  return logits;
}

double log_sum_exp(std::span<const double> logits) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const double logit : logits) sum += std::exp(logit - top);
  return top + std::log(sum);
}

int32_t argmax(std::span<const double> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

}  // namespace pith::test

// GGUF metadata to ModelConfig, per architecture.
#include "model/config.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.h"

namespace pith {
namespace {

constexpr int kMaxLayers = 4096, kMaxWidth = 1 << 20, kMaxHeads = 4096, kMaxDim = 1024;

class Reader {
 public:
  explicit Reader(const GgufFile& file) : file_(file), arch_(file.text("general.architecture")) {}
  const std::string& arch() const { return arch_; }
  std::string key(std::string_view name) const { return arch_ + "." + std::string(name); }

  int count(std::string_view name, int low, int high) const {
    return checked(name, file_.integer(key(name)), low, high);
  }
  int count(std::string_view name, int low, int high, int fallback) const {
    return checked(name, file_.integer(key(name), fallback), low, high);
  }
  double number(std::string_view name, double fallback) const {
    return finite(name, file_.number(key(name), fallback));
  }
  double positive(std::string_view name, double fallback) const {
    const double value = number(name, fallback);
    if (value <= 0) fail(name, "must be positive");
    return value;
  }
  std::string_view text(std::string_view name, std::string_view fallback) const {
    return file_.text(key(name), fallback);
  }
  bool has(std::string_view name) const { return file_.has(key(name)); }
  [[noreturn]] void fail(std::string_view name, const std::string& why) const {
    throw Error(Errc::bad_file, file_.path() + ": '" + key(name) + "' " + why);
  }

 private:
  int checked(std::string_view name, int64_t value, int low, int high) const {
    if (value < low || value > high)
      fail(name, "is " + std::to_string(value) + ", not between " + std::to_string(low) + " and " +
                     std::to_string(high));
    return static_cast<int>(value);
  }
  double finite(std::string_view name, double value) const {
    if (!std::isfinite(value)) fail(name, "is not a finite number");
    return value;
  }
  const GgufFile& file_;
  std::string arch_;
};

// YaRN (arXiv:2309.00071, section 3.4): high frequencies keep their angle, low ones are divided by
// the scaling factor, the ones between are blended.
struct Yarn {
  double factor, base, original_context, beta_fast, beta_slow;
  int pairs;
  // The pair that turns `turns` times over the original context.
  double pair_of(double turns) const {
    return pairs * std::log(original_context / (turns * 2 * std::numbers::pi)) / std::log(base);
  }
  double inv_freq(int pair, double plain) const {
    const double low = std::max(0.0, std::floor(pair_of(beta_fast)));
    const double high = std::min(2.0 * pairs - 1, std::ceil(pair_of(beta_slow)));
    const double ramp = (pair - low) / std::max(0.001, high - low);
    const double keep = 1 - std::clamp(ramp, 0.0, 1.0);
    return plain / factor * (1 - keep) + plain * keep;
  }
};

void read_rope(const Reader& read, const GgufFile& file, ParsedConfig& out) {
  ModelConfig& config = out.config;
  const int dim = config.shape.dim, layers = config.shape.layers;
  const bool neox = config.arch != "llama";
  const int rotated = read.count("rope.dimension_count", 2, dim, dim);
  if (rotated % 2 != 0) read.fail("rope.dimension_count", "must be even");
  const int pairs = rotated / 2;
  const double base = read.positive("rope.freq_base", 10000);

  double factor = read.positive("rope.scaling.factor", read.positive("rope.scale_linear", 1));
  const std::string type(read.text("rope.scaling.type", factor != 1 ? "linear" : "none"));
  if (type != "none" && type != "linear" && type != "yarn")
    read.fail("rope.scaling.type", "is '" + type + "'; known are none, linear and yarn");
  if (type == "none") factor = 1;

  std::vector<float> divisors;  // llama3's rope_freqs, one per pair
  if (file.has_tensor("rope_freqs.weight")) {
    const std::span<const float> freqs = file.floats("rope_freqs.weight", pairs);
    divisors.assign(freqs.begin(), freqs.end());
    for (float d : divisors)
      if (!std::isfinite(d) || d <= 0)
        throw Error(Errc::bad_file, file.path() + ": 'rope_freqs.weight' must be positive");
  }

  Rope main;
  main.half_split = neox;
  Yarn yarn{};
  if (type == "yarn") {
    yarn = {factor,
            base,
            read.positive("rope.scaling.original_context_length", config.max_position),
            read.positive("rope.scaling.yarn_beta_fast", 32),
            read.positive("rope.scaling.yarn_beta_slow", 1),
            pairs};
    main.magnitude = static_cast<float>(read.positive("rope.scaling.attn_factor", 1) *
                                        (factor > 1 ? 1 + 0.1 * std::log(factor) : 1));
  }
  std::vector<float>& global = out.inv_freq.emplace_back(pairs);
  for (int i = 0; i < pairs; ++i) {
    double freq = std::pow(base, -static_cast<double>(i) / pairs);
    if (!divisors.empty()) freq /= divisors[i];
    global[i] = static_cast<float>(type == "yarn" ? yarn.inv_freq(i, freq) : freq / factor);
  }
  main.inv_freq = global;
  config.shape.ropes.assign(layers, main);

  if (config.arch == "gemma3") {  // sliding layers rotate unscaled, by their own base
    const double local_base = read.positive("rope.freq_base_swa", 10000);
    std::vector<float>& local = out.inv_freq.emplace_back(pairs);
    for (int i = 0; i < pairs; ++i)
      local[i] = static_cast<float>(std::pow(local_base, -static_cast<double>(i) / pairs));
    for (int l = 0; l < layers; ++l)
      if (config.rules[l].window > 0) config.shape.ropes[l] = {local, 1, neox};
  }
}

// ALiBi (arXiv:2108.12409): a geometric sequence of slopes; head counts that are no power of two
// take every other slope of the next longer sequence for the heads beyond.
std::vector<float> alibi_slopes(int heads, double max_bias) {
  int power = 1;
  while (power * 2 <= heads) power *= 2;
  std::vector<float> slopes(heads);
  for (int h = 0; h < heads; ++h)
    slopes[h] =
        static_cast<float>(h < power ? std::exp2(-max_bias * (h + 1) / power)
                                     : std::exp2(-max_bias / 2 * (2 * (h - power) + 1) / power));
  return slopes;
}

// Sliding windows: of `pattern` layers in a row all but the last look `window` tokens back.
void set_windows(ModelConfig& config, int window, int pattern) {
  if (window == 0) return;
  config.shape.windows.assign(config.shape.layers, 0);
  for (int l = 0; l < config.shape.layers; ++l)
    if (pattern == 0 || l % pattern < pattern - 1)
      config.shape.windows[l] = config.rules[l].window = window;
}

}  // namespace

ParsedConfig parse_config(const GgufFile& file) {
  const Reader read(file);
  ParsedConfig out;
  ModelConfig& c = out.config;
  c.arch = read.arch();
  static constexpr std::string_view kKnown[] = {"llama",  "qwen2",  "qwen3",
                                                "gemma2", "gemma3", "mpt"};
  if (std::ranges::find(kKnown, c.arch) == std::end(kKnown))
    throw Error(Errc::unsupported, file.path() + ": architecture '" + c.arch +
                                       "' is not supported; known are llama, qwen2, qwen3, "
                                       "gemma2, gemma3 and mpt");
  const bool gemma = c.arch == "gemma2" || c.arch == "gemma3", mpt = c.arch == "mpt";
  c.name = file.text("general.name", c.arch);

  KvShape& s = c.shape;
  s.layers = read.count("block_count", 1, kMaxLayers);
  s.width = read.count("embedding_length", 1, kMaxWidth);
  s.query_heads = read.count("attention.head_count", 1, kMaxHeads);
  s.heads = read.count("attention.head_count_kv", 1, s.query_heads, s.query_heads);
  if (s.query_heads % s.heads != 0)
    read.fail("attention.head_count_kv", "must divide the number of query heads");
  if (!read.has("attention.key_length") && s.width % s.query_heads != 0)
    read.fail("attention.head_count", "must divide the embedding length");
  s.dim = read.count("attention.key_length", 8, kMaxDim, std::max(8, s.width / s.query_heads));
  if (read.count("attention.value_length", 8, kMaxDim, s.dim) != s.dim)
    read.fail("attention.value_length", "must equal the key length");
  if (s.dim % 8 != 0) read.fail("attention.key_length", "must be a multiple of 8");
  c.ffn_width = read.count("feed_forward_length", 1, 1 << 24);
  c.max_position = read.count("context_length", 1, 1 << 30);
  c.vocab = static_cast<int>(file.tensor("token_embd.weight").rows());
  if (c.vocab < 1) throw Error(Errc::bad_file, file.path() + ": the vocabulary is empty");

  c.norm = mpt ? NormKind::layer : NormKind::rms;
  c.norm_eps = static_cast<float>(read.positive(
      mpt ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon", 1e-5));
  c.feed_forward = mpt     ? FeedForwardKind::gelu
                   : gemma ? FeedForwardKind::gelu_gated
                           : FeedForwardKind::silu_gated;
  if (gemma) c.embedding_scale = std::sqrt(static_cast<float>(s.width));
  c.logit_softcap = static_cast<float>(read.number("final_logit_softcapping", 0));
  c.clamp_qkv = static_cast<float>(read.number("attention.clamp_kqv", 0));
  if (c.logit_softcap < 0 || c.clamp_qkv < 0)
    read.fail("final_logit_softcapping", "and clamp_kqv must not be negative");

  AttentionRule rule;
  // Gemma's 27B models divide by sqrt(width / heads) and not by sqrt(head dim).
  const bool by_width =
      (c.arch == "gemma2" && s.layers == 46) || (c.arch == "gemma3" && s.layers == 62);
  const double plain = 1 / std::sqrt(by_width ? static_cast<double>(s.width) / s.query_heads
                                              : static_cast<double>(s.dim));
  rule.scale = static_cast<float>(read.positive("attention.scale", plain));
  rule.softcap = static_cast<float>(read.number("attn_logit_softcapping", 0));
  if (rule.softcap < 0) read.fail("attn_logit_softcapping", "must not be negative");
  if (mpt) {
    out.slopes = alibi_slopes(s.query_heads, read.positive("attention.max_alibi_bias", 8));
    rule.alibi = out.slopes;
  }
  c.rules.assign(s.layers, rule);

  const int window = read.count("attention.sliding_window", 0, 1 << 30, 0);
  const int pattern = c.arch == "gemma2" ? 2 : c.arch == "gemma3" ? 6 : 0;
  if (c.arch == "llama" || gemma)
    set_windows(c, window, read.count("attention.sliding_window_pattern", 0, kMaxLayers, pattern));

  if (mpt)
    c.shape.ropes.assign(s.layers, Rope{});
  else
    read_rope(read, file, out);
  return out;
}

}  // namespace pith

// llama2.c checkpoints, version 0 (float32, no magic) and version 2 (int8 groups), and their
// tokenizer.bin. Rows already have neighbouring rotation pairs, as GGUF's llama architecture
// expects, so nothing is permuted.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <memory>

#include "base/error.h"
#include "base/mapped_file.h"
#include "convert/convert.h"
#include "convert/model_writer.h"
#include "convert/vocabulary.h"

namespace pith {
namespace {

constexpr uint32_t kMagic = 0x616b3432;  // "24ka" on disk
constexpr size_t kHeaderBytes = 28, kHeaderBytesV2 = 256;
constexpr float kNormEps = 1e-5f;  // fixed in llama2.c

template <class T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

struct Shape {
  int64_t width = 0, ffn_width = 0, layers = 0, query_heads = 0, heads = 0, vocab = 0, context = 0;
  bool tied = false;
  int64_t dim() const { return width / query_heads; }
  int64_t kv_width() const { return dim() * heads; }
};

// A run of weights of one tensor in the file: floats, or int8 values followed by their scales.
struct Stretch {
  const std::byte* values = nullptr;
  const std::byte* scales = nullptr;  // null: the values are float32
  int64_t group = 0;
  float at(int64_t i) const {
    if (!scales) return load<float>(values + i * 4);
    return static_cast<float>(load<int8_t>(values + i)) * load<float>(scales + i / group * 4);
  }
};

class Checkpoint {
 public:
  explicit Checkpoint(const std::string& path) : file_(path) {
    if (bytes().size() < kHeaderBytes) fail("is too short for a llama2.c checkpoint");
    if (load<uint32_t>(bytes().data()) == kMagic) {
      read_header_v2();
    } else {
      read_shape(bytes().data());
      shape_.tied = shape_.vocab > 0;
      shape_.vocab = std::abs(shape_.vocab);
      at_ = kHeaderBytes;
    }
    check_shape();
  }

  const Shape& shape() const { return shape_; }
  bool grouped() const { return group_ > 0; }
  std::string origin(const std::string& name) const {
    return file_.path() + ": tensor '" + name + "'";
  }

  Stretch take_floats(int64_t count) { return {take(count, 4), nullptr, 0}; }
  Stretch take_matrix(int64_t rows, int64_t cols) {
    if (!grouped()) return take_floats(rows * cols);
    if (rows * cols % group_ != 0) fail("has a matrix that its group size does not divide");
    const std::byte* values = take(rows * cols, 1);
    return {values, take(rows * cols / group_, 4), group_};
  }
  void finish() const {
    if (at_ != bytes().size())
      fail("is " + std::to_string(bytes().size() - at_) + " bytes longer than its header says");
  }

 private:
  std::span<const std::byte> bytes() const { return file_.bytes(); }
  [[noreturn]] void fail(const std::string& why) const {
    throw Error(Errc::bad_file, file_.path() + ": " + why);
  }
  const std::byte* take(int64_t count, uint64_t size) {
    const uint64_t need = static_cast<uint64_t>(count) * size;  // shapes are below 2^49 elements
    if (need > bytes().size() - at_) fail("is cut short, or is no llama2.c checkpoint");
    const std::byte* from = bytes().data() + at_;
    at_ += need;
    return from;
  }

  void read_shape(const std::byte* from) {
    int64_t* const fields[] = {&shape_.width,       &shape_.ffn_width, &shape_.layers,
                               &shape_.query_heads, &shape_.heads,     &shape_.vocab,
                               &shape_.context};
    for (int64_t* field : fields) {
      *field = load<int32_t>(from);
      from += 4;
    }
  }
  void read_header_v2() {
    const auto version = load<int32_t>(bytes().data() + 4);
    if (version != 2)
      throw Error(Errc::unsupported, file_.path() + ": llama2.c version " +
                                         std::to_string(version) +
                                         " cannot be converted; versions 0 and 2 can");
    if (bytes().size() < kHeaderBytesV2) fail("is too short for its header");
    read_shape(bytes().data() + 8);
    shape_.tied = load<uint8_t>(bytes().data() + 36) != 0;
    group_ = load<int32_t>(bytes().data() + 37);
    if (group_ < 1) fail("has a group size below 1");
    at_ = kHeaderBytesV2;
  }
  void check_shape() const {
    const struct {
      const char* name;
      int64_t value, limit;
    } fields[] = {
        {"dim", shape_.width, 1 << 20},          {"hidden_dim", shape_.ffn_width, 1 << 22},
        {"n_layers", shape_.layers, 4096},       {"n_heads", shape_.query_heads, 4096},
        {"n_kv_heads", shape_.heads, 4096},      {"vocab_size", shape_.vocab, 1 << 22},
        {"max_seq_len", shape_.context, 1 << 28}};
    for (const auto& field : fields)
      if (field.value < 1 || field.value > field.limit)
        fail("is no llama2.c checkpoint: '" + std::string(field.name) + "' is " +
             std::to_string(field.value));
    if (shape_.width % shape_.query_heads != 0 || shape_.query_heads % shape_.heads != 0)
      fail("is no llama2.c checkpoint: 'n_heads' and 'n_kv_heads' do not divide evenly");
    if (shape_.dim() % 8 != 0)
      throw Error(Errc::unsupported, file_.path() + ": heads of " + std::to_string(shape_.dim()) +
                                         " dimensions are not supported; multiples of 8 are");
  }

  MappedFile file_;
  Shape shape_;
  int64_t group_ = 0;  // of version 2
  size_t at_ = 0;      // first byte that is not taken yet
};

// Finds every tensor in file order; GGUF order is chosen afterwards.
class Plan {
 public:
  Plan(Checkpoint& from, DType dtype) : from_(from), dtype_(dtype) {
    const Shape s = from.shape();
    if (from.grouped()) {
      take_norms("attn_norm");
      take_norms("ffn_norm");
      take_final_norm();
      matrix("token_embd.weight", s.vocab, s.width);
      take_layers("attn_q", s.width, s.width);
      take_layers("attn_k", s.kv_width(), s.width);
      take_layers("attn_v", s.kv_width(), s.width);
      take_layers("attn_output", s.width, s.width);
      take_feed_forward();
    } else {
      matrix("token_embd.weight", s.vocab, s.width);
      take_norms("attn_norm");
      take_layers("attn_q", s.width, s.width);
      take_layers("attn_k", s.kv_width(), s.width);
      take_layers("attn_v", s.kv_width(), s.width);
      take_layers("attn_output", s.width, s.width);
      take_norms("ffn_norm");
      take_feed_forward();
      take_final_norm();
      from.take_floats(s.context * s.dim());  // rotation tables, computed anew nowadays
    }
    if (!s.tied) matrix("output.weight", s.vocab, s.width);
    from.finish();
  }

  void add_to(ModelWriter& out) {
    for (OutputTensor& t : tensors_) out.add(std::move(t));
  }

 private:
  void add(const std::string& name, std::vector<int64_t> dims, DType dtype, Stretch stretch) {
    OutputTensor t;
    t.name = name;
    t.origin = from_.origin(name);
    t.dtype = dtype;
    t.read = [stretch, cols = dims[0]](int64_t row, float* out) {
      for (int64_t i = 0; i < cols; ++i) out[i] = stretch.at(row * cols + i);
    };
    t.dims = std::move(dims);
    tensors_.push_back(std::move(t));
  }
  void matrix(const std::string& name, int64_t rows, int64_t cols) {
    add(name, {cols, rows}, dtype_, from_.take_matrix(rows, cols));
  }
  void take_layers(const char* name, int64_t rows, int64_t cols) {
    for (int64_t l = 0; l < from_.shape().layers; ++l) matrix(layer(l, name), rows, cols);
  }
  void take_norms(const char* name) {
    const int64_t width = from_.shape().width;
    for (int64_t l = 0; l < from_.shape().layers; ++l)
      add(layer(l, name), {width}, DType::f32, from_.take_floats(width));
  }
  void take_final_norm() {
    const int64_t width = from_.shape().width;
    add("output_norm.weight", {width}, DType::f32, from_.take_floats(width));
  }
  void take_feed_forward() {
    const Shape& s = from_.shape();
    take_layers("ffn_gate", s.ffn_width, s.width);
    take_layers("ffn_down", s.width, s.ffn_width);
    take_layers("ffn_up", s.ffn_width, s.width);
  }
  static std::string layer(int64_t l, const char* name) {
    return "blk." + std::to_string(l) + "." + name + ".weight";
  }

  Checkpoint& from_;
  DType dtype_;
  std::vector<OutputTensor> tensors_;
};

// SentencePiece writes a space as U+2581; tokenizer.bin has turned it into a plain one.
std::string with_space_marks(std::string_view piece) {
  std::string out;
  for (const char c : piece) {
    if (c == ' ')
      out += "\xe2\x96\x81";
    else
      out += c;
  }
  return out;
}

Vocabulary read_tokenizer(const std::string& path, int64_t vocab) {
  const MappedFile file(path);
  std::span<const std::byte> rest = file.bytes();
  const auto take = [&](size_t bytes) {
    if (bytes > rest.size())
      throw Error(Errc::bad_file, path + ": ends before the model's " + std::to_string(vocab) +
                                      " tokens; it belongs to another model or is cut short");
    const std::byte* from = rest.data();
    rest = rest.subspan(bytes);
    return from;
  };
  take(4);  // length of the longest piece; only llama2.c needs it
  Vocabulary v;
  v.model = "llama";
  v.begin = 1;
  v.end = 2;
  v.unknown = 0;
  v.add_begin = v.add_space_prefix = true;
  for (int64_t id = 0; id < vocab; ++id) {
    const auto score = load<float>(take(4));
    const auto length = load<int32_t>(take(4));
    if (length < 0 || !std::isfinite(score))
      throw Error(Errc::bad_file, path + ": token " + std::to_string(id) + " is damaged");
    const std::string_view piece(reinterpret_cast<const char*>(take(static_cast<size_t>(length))),
                                 static_cast<size_t>(length));
    if (id < 3) {
      static constexpr const char* kControl[] = {"<unk>", "<s>", "</s>"};
      v.set(static_cast<int32_t>(id), kControl[id], id ? TokenKind::control : TokenKind::unknown);
    } else if (id < 259) {
      v.set(static_cast<int32_t>(id), std::string(piece), TokenKind::byte, score);
    } else {
      v.set(static_cast<int32_t>(id), with_space_marks(piece), TokenKind::normal, score);
    }
  }
  if (!rest.empty())
    throw Error(Errc::bad_file, path + ": holds more than the model's " + std::to_string(vocab) +
                                    " tokens; it belongs to another model");
  for (int byte = 0; byte < 256 && byte + 3 < vocab; ++byte) {
    constexpr std::string_view kHex = "0123456789ABCDEF";
    const std::string name = std::string("<0x") + kHex[byte / 16] + kHex[byte % 16] + ">";
    if (v.tokens[static_cast<size_t>(byte) + 3] == name) continue;
    std::string what = path + ": token " + std::to_string(byte + 3) + " is not the byte ";
    throw Error(Errc::bad_file, what.append(name).append("; this is no llama2.c tokenizer"));
  }
  return v;
}

void write_metadata(GgufWriter& out, const Shape& s, const std::string& name, DType dtype) {
  const auto u32 = [&](const char* key, int64_t value) {
    out.set_u32(std::string("llama.") + key, static_cast<uint32_t>(value));
  };
  out.set_text("general.architecture", "llama");
  out.set_text("general.name", name);
  set_file_type(out, dtype);
  u32("context_length", s.context);
  u32("embedding_length", s.width);
  u32("block_count", s.layers);
  u32("feed_forward_length", s.ffn_width);
  u32("attention.head_count", s.query_heads);
  u32("attention.head_count_kv", s.heads);
  u32("rope.dimension_count", s.dim());
  u32("vocab_size", s.vocab);
  out.set_f32("llama.rope.freq_base", 10000);
  out.set_f32("llama.attention.layer_norm_rms_epsilon", kNormEps);
}

}  // namespace

void convert_llama2c(const std::string& checkpoint, const std::string& tokenizer,
                     const std::string& out, DType dtype, Monitor& monitor) {
  check_convert_dtype(dtype);
  Checkpoint from(checkpoint);
  Plan plan(from, dtype);
  const Vocabulary vocabulary = read_tokenizer(tokenizer, from.shape().vocab);
  ModelWriter writer(out, "convert", monitor);
  write_metadata(writer.metadata(), from.shape(), std::filesystem::path(checkpoint).stem().string(),
                 dtype);
  write_vocabulary(writer.metadata(), vocabulary);
  plan.add_to(writer);
  writer.write();
}

}  // namespace pith

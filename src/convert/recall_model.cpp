// The weights of the recall model. docs/recall_model.md explains the circuit; the numbers below
// are its free choices, and tests/convert/synthesize_recall_test.cpp checks the margins they give.
#include <algorithm>
#include <array>
#include <cmath>

#include "base/random.h"
#include "convert/hf_config.h"
#include "convert/model_writer.h"
#include "convert/recall_vocabulary.h"
#include "convert/synthesize.h"
#include "tensor/codec.h"

namespace pith {
namespace {

constexpr int kLayers = 4, kQueryHeads = 4, kHeads = 2, kDim = 64, kWidth = 256, kFeed = 256;
constexpr int kGroup = kQueryHeads / kHeads, kPairs = kDim / 2;
constexpr double kRopeBase = 1e12;
constexpr float kNormEps = 1e-6f;

// The residual stream.
constexpr int kConstant = 0;   // 8 in every token
constexpr int kCode = 1;       // 64 dims of +-1: which token this is
constexpr int kPrevious = 65;  // 64: which token came before; written by layer 0
constexpr int kAnswer = 129;   // 64: which token should follow; written by retrieval heads
constexpr int kName = 193;     // +4 in names, -4 elsewhere
constexpr int kStop = 194;     // +4 in ends of sentences, -4 elsewhere
constexpr int kSink = 195;     // +4 in "<s>", -4 elsewhere
constexpr int kScratch = 196;  // 59 dims that nothing reads
constexpr int kScratchDims = 59;
constexpr int kBalance = 255;  // 8 in "<s>", which has no code: every token has the same norm
constexpr float kConstantValue = 8, kFlag = 4;

// Mean squares that RMSNorm divides by, for an ordinary token: 64 (constant) + 64 (code) + 48
// (flags) at the input, 64 more with the previous token's code. The answer (at most 64 more) and
// the scratch dims change it by a few per cent, which the margins cover.
constexpr double kInputSquares = 176, kLaterSquares = 242;
constexpr double kSinkSquares = 178;  // of "<s>" in layers 1 to 3: nothing comes before it

// A retrieval head compares 30 bits, scored kPerBit each, so that a match scores 150 and the best
// of all other codes at most 90. Names lose 60. "<s>" scores half-way between (120 for a query
// that may find something) and above everything for the end of a sentence.
constexpr int kBits = 30;
constexpr double kPerBit = 5, kNameScore = 30;
constexpr double kMatch = kPerBit * kBits;
// What a retrieval head reads at "<s>": "</s>", faintly, so that one of the two heads finding the
// value outweighs the other finding nothing.
constexpr double kNothing = 0.375;

// Each of the four retrieving query heads adds this share of the code it found to the stream, which
// is too little to change its norm by more than 1 %; the output matrix makes up for it.
constexpr float kAnswerShare = 0.0625f, kLogit = 2;

// Heads that look nearby: pairs from `first` on, whose angles grow slowly enough to see about as
// far as the name says, at `strength` each.
enum class Look { previous, near4, near16, near64, sink, match_low, match_high };
struct Nearby {
  int first;
  double strength;
};
constexpr Nearby nearby(Look look) {
  switch (look) {
    case Look::near4:
      return {2, 8};
    case Look::near16:
      return {4, 8};
    default:
      return {6, 8};
  }
}

// What the query heads of every layer look at; kGroup neighbours share a KV head.
constexpr Look kLooks[kLayers][kQueryHeads] = {
    {Look::previous, Look::previous, Look::near4, Look::near16},
    {Look::match_low, Look::match_low, Look::sink, Look::near64},
    {Look::near16, Look::near64, Look::match_high, Look::match_high},
    {Look::near4, Look::sink, Look::near64, Look::sink},
};
constexpr bool retrieves(Look look) {
  return look == Look::match_low || look == Look::match_high;
}

// Angle of pair i per position, from the base as the file stores it.
double frequency(int pair) {
  return std::pow(static_cast<double>(static_cast<float>(kRopeBase)),
                  -static_cast<double>(pair) / kPairs);
}

struct Matrix {
  int rows, cols;
  std::vector<float> values;
  Matrix(int rows, int cols)
      : rows(rows), cols(cols), values(static_cast<size_t>(rows) * static_cast<size_t>(cols)) {}
  float& at(int row, int col) {
    return values[static_cast<size_t>(row) * static_cast<size_t>(cols) + static_cast<size_t>(col)];
  }
};

// A second-order Reed-Muller code: `message` is a polynomial of degree 2 in five bits, evaluated
// at all 32 points. Two different messages differ in at least 8 places.
std::array<int, 32> code_word(uint32_t message) {
  std::array<int, 32> word{};
  for (int point = 0; point < 32; ++point) {
    uint32_t terms = 1;
    int next = 1;
    for (int i = 0; i < 5; ++i) terms |= static_cast<uint32_t>(point >> i & 1) << next++;
    for (int i = 0; i < 5; ++i)
      for (int j = i + 1; j < 5; ++j)
        terms |= static_cast<uint32_t>((point >> i) & (point >> j) & 1) << next++;
    word[static_cast<size_t>(point)] = __builtin_parity(terms & message) != 0 ? -1 : 1;
  }
  return word;
}

// [token][64]: two code words each, both unique.
std::vector<std::array<int, 64>> token_codes(uint64_t seed) {
  std::vector<std::array<int, 64>> codes(RecallWords::kSize);
  for (int half = 0; half < 2; ++half) {
    Random random(seed, static_cast<uint64_t>(half) << 32);
    std::vector<uint32_t> messages(1 << 16);
    for (uint32_t i = 0; i < messages.size(); ++i) messages[i] = i;
    for (size_t t = 0; t < codes.size(); ++t) {
      std::swap(messages[t], messages[t + random.below(messages.size() - t)]);
      const std::array<int, 32> word = code_word(messages[t]);
      std::copy(word.begin(), word.end(), codes[t].begin() + 32 * half);
    }
  }
  return codes;
}

struct LayerMatrices {
  Matrix q{kQueryHeads * kDim, kWidth}, k{kHeads * kDim, kWidth}, v{kHeads * kDim, kWidth};
  Matrix o{kWidth, kQueryHeads* kDim};
};

// Writes one layer. Every weight that reads the stream is multiplied by what RMSNorm divides by.
class LayerBuilder {
 public:
  LayerBuilder(int layer, uint64_t seed, const std::array<int, 64>& end_code)
      : looks_(kLooks[layer]),
        norm_(std::sqrt((layer == 0 ? kInputSquares : kLaterSquares) / kWidth)),
        end_code_(end_code),
        random_(seed, (uint64_t{16} + static_cast<uint64_t>(layer)) << 32) {}

  LayerMatrices build() {
    for (int head = 0; head < kHeads; ++head) {
      const Look look = looks_[head * kGroup];
      if (retrieves(look))
        match_key(head, look);
      else
        nearby_key(head);
      value(head, retrieves(look));
    }
    for (int head = 0; head < kQueryHeads; ++head) {
      query(head);
      output(head);
    }
    return std::move(m_);
  }

 private:
  // Row `row` of a projection takes `value` times what stands in stream dim `dim`.
  void read(Matrix& m, int row, int dim, double value) const {
    m.at(row, dim) = static_cast<float>(value * norm_);
  }

  // Bits in the slow pairs 16 to 30, whose angles stay below 0.07 up to 64k tokens; flags in the
  // last pair, which does not turn at all.
  void match_key(int head, Look look) {
    const int bits = kPrevious + (look == Look::match_low ? 0 : kDim - kBits);
    for (int i = 0; i < kBits; ++i) read(m_.k, head * kDim + 32 + i, bits + i, kKeyBit);
    read(m_.k, head * kDim + 62, kName, kKeyFlag / kFlag);
    read(m_.k, head * kDim + 63, kSink, kKeyFlag / kFlag);
  }

  // Every row has the same key in the fast pairs, turned by its position; "<s>" is told apart.
  void nearby_key(int head) {
    for (int pair = 0; pair < 16; ++pair)
      read(m_.k, head * kDim + 2 * pair, kConstant, kKeyFlag / kConstantValue);
    read(m_.k, head * kDim + 63, kSink, kKeyFlag / kFlag);
  }

  // Every head carries the token's code. For retrieval heads "<s>" carries that of "</s>": constant
  // and sink flag cancel in all other tokens.
  void value(int head, bool retrieval) {
    for (int i = 0; i < kDim; ++i) {
      const int row = head * kDim + i;
      read(m_.v, row, kCode + i, 1);
      if (!retrieval) continue;
      const double half = kNothing / 2 * end_code_[static_cast<size_t>(i)];
      read(m_.v, row, kConstant, half / kConstantValue);
      read(m_.v, row, kSink, half / kFlag);
    }
  }

  // Turns a score (of 1 in units of the key's flag) into a query weight on the constant.
  static double from_constant(double score) { return score * kScale / kKeyFlag / kConstantValue; }

  void query(int head) {
    const Look look = looks_[head];
    const int row = head * kDim;
    if (retrieves(look)) {
      const int bits = kCode + (look == Look::match_low ? 0 : kDim - kBits);
      for (int i = 0; i < kBits; ++i)
        read(m_.q, row + 32 + i, bits + i, kPerBit * kScale / kKeyBit);
      read(m_.q, row + 62, kConstant, from_constant(-kNameScore));
      // "<s>" has a smaller norm than other rows, so its key is longer by `gain`. Its score is
      // gain * (kNameScore + sink), a match scores kMatch + kNameScore - sink.
      const double gain = std::sqrt(kLaterSquares / kSinkSquares);
      const auto sink_for = [&](double below_match) {
        return (kMatch - below_match + kNameScore * (1 - gain)) / (1 + gain);
      };
      const double open = sink_for(30), closed = sink_for(-30);
      read(m_.q, row + 63, kConstant, from_constant((open + closed) / 2));
      read(m_.q, row + 63, kStop, (closed - open) / 2 * kScale / kKeyFlag / kFlag);
    } else if (look == Look::sink) {
      read(m_.q, row + 63, kConstant, from_constant(15));
    } else if (look == Look::previous) {
      // The key of the row before, turned back by one position, points where this query does.
      for (int pair = 0; pair < 16; ++pair) {
        const double angle = frequency(pair);
        read(m_.q, row + 2 * pair, kConstant, from_constant(kPreviousStrength) * std::cos(angle));
        read(m_.q, row + 2 * pair + 1, kConstant,
             from_constant(-kPreviousStrength) * std::sin(angle));
      }
    } else {
      const Nearby kernel = nearby(look);
      for (int pair = kernel.first; pair < 16; ++pair)
        read(m_.q, row + 2 * pair, kConstant, from_constant(kernel.strength));
    }
  }

  void output(int head) {
    const Look look = looks_[head];
    for (int i = 0; i < kDim; ++i) {
      if (look == Look::previous) m_.o.at(kPrevious + i, head * kDim + i) = 0.5f;
      if (retrieves(look)) m_.o.at(kAnswer + i, head * kDim + i) = kAnswerShare;
    }
    if (look == Look::previous || retrieves(look)) return;
    for (int row = 0; row < kScratchDims; ++row)
      for (int i = 0; i < kDim; ++i)
        m_.o.at(kScratch + row, head * kDim + i) = random_.below(2) == 0 ? 0.03125f : -0.03125f;
  }

  static constexpr double kScale = 8;  // sqrt(kDim): attention divides by it
  static constexpr double kKeyBit = 4, kKeyFlag = 8;
  static constexpr double kPreviousStrength = 40;  // a pair; neighbours then lose 22 or more

  const Look* looks_;
  double norm_;
  const std::array<int, 64>& end_code_;
  Random random_;
  LayerMatrices m_;
};

Matrix embedding(const std::vector<std::array<int, 64>>& codes) {
  Matrix m(RecallWords::kSize, kWidth);
  for (int32_t t = 0; t < RecallWords::kSize; ++t) {
    m.at(t, kConstant) = kConstantValue;
    m.at(t, kName) = RecallWords::is_name(t) ? kFlag : -kFlag;
    m.at(t, kStop) = RecallWords::ends_sentence(t) ? kFlag : -kFlag;
    m.at(t, kSink) = t == RecallWords::kBegin ? kFlag : -kFlag;
    for (int i = 0; i < 64; ++i)
      m.at(t, kCode + i) =
          static_cast<float>(codes[static_cast<size_t>(t)][static_cast<size_t>(i)]);
  }
  for (int i = 0; i < 64; ++i) m.at(RecallWords::kBegin, kCode + i) = 0;
  m.at(RecallWords::kBegin, kBalance) = 8;
  return m;
}

Matrix unembedding(const std::vector<std::array<int, 64>>& codes) {
  Matrix m(RecallWords::kSize, kWidth);
  for (int32_t t = 0; t < RecallWords::kSize; ++t)
    for (int i = 0; i < 64; ++i)
      m.at(t, kAnswer + i) =
          kLogit * static_cast<float>(codes[static_cast<size_t>(t)][static_cast<size_t>(i)]);
  return m;
}

void write_matrix(GgufWriter& out, const Matrix& m) {
  std::vector<std::byte> row(row_bytes(DType::f16, m.cols));
  for (int r = 0; r < m.rows; ++r) {
    encode_row(DType::f16, m.values.data() + static_cast<ptrdiff_t>(r) * m.cols, m.cols,
               row.data());
    out.write_part(row);
  }
}

void describe(GgufWriter& out, const RecallOptions& options) {
  HfConfig config;
  config.arch = "llama";
  config.name = "Pith recall model (constructed, not trained)";
  config.layers = kLayers;
  config.width = kWidth;
  config.query_heads = kQueryHeads;
  config.heads = kHeads;
  config.dim = kDim;
  config.ffn_width = kFeed;
  config.vocab = RecallWords::kSize;
  config.context = options.context;
  config.norm_eps = kNormEps;
  config.rope_base = kRopeBase;
  write_hf_config(out, config);
  out.set_text("general.description",
               "Weights written down, not trained: looks up what followed a word earlier in the "
               "text. It knows no language.");
  out.set_u64("pith.recall.seed", options.seed);
  set_file_type(out, DType::f16);
  write_vocabulary(out, recall_vocabulary());
}

void write_recall(GgufWriter& out, const RecallOptions& options, Monitor& monitor) {
  describe(out, options);
  const auto matrix = [&](const std::string& name, int64_t rows, int64_t cols) {
    out.add_tensor(name, DType::f16, std::array{cols, rows});
  };
  const auto vector = [&](const std::string& name) {
    out.add_tensor(name, DType::f32, std::array<int64_t, 1>{kWidth});
  };
  matrix("token_embd.weight", RecallWords::kSize, kWidth);
  for (int l = 0; l < kLayers; ++l) {
    const std::string block = "blk." + std::to_string(l) + ".";
    vector(block + "attn_norm.weight");
    matrix(block + "attn_q.weight", kQueryHeads * kDim, kWidth);
    matrix(block + "attn_k.weight", kHeads * kDim, kWidth);
    matrix(block + "attn_v.weight", kHeads * kDim, kWidth);
    matrix(block + "attn_output.weight", kWidth, kQueryHeads * kDim);
    vector(block + "ffn_norm.weight");
    matrix(block + "ffn_gate.weight", kFeed, kWidth);
    matrix(block + "ffn_up.weight", kFeed, kWidth);
    matrix(block + "ffn_down.weight", kWidth, kFeed);
  }
  vector("output_norm.weight");
  matrix("output.weight", RecallWords::kSize, kWidth);
  out.begin();

  const std::vector<float> ones(kWidth, 1.0f);
  const auto write_ones = [&] { out.write_tensor(std::as_bytes(std::span(ones))); };
  const auto codes = token_codes(options.seed);
  write_matrix(out, embedding(codes));
  const Matrix feed_in(kFeed, kWidth), feed_out(kWidth, kFeed);  // zero
  for (int l = 0; l < kLayers; ++l) {
    monitor.check();
    monitor.progress("recall model", l, kLayers);
    const LayerMatrices m = LayerBuilder(l, options.seed, codes[RecallWords::kEnd]).build();
    write_ones();
    write_matrix(out, m.q);
    write_matrix(out, m.k);
    write_matrix(out, m.v);
    write_matrix(out, m.o);
    write_ones();
    write_matrix(out, feed_in);
    write_matrix(out, feed_in);
    write_matrix(out, feed_out);
  }
  write_ones();
  write_matrix(out, unembedding(codes));
  monitor.progress("recall model", kLayers, kLayers);
  monitor.check();
  out.finish();
}

}  // namespace

void write_recall_model(const std::string& out, const RecallOptions& options, Monitor& monitor) {
  GgufWriter writer(out);
  write_recall(writer, options, monitor);
}

std::vector<std::byte> recall_model_bytes(const RecallOptions& options) {
  std::vector<std::byte> bytes;
  GgufWriter writer(bytes);
  write_recall(writer, options, Monitor::silent());
  return bytes;
}

std::vector<std::pair<int, int>> recall_retrieval_heads() {
  std::vector<std::pair<int, int>> heads;
  for (int l = 0; l < kLayers; ++l)
    for (int h = 0; h < kHeads; ++h)
      if (retrieves(kLooks[l][h * kGroup])) heads.emplace_back(l, h);
  return heads;
}

}  // namespace pith

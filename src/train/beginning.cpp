#include "train/beginning.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/random.h"

namespace pith {
namespace {

// The residual stream: a constant, the token's code, the code of the answer, and the first bits of
// the codes of the tokens 1 to 4 back.
constexpr int kOffsets = 4, kCodeBits = 64, kHalf = 32;
constexpr int kCode = 1, kAnswer = kCode + kCodeBits, kBefore = kAnswer + kCodeBits;
constexpr int kBitsBefore[kOffsets] = {32, 24, 16, 16};
constexpr int before(int offset) {  // where the bits of the token `offset` back begin
  int at = kBefore;
  for (int o = 1; o < offset; ++o) at += kBitsBefore[o - 1];
  return at;
}
constexpr int kUsed = before(kOffsets + 1);
constexpr float kConstant = 4;

// Mean squares that RMSNorm divides by, for a typical token: constant and code; later what the
// heads of layer 0 added, too.
constexpr double kInputSquares = kConstant * kConstant + kCodeBits;
constexpr double kLaterSquares = kInputSquares + 32 + 24 + 16 + 16;

// Which token back each compared bit is of: newer tokens have more of them, and come first where a
// head has room for fewer.
constexpr int kCompared[] = {1, 2, 3, 1, 2, 4, 1, 3, 1, 2, 1, 4, 1, 2, 3, 1, 2, 3, 1, 4};
constexpr int kMatchers = 4;                             // heads that compare
constexpr int kBitsPerMatcher[kOffsets] = {8, 6, 4, 4};  // of kBitsBefore, each its own

// Scores, in natural logarithms.
constexpr double kLookBack = 20;       // per pair, at the row that is looked for
constexpr double kPerBit = 1.5;        // of a match
constexpr float kAnswerShare = 0.25f;  // what a query head adds of the code it found
constexpr float kLogit = 0.12f;
constexpr double kKey = 2;  // size of a key's values

constexpr float kFreeDims = 0.3f;  // of embeddings, where the circuit reads nothing

class Circuit {
 public:
  Circuit(const NetworkShape& shape, const ParameterLayout& layout, std::vector<float>& weights,
          uint64_t seed)
      : s_(shape),
        layout_(layout),
        weights_(weights),
        random_(seed, uint64_t{1} << 40),
        group_(shape.query_heads / shape.heads),
        pairs_(shape.dim / 2) {
    const auto require = [](bool good, const char* what) {
      if (!good)
        throw Error(Errc::bad_option, std::string("beginning: 'recall' needs ") + what +
                                          "; change the model, or begin with 'random'");
    };
    require(s_.width >= kUsed, "a width of 224 or more");
    require(s_.layers >= 3, "three layers or more");
    require(s_.heads >= 2 && group_ >= 2, "two heads or more, of two query heads each");
    require(s_.dim >= kHalf, "heads of 32 dimensions or more");
    // Pairs whose angle stays below 3/4 over the whole context.
    while (slow_ < pairs_ && frequency(slow_) * s_.context > 0.75) ++slow_;
    require(slow_ >= 3 && pairs_ - slow_ >= 8,
            "three pairs that turn fast and eight that turn slowly; 'rope_base' sets them");
  }

  void write(std::span<const float> shares) {
    write_codes(shares);
    for (int offset = 1; offset <= kOffsets; ++offset) look_back(offset);
    for (int matcher = 0; matcher < kMatchers; ++matcher) match(matcher);
  }

 private:
  double frequency(int pair) const {
    return std::pow(s_.rope_base, -static_cast<double>(pair) / pairs_);
  }
  float& at(const Parameter& p, int64_t row, int64_t col) {
    return weights_[static_cast<size_t>(p.offset + row * p.cols + col)];
  }
  // Sets a weight that reads the stream behind a norm.
  void read(const Parameter& p, int64_t row, int dim, double value, int layer) {
    const double norm = std::sqrt((layer == 0 ? kInputSquares : kLaterSquares) / s_.width);
    at(p, row, dim) = static_cast<float>(value * norm);
  }
  void clear_rows(const Parameter& p, int64_t first, int64_t rows) {
    std::fill_n(&at(p, first, 0), rows * p.cols, 0.0f);
  }
  void clear_columns(const Parameter& p, int64_t first, int64_t cols) {
    for (int64_t row = 0; row < p.rows; ++row) std::fill_n(&at(p, row, first), cols, 0.0f);
  }

  void write_codes(std::span<const float> shares) {
    const Parameter& in = layout_.find("token_embd.weight");
    const Parameter& out = layout_.find("output.weight");
    for (int t = 0; t < s_.vocab; ++t) {
      for (int i = 0; i < s_.width; ++i)
        at(in, t, i) = i < kUsed ? 0 : kFreeDims * random_.normal();
      at(in, t, 0) = kConstant;
      for (int i = 0; i < kCodeBits; ++i) {
        const float bit = random_.below(2) == 0 ? 1.0f : -1.0f;
        at(in, t, kCode + i) = bit;
        at(out, t, kAnswer + i) = kLogit * bit;
      }
      if (shares.empty()) continue;
      // The constant says how common a token is.
      const double share = std::max(1e-6, double{shares[static_cast<size_t>(t)]});
      read(out, t, 0, std::log(share * s_.vocab) / kConstant, 1);
    }
  }

  // What a head hands on: half of the row's code.
  void carry_code(int layer, int head, int half) {
    const Parameter& v = layout_.of_layer(layer, "attn_v");
    clear_rows(v, int64_t{head} * s_.dim, s_.dim);
    for (int i = 0; i < kHalf; ++i)
      read(v, int64_t{head} * s_.dim + i, kCode + half * kHalf + i, 1, layer);
  }

  // The token `offset` back: every row has the same key in the fast pairs, turned by its position;
  // the query is turned back by `offset` positions.
  void look_back(int offset) {
    const int head = (offset - 1) / 2, query = head * group_ + (offset - 1) % 2;
    const Parameter& q = layout_.of_layer(0, "attn_q");
    const Parameter& k = layout_.of_layer(0, "attn_k");
    const Parameter& o = layout_.of_layer(0, "attn_output");
    carry_code(0, head, 0);
    const int64_t key_row = int64_t{head} * s_.dim, query_row = int64_t{query} * s_.dim;
    clear_rows(k, key_row, s_.dim);
    clear_rows(q, query_row, s_.dim);
    const double strength = kLookBack * std::sqrt(s_.dim) / kKey;
    for (int pair = 0; pair < slow_; ++pair) {
      const double angle = offset * frequency(pair);
      read(k, key_row + 2 * pair, 0, kKey / kConstant, 0);
      read(q, query_row + 2 * pair, 0, strength * std::cos(angle) / kConstant, 0);
      read(q, query_row + 2 * pair + 1, 0, -strength * std::sin(angle) / kConstant, 0);
    }
    clear_columns(o, query_row, s_.dim);
    for (int i = 0; i < kBitsBefore[offset - 1]; ++i) at(o, before(offset) + i, query_row + i) = 1;
  }

  // Compares this token and those before it with what came before each earlier row, and reads that
  // row's code. Matchers 0 and 1 lie in layer 1, 2 and 3 in layer 2; of each two, one reads the
  // first half of the code and one the second. The second query head compares two tokens only.
  void match(int matcher) {
    const int layer = 1 + matcher / 2, head = matcher % 2;
    const Parameter& q = layout_.of_layer(layer, "attn_q");
    const Parameter& k = layout_.of_layer(layer, "attn_k");
    const Parameter& o = layout_.of_layer(layer, "attn_output");
    carry_code(layer, head, head);
    const int64_t key_row = int64_t{head} * s_.dim, query_row = int64_t{head} * group_ * s_.dim;
    clear_rows(k, key_row, s_.dim);
    clear_rows(q, query_row, 2 * s_.dim);
    clear_columns(o, query_row, 2 * s_.dim);
    int used[kOffsets] = {};
    int at_dim = 2 * slow_;
    for (const int offset : kCompared) {
      if (at_dim == s_.dim) break;
      int& next = used[offset - 1];
      const int bit = matcher * kBitsPerMatcher[offset - 1] + next++;
      // What is `offset` back from the row that answers is `offset` - 1 back from here.
      const int here = offset == 1 ? kCode + bit : before(offset - 1) + bit;
      const double score = kPerBit * std::sqrt(s_.dim) / kKey;
      read(k, key_row + at_dim, before(offset) + bit, kKey, layer);
      read(q, query_row + at_dim, here, score, layer);
      if (offset <= 2) read(q, query_row + s_.dim + at_dim, here, 1.25 * score, layer);
      ++at_dim;
    }
    for (int g = 0; g < 2; ++g)
      for (int i = 0; i < kHalf; ++i)
        at(o, kAnswer + head * kHalf + i, query_row + g * s_.dim + i) = kAnswerShare;
  }

  const NetworkShape& s_;
  const ParameterLayout& layout_;
  std::vector<float>& weights_;
  Random random_;
  int group_, pairs_, slow_ = 0;
};

}  // namespace

std::vector<float> first_weights(const NetworkShape& shape, Beginning beginning,
                                 std::span<const float> shares, uint64_t seed) {
  const ParameterLayout layout(shape);
  std::vector<float> weights(static_cast<size_t>(layout.size()));
  Random random(seed);
  for (const Parameter& p : layout.all()) {
    const auto values =
        std::span(weights).subspan(static_cast<size_t>(p.offset), static_cast<size_t>(p.size()));
    if (p.vector) {
      std::ranges::fill(values, 1.0f);
      continue;
    }
    // What is added to the stream starts small, so that deep networks begin near the identity.
    const bool adds =
        p.name.find("attn_output") != p.name.npos || p.name.find("ffn_down") != p.name.npos;
    double spread = 0.5 / std::sqrt(static_cast<double>(p.cols));
    if (adds) spread /= std::sqrt(2.0 * shape.layers);
    if (p.name == "output.weight") spread *= 0.3;
    for (float& value : values) value = static_cast<float>(spread * random.normal());
  }
  if (beginning == Beginning::recall) Circuit(shape, layout, weights, seed).write(shares);
  return weights;
}

}  // namespace pith

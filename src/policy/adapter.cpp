#include "policy/adapter.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/error.h"
#include "gguf/gguf.h"
#include "gguf/names.h"
#include "policy/select.h"
#include "tensor/codec.h"

namespace pith {
namespace {

constexpr float kNormEps = 1e-6f;

class Reading {
 public:
  Reading(const std::string& path, const KvShape& shape)
      : file_(GgufFile::open(path)), shape_(shape) {}

  std::shared_ptr<const Adapter> adapter(std::string_view model_digest) {
    if (file_->text("general.type", "") != "adapter" ||
        file_->text("pith.adapter.method", "") != "kvdistill")
      fail("is no adapter of this method; 'pith distill' makes one");
    const std::string_view made_for = file_->text("pith.adapter.model");
    if (!model_digest.empty() && made_for != model_digest)
      fail("was trained on another model (its digest is " + shown_name(made_for) +
           ", this model's " + std::string(model_digest) +
           "); run 'pith distill' on this one, or run the model it was trained on");
    Adapter a;
    a.layer = number("kvdistill.layer", 0, std::max(0, shape_.layers - 2),
                     "the index of a layer before the last");
    a.rank = number("kvdistill.rank", 1, 1 << 16, "between 1 and 65536");
    a.fold = number("kvdistill.fold", 0, 1 << 30, "a multiple of 128");
    if (a.fold % ReadPlan::kBlock != 0) fail("'kvdistill.fold' must be a multiple of 128");
    read_scorer(a.scorer);
    const int64_t width = shape_.width, queries = int64_t{shape_.query_heads} * shape_.dim,
                  rows = int64_t{shape_.heads} * shape_.dim;
    for (int l = 0; l < shape_.layers; ++l) {
      const std::string at = "blk." + std::to_string(l) + ".attn_";
      LayerAdapter& layer = a.layers.emplace_back();
      layer.q = low_rank(at + "q", width, queries, a.rank);
      layer.k = low_rank(at + "k", width, rows, a.rank);
      layer.v = low_rank(at + "v", width, rows, a.rank);
      layer.o = low_rank(at + "output", queries, width, a.rank);
    }
    if (file_->tensors().size() != read_)
      fail("holds tensors that belong to no adapter of a model with " +
           std::to_string(shape_.layers) + " layers; run 'pith distill' again");
    a.memory = file_;
    a.content_digest = file_->content_digest();
    return std::make_shared<const Adapter>(std::move(a));
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw Error(Errc::bad_file, file_->path() + ": " + what);
  }

  int number(std::string_view key, int64_t low, int64_t high, const char* what) const {
    const int64_t value = file_->integer(key);
    if (value < low || value > high)
      fail(shown_name(key) + " is " + std::to_string(value) + ", but must be " + what);
    return static_cast<int>(value);
  }

  // Of a format that has no blocks, and with nothing in it that is not a number.
  WeightMatrix matrix(const std::string& name, int64_t rows, int64_t cols) {
    const GgufTensor& t = file_->tensor(name);
    if (t.dims[0] != cols || t.rows() != rows)
      fail("the tensor " + shown_name(name) + " has " + std::to_string(t.rows()) + " rows of " +
           std::to_string(t.dims[0]) + " where this model needs " + std::to_string(rows) + " of " +
           std::to_string(cols) + "; the adapter belongs to another model");
    if (t.dtype != DType::f32 && t.dtype != DType::f16 && t.dtype != DType::bf16)
      fail("the tensor " + shown_name(name) + " is " + std::string(traits(t.dtype).name) +
           ", but must be F32, F16 or BF16");
    std::vector<float> row(static_cast<size_t>(cols));
    const size_t bytes = row_bytes(t.dtype, cols);
    for (int64_t r = 0; r < rows; ++r) {
      decode_row(t.dtype, t.data.data() + static_cast<size_t>(r) * bytes, cols, row.data());
      for (const float x : row)
        if (!std::isfinite(x))
          fail("the tensor " + shown_name(name) +
               " holds values that are no numbers; the file is damaged, run 'pith distill' again");
    }
    ++read_;
    return {.dtype = t.dtype, .data = t.data.data(), .rows = rows, .cols = cols};
  }

  LowRank low_rank(const std::string& name, int64_t inputs, int64_t outputs, int64_t rank) {
    return {matrix(name + ".weight.lora_a", rank, inputs),
            matrix(name + ".weight.lora_b", outputs, rank)};
  }

  std::vector<float> bias(const std::string& name, int64_t count) {
    const std::span<const float> values = file_->floats(name, count);
    for (const float x : values)
      if (!std::isfinite(x))
        fail("the tensor " + shown_name(name) +
             " holds values that are no numbers; the file is damaged, run 'pith distill' again");
    ++read_;
    return {values.begin(), values.end()};
  }

  void read_scorer(TokenScorer& scorer) {
    int64_t inputs = shape_.width;
    if (file_->has_tensor("scorer.up.weight")) {
      inputs = file_->tensor("scorer.up.weight").rows();
      scorer.up = matrix("scorer.up.weight", inputs, shape_.width);
      scorer.up_bias = bias("scorer.up.bias", inputs);
    }
    scorer.down = matrix("scorer.down.weight", 1, inputs);
    scorer.down_bias = bias("scorer.down.bias", 1)[0];
  }

  std::shared_ptr<const GgufFile> file_;
  const KvShape& shape_;
  size_t read_ = 0;  // tensors
};

}  // namespace

std::shared_ptr<const Adapter> Adapter::load(const std::string& path, const KvShape& shape,
                                             std::string_view model_digest) {
  return Reading(path, shape).adapter(model_digest);
}

std::vector<float> score_tokens(Backend& ops, const TokenScorer& scorer, ConstMat hidden) {
  constexpr int64_t kRows = 256;  // at a time
  const int64_t rows = hidden.dim[0], width = hidden.dim[1], inner = scorer.up.rows;
  const std::vector<float> ones(static_cast<size_t>(width), 1.0f);
  const auto memory =
      ops.allocate(static_cast<size_t>(kRows * (width + 2 * inner + 1)) * sizeof(float));
  float* const begin = static_cast<float*>(memory->data());
  std::vector<float> scores(static_cast<size_t>(rows));
  for (int64_t first = 0; first < rows; first += kRows) {
    const int64_t count = std::min(kRows, rows - first);
    const ConstMat x{hidden.data + first * hidden.stride[0], {count, width}, {hidden.stride[0], 1}};
    float* at = begin;
    const auto take = [&](int64_t cols) {
      const Mat part = Mat::packed(at, {count, cols});
      at += kRows * cols;
      return part;
    };
    const Mat normed = take(width);
    ops.rms_norm(x, ones, kNormEps, normed);
    Mat input = normed;
    if (scorer.up) {
      const Mat up = take(inner), gated = take(inner);
      ops.matmul(normed, scorer.up, up);
      ops.add_row(scorer.up_bias, up);
      std::fill_n(gated.data, count * inner, 1.0f);
      ops.gate(Gate::silu, up, gated, gated);
      input = gated;
    }
    const Mat out = take(1);
    ops.matmul(input, scorer.down, out);
    const ConstMat here = ops.to_host(out);
    for (int64_t r = 0; r < count; ++r)
      scores[static_cast<size_t>(first + r)] = here.row(r)[0] + scorer.down_bias;
  }
  return scores;
}

std::vector<int32_t> choose_tokens(std::span<const float> scores, int keep, Protect protect,
                                   int fold) {
  const auto rows = static_cast<int64_t>(scores.size());
  std::vector<int32_t> chosen;
  if (fold <= 0 || rows <= fold) {
    top_rows(scores, keep, protect, chosen);
    return chosen;
  }
  const int64_t first = std::min<int64_t>(protect.sink, rows),
                last = std::max<int64_t>(first, rows - protect.recent);
  const int64_t free = last - first;
  const int64_t wanted = std::clamp<int64_t>(keep - (rows - free), 0, free);
  for (int64_t r = 0; r < first; ++r) chosen.push_back(static_cast<int32_t>(r));
  std::vector<int32_t> best;
  int64_t given = 0;
  for (int64_t begin = 0; begin < last; begin += fold) {
    const int64_t from = std::max(begin, first), to = std::min(begin + fold, last);
    if (from >= to) continue;
    const int64_t until = wanted * (to - first) / free;
    top_rows(scores.subspan(static_cast<size_t>(from), static_cast<size_t>(to - from)),
             static_cast<int>(until - given), best);
    given = until;
    for (const int32_t r : best) chosen.push_back(static_cast<int32_t>(from + r));
  }
  for (int64_t r = last; r < rows; ++r) chosen.push_back(static_cast<int32_t>(r));
  return chosen;
}

}  // namespace pith

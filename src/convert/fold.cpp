// A model whose heads' channels are calibrated directions, in order: the same answers from weights
// that were turned once and for all.
#include <algorithm>
#include <string>
#include <string_view>

#include "base/error.h"
#include "convert/convert.h"
#include "convert/model_writer.h"
#include "gguf/names.h"
#include "tensor/codec.h"

namespace pith {
namespace {

// Rows of a projection that become sums of the rows of their head.
struct MixedRows {
  int64_t first = 0, rows = 0;
  int heads = 0;                // of these rows
  const float* maps = nullptr;  // [key/value heads, dim, dim] of the layer
};

// "blk.7.attn_v.weight" is layer 7 and "attn_v.weight"; false for other names.
bool layer_of(std::string_view name, int layers, int& layer, std::string_view& rest) {
  if (!name.starts_with("blk.")) return false;
  name.remove_prefix(4);
  const size_t dot = name.find('.');
  if (dot == 0 || dot == std::string_view::npos || dot > 6) return false;
  layer = 0;
  for (const char c : name.substr(0, dot)) {
    if (c < '0' || c > '9') return false;
    layer = layer * 10 + (c - '0');
  }
  rest = name.substr(dot + 1);
  return layer < layers;
}

class Folder {
 public:
  Folder(std::string path, const FoldMaps& maps) : path_(std::move(path)), maps_(maps) {}

  // Says how a tensor changes; `read` is left alone if it does not.
  void fold(const GgufTensor& t, OutputTensor& out) const {
    int layer = 0;
    std::string_view rest;
    if (!layer_of(t.name, maps_.layers, layer, rest)) return;
    const size_t square = static_cast<size_t>(maps_.dim) * static_cast<size_t>(maps_.dim);
    const size_t at = static_cast<size_t>(layer) * static_cast<size_t>(maps_.heads) * square;
    const float* v = maps_.v.data() + at;
    const float* k = maps_.k.empty() ? nullptr : maps_.k.data() + at;
    if (rest == "attn_output.weight") {
      expect(t, t.dims[0] == rows_of(maps_.query_heads));
      out.read = [this, &t, v](int64_t row, float* to) { turn_columns(t, v, row, to); };
      return;
    }
    const std::string_view part = rest.substr(0, rest.find('.'));
    std::vector<MixedRows> mixed;
    const int64_t queries = rows_of(maps_.query_heads), keys = rows_of(maps_.heads);
    if (part == "attn_v") mixed = {{0, keys, maps_.heads, v}};
    if (part == "attn_k" && k) mixed = {{0, keys, maps_.heads, k}};
    if (part == "attn_q" && k) mixed = {{0, queries, maps_.query_heads, k}};
    if (part == "attn_qkv") {
      mixed = {{queries + keys, keys, maps_.heads, v}};
      if (k) {
        mixed.push_back({0, queries, maps_.query_heads, k});
        mixed.push_back({queries, keys, maps_.heads, k});
      }
    }
    if (mixed.empty()) return;
    const bool bias = rest.ends_with(".bias");
    const int64_t rows = bias ? t.dims[0] : t.rows();
    for (const MixedRows& m : mixed) expect(t, m.first + m.rows <= rows);
    if (bias)
      out.read = [this, &t, mixed](int64_t, float* to) { mix_bias(t, mixed, to); };
    else
      out.read = [this, &t, mixed](int64_t row, float* to) { mix_rows(t, mixed, row, to); };
  }

 private:
  int64_t rows_of(int heads) const { return int64_t{heads} * maps_.dim; }
  void expect(const GgufTensor& t, bool right) const {
    if (!right)
      throw Error(Errc::bad_file, path_ + ": tensor " + shown_name(t.name) +
                                      " has another shape than the heads of the model");
  }
  static void decode(const GgufTensor& t, int64_t row, float* to) {
    decode_row(t.dtype, t.data.data() + static_cast<size_t>(row) * row_bytes(t.dtype, t.dims[0]),
               t.dims[0], to);
  }
  // The direction that becomes row `row` of these, [dim].
  const float* direction(const MixedRows& m, int64_t row) const {
    const int64_t head = row / maps_.dim / (m.heads / maps_.heads);
    return m.maps + (head * maps_.dim + row % maps_.dim) * maps_.dim;
  }

  // Numbers of all heads to their coordinates, one for each of `m`'s rows.
  void turn(const MixedRows& m, const float* from, float* to) const {
    for (int64_t row = 0; row < m.rows; ++row) {
      const float* u = direction(m, row);
      const float* head = from + row - row % maps_.dim;
      double sum = 0;
      for (int d = 0; d < maps_.dim; ++d) sum += double{u[d]} * double{head[d]};
      to[row] = static_cast<float>(sum);
    }
  }

  void mix_rows(const GgufTensor& t, const std::vector<MixedRows>& mixed, int64_t row,
                float* to) const {
    for (const MixedRows& m : mixed) {
      if (row < m.first || row >= m.first + m.rows) continue;
      const int64_t first = row - (row - m.first) % maps_.dim;
      const float* u = direction(m, row - m.first);
      std::vector<float> one(static_cast<size_t>(t.dims[0]));
      std::vector<double> sum(one.size());
      for (int d = 0; d < maps_.dim; ++d) {
        decode(t, first + d, one.data());
        for (size_t i = 0; i < sum.size(); ++i) sum[i] += double{u[d]} * double{one[i]};
      }
      std::ranges::transform(sum, to, [](double x) { return static_cast<float>(x); });
      return;
    }
    decode(t, row, to);
  }

  void mix_bias(const GgufTensor& t, const std::vector<MixedRows>& mixed, float* to) const {
    std::vector<float> old(static_cast<size_t>(t.dims[0]));
    decode(t, 0, old.data());
    std::ranges::copy(old, to);
    for (const MixedRows& m : mixed) turn(m, old.data() + m.first, to + m.first);
  }

  // Every query head's columns of the output projection.
  void turn_columns(const GgufTensor& t, const float* maps, int64_t row, float* to) const {
    std::vector<float> old(static_cast<size_t>(t.dims[0]));
    decode(t, row, old.data());
    turn({0, rows_of(maps_.query_heads), maps_.query_heads, maps}, old.data(), to);
  }

  std::string path_;
  const FoldMaps& maps_;
};

}  // namespace

void fold(const std::string& in, const std::string& out, const FoldMaps& maps, DType dtype,
          Monitor& monitor) {
  check_convert_dtype(dtype);
  const std::shared_ptr<const GgufFile> file = GgufFile::open(in);
  const Folder folder(in, maps);
  ModelWriter writer(out, "fold", monitor);
  for (const GgufEntry& entry : file->entries()) writer.metadata().copy(entry);
  for (const GgufTensor& t : file->tensors()) {
    OutputTensor tensor;
    tensor.name = t.name;
    tensor.dims = t.dims;
    tensor.origin = in + ": tensor " + shown_name(t.name);
    folder.fold(t, tensor);
    if (tensor.read) {
      tensor.dtype = t.dims.size() < 2 || t.rows() <= 1 ? DType::f32 : dtype;
    } else {
      tensor.dtype = t.dtype;
      tensor.raw = t.data;
      tensor.read = [&t, bytes = row_bytes(t.dtype, t.dims[0])](int64_t row, float* to) {
        decode_row(t.dtype, t.data.data() + static_cast<size_t>(row) * bytes, t.dims[0], to);
      };
    }
    writer.add(std::move(tensor));
  }
  writer.write();
}

}  // namespace pith

// Random weights of a known shape, tensor by tensor.
#include "convert/synthesize.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <functional>

#include "base/error.h"
#include "base/parallel.h"
#include "base/random.h"
#include "convert/geometry.h"
#include "convert/model_writer.h"
#include "convert/random_rows.h"

namespace pith {
namespace {

constexpr size_t kChunkBytes = 4 << 20;  // made before the next write
constexpr size_t kTaskBytes = 256 << 10;

// The format of rows that a K format's blocks do not divide: the nearest of 32 elements.
DType fitting(DType wanted, int64_t cols) {
  if (cols % traits(wanted).block_elements == 0) return wanted;
  switch (wanted) {
    case DType::q2_k:
    case DType::q3_k:
      return DType::q4_0;
    case DType::q4_k:
      return DType::q5_0;
    case DType::q5_k:
      return DType::q5_1;
    case DType::q6_k:
      return DType::q8_0;
    case DType::iq4_xs:
      return DType::iq4_nl;
    default:
      return DType::f16;
  }
}

// Where the mixes spend more bits on attn_v and ffn_down.
bool careful_layer(int64_t layer, int64_t layers) {
  const int64_t first = layers / 8, last = 7 * layers / 8;
  return layer < first || layer >= last || (layer - first) % 3 == 2;
}

struct Tensor {
  std::string name;
  DType dtype;
  std::vector<int64_t> dims;       // GGUF order
  float spread = 0;                // of random values
  float offset = 0;                // added to random vectors: 1 for norms
  std::vector<float> values = {};  // instead of random ones
  uint64_t bytes() const {
    uint64_t rows = 1;
    for (size_t i = 1; i < dims.size(); ++i) rows *= static_cast<uint64_t>(dims[i]);
    return rows * row_bytes(dtype, dims[0]);
  }
};

std::vector<Tensor> list_tensors(const Geometry& geometry, const WeightFormat& format) {
  const HfConfig& c = geometry.config;
  std::vector<Tensor> list;
  const auto matrix = [&](const std::string& name, int64_t rows, int64_t cols, DType dtype) {
    list.push_back({name + ".weight",
                    fitting(dtype, cols),
                    {cols, rows},
                    1 / std::sqrt(static_cast<float>(cols))});
  };
  const auto norm = [&](const std::string& name) {
    list.push_back({name + ".weight", DType::f32, {c.width}, 0.05f, 1});
  };
  const auto bias = [&](const std::string& name, int64_t size) {
    if (geometry.qkv_bias) list.push_back({name + ".bias", DType::f32, {size}, 0.1f});
  };
  matrix("token_embd", c.vocab, c.width, c.tied ? format.careful : format.most);
  norm("output_norm");
  if (!c.tied) matrix("output", c.vocab, c.width, format.careful);
  if (const std::vector<float> divisors = c.rope_divisors(); !divisors.empty())
    list.push_back({"rope_freqs.weight", DType::f32, {c.dim / 2}, 0, 0, divisors});
  for (int64_t l = 0; l < c.layers; ++l) {
    const std::string block = "blk." + std::to_string(l) + ".";
    const DType careful = careful_layer(l, c.layers) ? format.careful : format.most;
    norm(block + "attn_norm");
    matrix(block + "attn_q", c.query_heads * c.dim, c.width, format.most);
    bias(block + "attn_q", c.query_heads * c.dim);
    matrix(block + "attn_k", c.heads * c.dim, c.width, format.most);
    bias(block + "attn_k", c.heads * c.dim);
    matrix(block + "attn_v", c.heads * c.dim, c.width, careful);
    bias(block + "attn_v", c.heads * c.dim);
    matrix(block + "attn_output", c.width, c.query_heads * c.dim, format.most);
    norm(block + "ffn_norm");
    matrix(block + "ffn_gate", c.ffn_width, c.width, format.most);
    matrix(block + "ffn_up", c.ffn_width, c.width, format.most);
    matrix(block + "ffn_down", c.width, c.ffn_width, careful);
  }
  return list;
}

void write_vector(GgufWriter& out, const Tensor& tensor, uint64_t seed) {
  std::vector<float> values = tensor.values;
  if (values.empty()) {
    values.resize(static_cast<size_t>(tensor.dims[0]));
    Random random(seed);
    for (float& v : values) v = tensor.offset + tensor.spread * random.normal();
  }
  out.write_tensor(std::as_bytes(std::span(values)));
}

void write_matrix(GgufWriter& out, const Tensor& tensor, uint64_t seed, const Threads& threads,
                  std::vector<std::byte>& chunk, const Monitor& monitor) {
  const RandomRows rows(tensor.dtype, tensor.spread, seed);
  const auto block = static_cast<size_t>(traits(tensor.dtype).block_bytes);
  const size_t task = kTaskBytes / block * block, most = kChunkBytes / task * task;
  const size_t total = tensor.bytes();
  for (size_t done = 0; done < total; done += most) {
    monitor.check();
    const size_t here = std::min(most, total - done);
    chunk.resize(here);
    threads.for_each(static_cast<int64_t>((here + task - 1) / task), [&](int64_t i, int) {
      const size_t at = static_cast<size_t>(i) * task;
      rows.fill(std::span(chunk).subspan(at, std::min(task, here - at)),
                static_cast<int64_t>((done + at) / block));
    });
    out.write_part(chunk);
  }
}

void write_tensors(GgufWriter& out, std::string_view name, const WeightFormat& format,
                   uint64_t seed, Monitor& monitor) {
  const Geometry geometry = find_geometry(name);
  write_hf_config(out, geometry.config);
  out.set_text("general.description", "Random weights of a known shape, for measuring speed.");
  set_file_type(out, format.most);
  write_vocabulary(out, geometry_vocabulary(geometry));
  const std::vector<Tensor> tensors = list_tensors(geometry, format);
  for (const Tensor& t : tensors) out.add_tensor(t.name, t.dtype, t.dims);
  out.begin();
  const Threads threads;
  std::vector<std::byte> chunk;
  const auto total = static_cast<int64_t>(tensors.size());
  Random seeds(seed);
  for (int64_t i = 0; i < total; ++i) {
    const Tensor& tensor = tensors[static_cast<size_t>(i)];
    monitor.check();
    monitor.progress("random weights", i, total);
    const uint64_t own_seed = seeds.next();
    if (tensor.dims.size() == 1)
      write_vector(out, tensor, own_seed);
    else
      write_matrix(out, tensor, own_seed, threads, chunk, monitor);
  }
  monitor.progress("random weights", total, total);
  monitor.check();
  out.finish();
}

}  // namespace

bool parse_weight_format(std::string_view name, WeightFormat& format) {
  DType dtype;
  if (parse_dtype(name, dtype)) {
    format = dtype;
    return true;
  }
  const auto is = [&](std::string_view known) {
    return std::ranges::equal(name, known, [](char a, char b) {
      return std::toupper(static_cast<unsigned char>(a)) == b;
    });
  };
  if (is("Q4_K_M")) {
    format = {DType::q4_k, DType::q6_k};
    return true;
  }
  if (is("Q5_K_M")) {
    format = {DType::q5_k, DType::q6_k};
    return true;
  }
  return false;
}

void write_geometry(std::string_view geometry, const WeightFormat& format, const std::string& out,
                    uint64_t seed, Monitor& monitor) {
  find_geometry(geometry);  // before a file is begun
  GgufWriter writer(out);
  write_tensors(writer, geometry, format, seed, monitor);
}

std::vector<std::byte> geometry_bytes(std::string_view geometry, const WeightFormat& format,
                                      uint64_t seed, Monitor& monitor) {
  std::vector<std::byte> bytes;
  GgufWriter writer(bytes);
  write_tensors(writer, geometry, format, seed, monitor);
  return bytes;
}

uint64_t geometry_weight_bytes(std::string_view geometry, const WeightFormat& format) {
  uint64_t bytes = 0;
  for (const Tensor& t : list_tensors(find_geometry(geometry), format)) bytes += t.bytes();
  return bytes;
}

}  // namespace pith

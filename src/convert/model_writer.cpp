#include "convert/model_writer.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/error.h"
#include "base/parallel.h"
#include "tensor/codec.h"

namespace pith {
namespace {

constexpr int64_t kBatchElements = 4 << 20;  // read and coded before the next write
constexpr int64_t kTaskElements = 64 << 10;
constexpr float kHalfMax = 65504;

int64_t elements(const OutputTensor& t) {
  int64_t n = 1;
  for (const int64_t d : t.dims) n *= d;
  return n;
}

// What a row is refused for.
enum class Flaw : uint8_t { none, not_finite, too_large };

Flaw code_row(const OutputTensor& t, const float* x, std::byte* out, float* scratch) {
  const int64_t n = t.dims[0];
  float largest = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (!std::isfinite(x[i])) return Flaw::not_finite;
    largest = std::max(largest, std::fabs(x[i]));
  }
  if (!t.raw.empty()) return Flaw::none;
  encode_row(t.dtype, x, n, out);
  if (largest <= kHalfMax || t.dtype == DType::f32) return Flaw::none;
  // f16 values and the f16 scales of block formats can overflow; seldom enough to look.
  decode_row(t.dtype, out, n, scratch);
  for (int64_t i = 0; i < n; ++i)
    if (!std::isfinite(scratch[i])) return Flaw::too_large;
  return Flaw::none;
}

}  // namespace

ModelWriter::ModelWriter(const std::string& path, std::string work, Monitor& monitor)
    : out_(path), work_(std::move(work)), monitor_(monitor) {}

void ModelWriter::add(OutputTensor tensor) {
  out_.add_tensor(tensor.name, tensor.dtype, tensor.dims);
  bytes_ += row_bytes(tensor.dtype, elements(tensor));
  tensors_.push_back(std::move(tensor));
}

void ModelWriter::write() {
  const Threads threads;
  const auto total = static_cast<int64_t>(tensors_.size());
  monitor_.check();
  out_.begin();
  for (int64_t done = 0; done < total; ++done) {
    monitor_.progress(work_, done, total);
    write_tensor(tensors_[static_cast<size_t>(done)], threads);
  }
  monitor_.progress(work_, total, total);
  monitor_.check();
  out_.finish();
}

void ModelWriter::write_tensor(const OutputTensor& t, const Threads& threads) {
  const int64_t cols = t.dims[0], rows = elements(t) / cols;
  const auto width = static_cast<size_t>(cols);
  const size_t bytes = row_bytes(t.dtype, cols);
  const int64_t batch = std::clamp<int64_t>(kBatchElements / cols, 1, rows);
  const int64_t task_rows = std::clamp<int64_t>(kTaskElements / cols, 1, batch);
  std::vector<std::byte> coded(t.raw.empty() ? bytes * static_cast<size_t>(batch) : 0);
  std::vector<std::vector<float>> scratch(static_cast<size_t>(threads.count()));
  for (int64_t first = 0; first < rows; first += batch) {
    monitor_.check();
    const int64_t here = std::min(batch, rows - first);
    std::atomic<int64_t> flawed{std::numeric_limits<int64_t>::max()};  // the first such row
    threads.for_each((here + task_rows - 1) / task_rows, [&](int64_t task, int worker) {
      std::vector<float>& floats = scratch[static_cast<size_t>(worker)];
      floats.resize(2 * width);
      for (int64_t r = task * task_rows; r < std::min(here, (task + 1) * task_rows); ++r) {
        t.read(first + r, floats.data());
        std::byte* out = coded.data() + (coded.empty() ? 0 : bytes * static_cast<size_t>(r));
        const Flaw flaw = code_row(t, floats.data(), out, floats.data() + width);
        if (flaw == Flaw::none) continue;
        const int64_t mark = 2 * (first + r) + (flaw == Flaw::too_large);
        int64_t known = flawed.load();
        while (mark < known && !flawed.compare_exchange_weak(known, mark)) {
        }
      }
    });
    if (const int64_t mark = flawed.load(); mark != std::numeric_limits<int64_t>::max()) {
      const std::string row = t.origin + ": row " + std::to_string(mark / 2);
      if (mark % 2 == 0)
        throw Error(Errc::bad_file, row + " holds a value that is not finite; the file is damaged");
      throw Error(Errc::unsupported, row + " holds a value too large for " +
                                         std::string(traits(t.dtype).name) +
                                         "; BF16 or F32 hold it");
    }
    const size_t at = bytes * static_cast<size_t>(first), size = bytes * static_cast<size_t>(here);
    out_.write_part(t.raw.empty() ? std::span<const std::byte>(coded).first(size)
                                  : t.raw.subspan(at, size));
  }
}

void check_convert_dtype(DType dtype) {
  if (dtype != DType::f32 && dtype != DType::f16 && dtype != DType::bf16)
    throw Error(Errc::bad_option, "convert writes F32, F16 or BF16, not " +
                                      std::string(traits(dtype).name) +
                                      "; quantize the converted file");
}

void set_file_type(GgufWriter& out, DType dtype) {
  // llama.cpp's numbers for "mostly this format".
  static constexpr std::pair<DType, uint32_t> kNumbers[] = {
      {DType::f32, 0},     {DType::f16, 1},     {DType::q4_0, 2},  {DType::q4_1, 3},
      {DType::q8_0, 7},    {DType::q5_0, 8},    {DType::q5_1, 9},  {DType::q2_k, 10},
      {DType::q3_k, 12},   {DType::q4_k, 15},   {DType::q5_k, 17}, {DType::q6_k, 18},
      {DType::iq4_nl, 25}, {DType::iq4_xs, 30}, {DType::bf16, 32}};
  for (const auto& [known, number] : kNumbers)
    if (known == dtype) out.set_u32("general.file_type", number);
  if (traits(dtype).block_elements > 1) out.set_u32("general.quantization_version", 2);
}

}  // namespace pith

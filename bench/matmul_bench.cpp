// Products with weights: how close is each format to memory speed when one row of activations is
// computed, and to the arithmetic peak when many are?
//
//   Matmul/<format>/<rows>/<threads>   Matmul/f32:<format>/...: the same weights without int8
//
// "peak" is the share of the multiplier peak (f32, or bytes for weights in blocks), "memory" that
// of the read bandwidth, both measured in this run for as many threads.
#include <algorithm>
#include <benchmark/benchmark.h>
#include <memory>
#include <string>
#include <vector>

#include "backend/cpu_backend.h"
#include "base/random.h"
#include "base/roofline.h"
#include "kernels/kernels.h"
#include "tensor/half.h"
#include "tensor/view.h"

namespace pith::bench {
namespace {

constexpr int64_t kCols = 2048;
// Larger than the caches together, as all layers of a model are.
constexpr size_t kWeightBytes = size_t{96} << 20;

constexpr DType kFormats[] = {DType::f32,  DType::f16,  DType::bf16, DType::q8_0,   DType::q4_0,
                              DType::q4_1, DType::q5_0, DType::q5_1, DType::q2_k,   DType::q3_k,
                              DType::q4_k, DType::q5_k, DType::q6_k, DType::iq4_nl, DType::iq4_xs};

// Any codes; scales of files are small, and here even NaN costs the same. Numbers of F32, F16 and
// BF16 are none of them subnormal, as some CPUs take a hundred times as long for those.
std::vector<std::byte> weights(DType dtype, int64_t rows) {
  std::vector<std::byte> bytes(row_bytes(dtype, kCols) * static_cast<size_t>(rows));
  Random random(1);
  for (std::byte& b : bytes) b = static_cast<std::byte>(random.next() & 0x3b);
  if (traits(dtype).block_elements == 1)
    for (auto top = static_cast<size_t>(traits(dtype).block_bytes) - 1; top < bytes.size();
         top += static_cast<size_t>(traits(dtype).block_bytes))
      bytes[top] |= std::byte{0x30};
  return bytes;
}

void run(benchmark::State& state, DType dtype, MatmulForm form) {
  const int64_t m = state.range(0);
  const int threads = static_cast<int>(state.range(1));
  const size_t one = row_bytes(dtype, kCols);
  // Few rows of activations read all weights from memory; many do not notice.
  const int64_t rows = m > 16 ? 2048 : static_cast<int64_t>(kWeightBytes / one) / 32 * 32;
  const std::vector<std::byte> w = weights(dtype, rows);
  std::vector<float> x(static_cast<size_t>(m * kCols)), out(static_cast<size_t>(m * rows));
  Random random(2);
  for (float& v : x) v = random.uniform(-1, 1);
  const auto backend = make_cpu_backend(threads, form);
  const WeightMatrix matrix{dtype, w.data(), rows, kCols};
  for (auto _ : state) {
    const ConstMat from = ConstMat::packed(x.data(), {m, kCols});
    const Mat to = Mat::packed(out.data(), {m, rows});
    if (m > 16)  // more are of a prompt
      backend->matmul_prompt(from, matrix, to);
    else
      backend->matmul(from, matrix, to);
  }

  const Roofline& bound = roofline(threads);
  const bool coded = form == MatmulForm::int8 && traits(dtype).block_elements > 1;
  const double ops = 2.0 * static_cast<double>(m * rows * kCols);
  const double bytes = static_cast<double>(w.size());
  using benchmark::Counter;
  const auto rate = [&](double amount) {
    return Counter(amount, Counter::kIsIterationInvariantRate);
  };
  state.counters["Gop/s"] = rate(ops * 1e-9);
  state.counters["GB/s"] = rate(bytes * 1e-9);
  const bool halves = form == MatmulForm::int8 && m > 16 && active_kernels().codes_halves &&
                      (dtype == DType::f16 || dtype == DType::bf16);
  const double peak = coded ? bound.byte_ops : halves ? bound.word_ops : bound.flops;
  state.counters["peak"] = rate(ops / peak);
  state.counters["memory"] = rate(bytes / bound.read_bytes);
}

const bool registered = [] {
  for (const MatmulForm form : {MatmulForm::int8, MatmulForm::f32})
    for (const DType dtype : kFormats) {
      const bool blocks = traits(dtype).block_elements > 1;
      if (!blocks && form == MatmulForm::f32) continue;
      const std::string name = std::string("Matmul/") + (form == MatmulForm::f32 ? "f32:" : "") +
                               std::string(traits(dtype).name);
      benchmark::RegisterBenchmark(name.c_str(),
                                   [=](benchmark::State& state) { run(state, dtype, form); })
          ->ArgsProduct({{1, 2, 4, 8, 16, 64, 512}, {1, 2}})
          ->ArgNames({"rows", "threads"})
          ->UseRealTime()
          ->MinTime(0.1);
    }
  return true;
}();

}  // namespace
}  // namespace pith::bench

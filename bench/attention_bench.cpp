// Attention as sessions run it, through the backend: generated tokens over pages of each format,
// and tiles of a prompt over plain rows. Llama-3.2's shape: 8 key/value heads of 4 query heads.
//
//   attend_token/<format>/<dim>/<rows>/<threads>   ns_per_row: per cached row and key/value head
//   attend_prompt/<f32|int16>/<dim>/<rows>/<threads>   the last 512 of so many rows
//
// Both count a multiply-add as two operations. of_flops is their share of the f32 peak, of_bytes
// that of reading the rows once from memory; whichever is larger shows what binds. Rows that fit a
// cache may come faster than from memory, and 8-bit pages multiply integers, faster than floats.
#include <benchmark/benchmark.h>
#include <cmath>
#include <vector>

#include "backend/cpu_backend.h"
#include "base/random.h"
#include "base/roofline.h"
#include "kernels/kernels.h"

namespace pith {
namespace {

constexpr int kHeads = 8, kGroup = 4, kPageRows = 32;

using Counter = benchmark::Counter;

// `ops` and `bytes` are of the whole run.
void count_work(benchmark::State& state, double ops, double bytes) {
  const Roofline& roof = roofline(static_cast<int>(state.range(2)));
  state.counters["Gop/s"] = Counter(ops * 1e-9, Counter::kIsRate);
  state.counters["of_flops"] = Counter(ops / roof.flops, Counter::kIsRate);
  if (bytes > 0) state.counters["of_bytes"] = Counter(bytes / roof.read_bytes, Counter::kIsRate);
}

std::vector<float> numbers(int64_t count, uint64_t seed) {
  Random random(seed);
  std::vector<float> x(static_cast<size_t>(count));
  for (float& value : x) value = random.uniform(-1, 1);
  return x;
}

// Every head has pages of its own, as in a cache; their rows repeat.
struct Side {
  Side(Quant quant, int pages, int dim, uint64_t seed) : quant(quant) {
    const PageKernels& kernels = active_kernels().page[static_cast<size_t>(quant)];
    const size_t bytes = (kernels.bytes(kPageRows, dim) + 63) / 64 * 64;
    const std::vector<float> rows = numbers(int64_t{kPageRows} * dim, seed);
    memory.resize(bytes * static_cast<size_t>(kHeads * pages) + 64);
    std::byte* at = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64);
    for (int p = 0; p < kHeads * pages; ++p, at += bytes) {
      kernels.encode(rows.data(), dim, kPageRows, dim, at, 0);
      page.push_back(at);
    }
    page_bytes = kernels.bytes(kPageRows, dim);
  }
  Quant quant;
  size_t page_bytes = 0;
  std::vector<std::byte> memory;
  std::vector<const std::byte*> page;  // [heads, pages]
};

void attend_token(benchmark::State& state, Quant keys, Quant values) {
  const int dim = static_cast<int>(state.range(0)), rows = static_cast<int>(state.range(1));
  const size_t pages = static_cast<size_t>(rows / kPageRows);
  const auto backend = make_cpu_backend(static_cast<int>(state.range(2)));
  const Side k(keys, static_cast<int>(pages), dim, 1), v(values, static_cast<int>(pages), dim, 2);
  const std::vector<float> q = numbers(int64_t{kHeads} * kGroup * dim, 3);
  std::vector<float> out(q.size());
  std::vector<HeadAttention> jobs(kHeads);
  for (size_t h = 0; h < kHeads; ++h) {
    HeadAttention& job = jobs[h];
    const size_t at = h * kGroup * static_cast<size_t>(dim);
    job.q = ConstMat::packed(q.data() + at, {kGroup, dim});
    job.out = Mat::packed(out.data() + at, {kGroup, dim});
    job.rule.scale = 1 / std::sqrt(static_cast<float>(dim));
    job.head.sealed_k = std::span(k.page).subspan(h * pages, pages);
    job.head.sealed_v = std::span(v.page).subspan(h * pages, pages);
    job.head.k_quant = keys;
    job.head.v_quant = values;
    job.head.k_dim = job.head.v_dim = dim;
    job.head.page_rows = kPageRows;
  }
  for (auto _ : state) {
    backend->attend(jobs);
    benchmark::DoNotOptimize(out.data());
  }
  const double runs = static_cast<double>(state.iterations());
  const double row_heads = runs * kHeads * rows;
  state.counters["ns_per_row"] = Counter(row_heads * 1e-9, Counter::kIsRate | Counter::kInvert);
  count_work(state, row_heads * kGroup * dim * 4,
             row_heads / kPageRows * static_cast<double>(k.page_bytes + v.page_bytes));
}

void shapes(benchmark::internal::Benchmark* b) {
  for (const int threads : {1, 2})
    for (const int dim : {64, 128})
      for (const int rows : {64, 4096, 32768}) b->Args({dim, rows, threads});
  b->UseRealTime();
}

BENCHMARK_CAPTURE(attend_token, f32, Quant::f32, Quant::f32)->Apply(shapes);
BENCHMARK_CAPTURE(attend_token, f16, Quant::f16, Quant::f16)->Apply(shapes);
BENCHMARK_CAPTURE(attend_token, bf16, Quant::bf16, Quant::bf16)->Apply(shapes);
BENCHMARK_CAPTURE(attend_token, q8, Quant::q8_keys, Quant::q8_values)->Apply(shapes);
BENCHMARK_CAPTURE(attend_token, kivi8, Quant::q8_channels, Quant::q8_groups32)->Apply(shapes);
BENCHMARK_CAPTURE(attend_token, kivi4, Quant::q4_channels, Quant::q4_groups32)->Apply(shapes);
BENCHMARK_CAPTURE(attend_token, kivi4_64, Quant::q4_channels, Quant::q4_groups64)->Apply(shapes);
BENCHMARK_CAPTURE(attend_token, kivi3, Quant::q3_channels, Quant::q3_groups32)->Apply(shapes);
BENCHMARK_CAPTURE(attend_token, kivi2, Quant::q2_channels, Quant::q2_groups32)->Apply(shapes);
BENCHMARK_CAPTURE(attend_token, kivi2_64, Quant::q2_channels, Quant::q2_groups64)->Apply(shapes);

void attend_prompt(benchmark::State& state, bool int16) {
  const int64_t dim = state.range(0), rows = state.range(1);
  const int64_t tile = std::min<int64_t>(rows, 512);
  const auto backend = make_cpu_backend(static_cast<int>(state.range(2)));
  const std::vector<float> q = numbers(tile * kHeads * kGroup * dim, 1);
  const std::vector<float> k = numbers(kHeads * rows * dim, 2), v = numbers(kHeads * rows * dim, 3);
  std::vector<float> out(q.size());
  std::vector<int32_t> positions(static_cast<size_t>(rows));
  for (size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<int32_t>(i);
  DenseAttention job;
  job.q = ConstCube::packed(q.data(), {tile, kHeads * kGroup, dim});
  job.k = ConstCube::packed(k.data(), {kHeads, rows, dim});
  job.v = ConstCube::packed(v.data(), {kHeads, rows, dim});
  job.out = Cube::packed(out.data(), {tile, kHeads * kGroup, dim});
  job.first_row = rows - tile;
  job.int16 = int16;
  job.positions = positions;
  job.rule.scale = 1 / std::sqrt(static_cast<float>(dim));
  for (auto _ : state) {
    backend->attend(job);
    benchmark::DoNotOptimize(out.data());
  }
  const double pairs = static_cast<double>(tile) *
                       (static_cast<double>(rows - tile) + static_cast<double>(tile + 1) / 2);
  const double runs = static_cast<double>(state.iterations());
  count_work(state, runs * pairs * kHeads * kGroup * static_cast<double>(dim) * 4, 0);
}

void prompts(benchmark::internal::Benchmark* b) {
  b->UseRealTime()
      ->Unit(benchmark::kMillisecond)
      ->ArgsProduct({{64, 128}, {512, 8192, 32768}, {1, 2}});
}

BENCHMARK_CAPTURE(attend_prompt, f32, false)->Apply(prompts);
BENCHMARK_CAPTURE(attend_prompt, int16, true)->Apply(prompts);

}  // namespace
}  // namespace pith

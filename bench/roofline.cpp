#include "bench/roofline.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <vector>

#include "base/parallel.h"

#ifdef __x86_64__
#include <immintrin.h>
#endif

namespace pith::bench {
namespace {

constexpr int kRounds = 10;
constexpr int64_t kSteps = 2'000'000;

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The best rate of some rounds in which every thread does `work` once.
double best(const Threads& threads, double amount, const std::function<void(int64_t)>& work) {
  double rate = 0;
  for (int i = 0; i < kRounds; ++i) {
    const double start = seconds();
    threads.for_each(threads.count(), [&](int64_t task, int) { work(task); });
    rate = std::max(rate, amount * threads.count() / (seconds() - start));
  }
  return rate;
}

#ifdef __x86_64__

// Ten sums hide the latency of four cycles of two units.
__attribute__((target("avx2,fma"))) void multiply_floats() {
  __m256 sum[10];
  for (__m256& s : sum) s = _mm256_setzero_ps();
  __m256 x = _mm256_set1_ps(1.0f);
  for (int64_t i = 0; i < kSteps; ++i) {
    __asm__ volatile("" : "+x"(x));
#pragma GCC unroll 10
    for (__m256& s : sum) {
      s = _mm256_fmadd_ps(x, x, s);
      __asm__ volatile("" : "+x"(s));
    }
  }
}
constexpr double kFlops = 10.0 * 16 * kSteps;

__attribute__((target("avx2"))) void multiply_bytes() {
  __m256i sum[8];
  for (__m256i& s : sum) s = _mm256_setzero_si256();
  __m256i x = _mm256_set1_epi8(1);
  for (int64_t i = 0; i < kSteps; ++i) {
    __asm__ volatile("" : "+x"(x));
#pragma GCC unroll 8
    for (__m256i& s : sum) {
      __m256i product = _mm256_maddubs_epi16(x, x);
      __asm__ volatile("" : "+x"(product));
      s = _mm256_add_epi16(s, product);
      __asm__ volatile("" : "+x"(s));
    }
  }
}
constexpr double kOps = 8.0 * 64 * kSteps;

bool measurable() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

#else

void multiply_floats() {}
void multiply_bytes() {}
constexpr double kFlops = 0, kOps = 0;
bool measurable() {
  return false;
}

#endif

double read_rate(const Threads& threads) {
  constexpr size_t kBytes = size_t{256} << 20;
  std::vector<uint64_t> memory(kBytes / sizeof(uint64_t), 1);
  const size_t part = memory.size() / static_cast<size_t>(threads.count());
  return best(threads, static_cast<double>(part * sizeof(uint64_t)), [&](int64_t task) {
    const uint64_t* p = memory.data() + static_cast<size_t>(task) * part;
    uint64_t sum[8] = {};
    for (size_t i = 0; i + 8 <= part; i += 8)
      for (size_t j = 0; j < 8; ++j) sum[j] += p[i + j];
    for (uint64_t& s : sum) __asm__ volatile("" : "+r"(s));
  });
}

}  // namespace

const Roofline& roofline(int threads) {
  static std::map<int, Roofline> known;
  const auto [at, fresh] = known.try_emplace(threads);
  if (!fresh) return at->second;
  const Threads workers(threads);
  Roofline& r = at->second;
  if (measurable()) {
    r.flops = best(workers, kFlops, [](int64_t) { multiply_floats(); });
    r.ops = best(workers, kOps, [](int64_t) { multiply_bytes(); });
  }
  r.bytes = read_rate(workers);
  return r;
}

}  // namespace pith::bench

#include "base/roofline.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>

#include "base/parallel.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace pith {
namespace {

constexpr int kRounds = 10;
constexpr int64_t kSteps = 1'000'000;

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

// A loop of one instruction set, and how many operations it is.
struct Work {
  bool runs_here;
  void (*run)();
  double operations;
};

double best(const Threads& threads, std::initializer_list<Work> all) {
  double rate = 0;
  for (const Work& work : all)
    if (work.runs_here)
      rate = std::max(rate, best(threads, work.operations, [&](int64_t) { work.run(); }));
  return rate;
}

// Ten sums hide the latency of four or five cycles of two units. The empty statements keep the
// compiler from computing a loop itself; products of sums with ones keep it from taking them out.
constexpr int kSums = 10;
constexpr double kRuns = double{kSums} * kSteps;

#if defined(__x86_64__)

__attribute__((target("avx2,fma"))) void floats_avx2() {
  __m256 x = _mm256_set1_ps(1), sum[kSums];
  for (__m256& s : sum) s = _mm256_setzero_ps();
  for (int64_t i = 0; i < kSteps; ++i) {
    __asm__ volatile("" : "+x"(x));
#pragma GCC unroll 10
    for (__m256& s : sum) {
      s = _mm256_fmadd_ps(x, x, s);
      __asm__ volatile("" : "+x"(s));
    }
  }
}
__attribute__((target("avx2"))) void words_avx2() {
  __m256i x = _mm256_set1_epi16(1), sum[kSums];
  for (__m256i& s : sum) s = _mm256_setzero_si256();
  for (int64_t i = 0; i < kSteps; ++i) {
    __asm__ volatile("" : "+x"(x));
#pragma GCC unroll 10
    for (__m256i& s : sum) {
      s = _mm256_add_epi32(s, _mm256_madd_epi16(x, s));
      __asm__ volatile("" : "+x"(s));
    }
  }
}
__attribute__((target("avx2"))) void bytes_avx2() {
  __m256i x = _mm256_set1_epi8(1), sum[kSums];
  for (__m256i& s : sum) s = _mm256_setzero_si256();
  for (int64_t i = 0; i < kSteps; ++i) {
    __asm__ volatile("" : "+x"(x));
#pragma GCC unroll 10
    for (__m256i& s : sum) {
      s = _mm256_add_epi16(s, _mm256_maddubs_epi16(x, s));
      __asm__ volatile("" : "+x"(s));
    }
  }
}

__attribute__((target("avx512f"))) void floats_avx512() {
  __m512 x = _mm512_set1_ps(1), sum[kSums];
  for (__m512& s : sum) s = _mm512_setzero_ps();
  for (int64_t i = 0; i < kSteps; ++i) {
    __asm__ volatile("" : "+v"(x));
#pragma GCC unroll 10
    for (__m512& s : sum) {
      s = _mm512_fmadd_ps(x, x, s);
      __asm__ volatile("" : "+v"(s));
    }
  }
}
// As kernels write them: of the intrinsics g++ 12 copies every sum into memory.
__attribute__((target("avx512f,avx512vnni"))) void words_avx512() {
  __m512i x = _mm512_set1_epi16(1), sum[kSums];
  for (__m512i& s : sum) s = _mm512_setzero_si512();
  for (int64_t i = 0; i < kSteps; ++i) {
    __asm__ volatile("" : "+v"(x));
#pragma GCC unroll 10
    for (__m512i& s : sum) __asm__ volatile("vpdpwssd %1, %1, %0" : "+v"(s) : "v"(x));
  }
}
__attribute__((target("avx512f,avx512vnni"))) void bytes_avx512() {
  __m512i x = _mm512_set1_epi8(1), sum[kSums];
  for (__m512i& s : sum) s = _mm512_setzero_si512();
  for (int64_t i = 0; i < kSteps; ++i) {
    __asm__ volatile("" : "+v"(x));
#pragma GCC unroll 10
    for (__m512i& s : sum) __asm__ volatile("vpdpbusd %1, %1, %0" : "+v"(s) : "v"(x));
  }
}

bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vnni");
}

void measure_arithmetic(const Threads& threads, Roofline& r) {
  const bool avx2 = has_avx2(), avx512 = has_avx512();
  r.flops = best(threads, {{avx2, floats_avx2, 16 * kRuns}, {avx512, floats_avx512, 32 * kRuns}});
  r.word_ops = best(threads, {{avx2, words_avx2, 32 * kRuns}, {avx512, words_avx512, 64 * kRuns}});
  r.byte_ops = best(threads, {{avx2, bytes_avx2, 64 * kRuns}, {avx512, bytes_avx512, 128 * kRuns}});
}

#elif defined(__aarch64__)

void floats_neon() {
  float32x4_t x = vdupq_n_f32(1), sum[kSums];
  for (float32x4_t& s : sum) s = vdupq_n_f32(0);
  for (int64_t i = 0; i < kSteps; ++i) {
    __asm__ volatile("" : "+w"(x));
#pragma GCC unroll 10
    for (float32x4_t& s : sum) {
      s = vfmaq_f32(s, x, x);
      __asm__ volatile("" : "+w"(s));
    }
  }
}
void words_neon() {
  int32x4_t x = vdupq_n_s32(1), sum[kSums];
  for (int32x4_t& s : sum) s = vdupq_n_s32(0);
  for (int64_t i = 0; i < kSteps; ++i) {
    __asm__ volatile("" : "+w"(x));
#pragma GCC unroll 10
    for (int32x4_t& s : sum) {
      s = vmlal_s16(s, vget_low_s16(vreinterpretq_s16_s32(x)),
                    vget_low_s16(vreinterpretq_s16_s32(x)));
      __asm__ volatile("" : "+w"(s));
    }
  }
}
void bytes_neon() {
  int16x8_t x = vdupq_n_s16(1), sum[kSums];
  for (int16x8_t& s : sum) s = vdupq_n_s16(0);
  for (int64_t i = 0; i < kSteps; ++i) {
    __asm__ volatile("" : "+w"(x));
#pragma GCC unroll 10
    for (int16x8_t& s : sum) {
      s = vmlal_s8(s, vget_low_s8(vreinterpretq_s8_s16(x)), vget_low_s8(vreinterpretq_s8_s16(x)));
      __asm__ volatile("" : "+w"(s));
    }
  }
}

void measure_arithmetic(const Threads& threads, Roofline& r) {
  r.flops = best(threads, {{true, floats_neon, 8 * kRuns}});
  r.word_ops = best(threads, {{true, words_neon, 8 * kRuns}});
  r.byte_ops = best(threads, {{true, bytes_neon, 16 * kRuns}});
}

#else

void measure_arithmetic(const Threads&, Roofline&) {}

#endif

double read_rate(const Threads& threads) {
  constexpr size_t kBytes = size_t{256} << 20;
  const size_t words = kBytes / sizeof(uint64_t),
               part = words / static_cast<size_t>(threads.count());
  const std::unique_ptr<uint64_t[]> memory(new uint64_t[words]);
  threads.for_each(threads.count(), [&](int64_t task, int) {
    std::fill_n(memory.get() + static_cast<size_t>(task) * part, part, 1);
  });
  return best(threads, static_cast<double>(part * sizeof(uint64_t)), [&](int64_t task) {
    const uint64_t* p = memory.get() + static_cast<size_t>(task) * part;
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
  measure_arithmetic(workers, at->second);
  at->second.read_bytes = read_rate(workers);
  return at->second;
}

}  // namespace pith

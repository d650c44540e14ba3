#include <array>
#include <cstdlib>
#include <string>

#include "base/error.h"
#include "kernels/kernels.h"

#ifdef __x86_64__
#include <cpuid.h>
#endif

namespace pith {

extern const KernelTable kernels_scalar;
#if defined(__x86_64__)
extern const KernelTable kernels_avx2, kernels_avx512;
#elif defined(__aarch64__)
extern const KernelTable kernels_neon;
#endif

namespace {

#ifdef __x86_64__
// __builtin_cpu_supports also asks whether the system saves the wide registers; clang 14 does not
// know the name "f16c".
bool has_f16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}
#endif

std::string names_here() {
  std::string names;
  for (const KernelTarget& target : kernel_targets())
    if (target.runs_here) names += (names.empty() ? "" : ", ") + std::string(target.table->name);
  return names;
}

}  // namespace

std::span<const KernelTarget> kernel_targets() {
#if defined(__x86_64__)
  static const std::array targets = {KernelTarget{&kernels_avx512, has_avx512()},
                                     KernelTarget{&kernels_avx2, has_avx2()},
                                     KernelTarget{&kernels_scalar, true}};
#elif defined(__aarch64__)
  static const std::array targets = {KernelTarget{&kernels_neon, true},
                                     KernelTarget{&kernels_scalar, true}};
#else
  static const std::array targets = {KernelTarget{&kernels_scalar, true}};
#endif
  return targets;
}

const KernelTable& kernels_named(std::string_view isa) {
  for (const KernelTarget& target : kernel_targets()) {
    if (isa.empty() && target.runs_here) return *target.table;
    if (isa != target.table->name) continue;
    if (target.runs_here) return *target.table;
    throw Error(Errc::bad_option, "PITH_ISA=" + std::string(isa) +
                                      ": this CPU cannot run it; choose one of " + names_here());
  }
  throw Error(Errc::bad_option, "PITH_ISA=" + std::string(isa) +
                                    ": no such instruction set; choose one of " + names_here());
}

const KernelTable& active_kernels() {
  static const KernelTable& table = [&]() -> const KernelTable& {
    const char* isa = std::getenv("PITH_ISA");
    return kernels_named(isa ? isa : "");
  }();
  return table;
}

}  // namespace pith

#include <algorithm>
#include <cstdlib>
#include <gtest/gtest.h>
#include <string>
#include <vector>

#include "base/error.h"
#include "kernels/kernels.h"
#include "support/kernel_tables.h"

namespace pith {
namespace {

std::string refusal(const std::string& isa) {
  try {
    kernels_named(isa);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Errc::bad_option);
    return error.what();
  }
  return "";
}

TEST(Dispatch, TheScalarTableIsLastAndRunsEverywhere) {
  ASSERT_FALSE(kernel_targets().empty());
  EXPECT_STREQ(kernel_targets().back().table->name, "scalar");
  EXPECT_TRUE(kernel_targets().back().runs_here);
}

TEST(Dispatch, EveryFunctionOfEveryTableIsFilled) {
  for (const KernelTarget& target : kernel_targets()) {
    const KernelTable& t = *target.table;
    EXPECT_TRUE(t.matmul_scratch && t.matmul && t.coded_bytes && t.code_activations &&
                t.coded_scratch && t.matmul_coded && t.dequantise && t.rms_norm && t.layer_norm &&
                t.rotate && t.silu_mul && t.gelu_mul && t.gelu && t.add && t.dot &&
                t.exp_minus_max && t.max && t.softcap && t.tile_scratch && t.attend_tile &&
                t.tile_mass)
        << t.name;
    for (int i = 0; i < kQuantCount; ++i) {
      const PageKernels& page = t.page[i];
      const auto index = static_cast<Quant>(i);
      const bool listed = has_outliers(index);
      const auto quant =
          listed ? static_cast<Quant>(i - kFirstOutlierFormat + static_cast<int>(Quant::q8_keys))
                 : index;
      EXPECT_EQ(listed, is_coded(quant) && with_outliers(quant) == index);
      EXPECT_TRUE(page.bytes && page.encode && page.decode) << t.name << " " << i;
      const bool keys =
          quant == Quant::q8_keys || (quant >= Quant::q2_channels && quant <= Quant::q8_rows);
      const bool either = is_plain(quant) || quant >= Quant::fp8_e4m3;
      EXPECT_EQ(page.score != nullptr, either || keys) << t.name << " " << i;
      EXPECT_EQ(page.accumulate != nullptr, !keys) << t.name << " " << i;
      const bool rows = quant >= Quant::q2_rows && quant <= Quant::q8_rows;
      EXPECT_EQ(page.prepare != nullptr, quant == Quant::q8_keys || rows) << t.name << " " << i;
      EXPECT_EQ(page.query_floats != nullptr, page.prepare != nullptr) << t.name << " " << i;
    }
  }
}

TEST(Dispatch, ATableThatRunsHereCanBeNamed) {
  for (const KernelTarget& target : kernel_targets())
    if (target.runs_here) {
      EXPECT_EQ(&kernels_named(target.table->name), target.table);
    }
}

TEST(Dispatch, WithoutANameTheBestThatRunsHereIsTaken) {
  for (const KernelTarget& target : kernel_targets())
    if (target.runs_here) {
      EXPECT_EQ(&kernels_named(""), target.table);
      break;
    }
}

TEST(Dispatch, AnUnknownNameIsRefusedWithTheNamesThatRunHere) {
  const std::string sentence = refusal("sse9");
  EXPECT_NE(sentence.find("PITH_ISA=sse9: no such instruction set; choose one of "),
            std::string::npos)
      << sentence;
  EXPECT_NE(sentence.find("scalar"), std::string::npos) << sentence;
}

TEST(Dispatch, ANameThisCpuCannotRunIsRefused) {
  bool tried = false;
  for (const KernelTarget& target : kernel_targets()) {
    if (target.runs_here) continue;
    tried = true;
    const std::string sentence = refusal(target.table->name);
    EXPECT_NE(sentence.find("this CPU cannot run it; choose one of "), std::string::npos)
        << sentence;
    EXPECT_NE(sentence.find("scalar"), std::string::npos) << sentence;
  }
  if (!tried) GTEST_SKIP() << "this CPU runs every table that is built";
}

TEST(Dispatch, EveryTableThereIsIsTestedHere) {
  const std::vector<std::string> here = test::tables_here();
  std::string missing;
  for (const char* name : {"scalar", "avx2", "avx512", "neon"})
    if (std::ranges::find(here, name) == here.end())
      missing += std::string(missing.empty() ? "" : ", ") + name;
  if (!missing.empty()) GTEST_SKIP() << "this machine cannot run the kernels of " << missing;
}

TEST(Dispatch, TheForcedTableIsTheOneThatRuns) {
  const char* isa = std::getenv("PITH_ISA");
  if (!isa) GTEST_SKIP() << "PITH_ISA is not set";
  EXPECT_STREQ(active_kernels().name, isa);
}

}  // namespace
}  // namespace pith

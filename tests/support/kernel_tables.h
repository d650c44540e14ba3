// Tests that every kernel table of this machine passes. Tables it cannot run are named by one
// skipped test (tests/kernels/dispatch_test.cpp).
#pragma once

#include <gtest/gtest.h>
#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "support/kernel_helpers.h"

namespace pith::test {

inline std::vector<std::string> tables_here() {
  std::vector<std::string> names;
  for (const KernelTarget& target : kernel_targets())
    if (target.runs_here) names.emplace_back(target.table->name);
  return names;
}

class OnATable : public ::testing::TestWithParam<std::string> {
 protected:
  const KernelTable& table() const { return table_; }
  const PageKernels& page(Quant quant) const { return table_.page[static_cast<int>(quant)]; }

 private:
  const KernelTable& table_ = kernels_named(GetParam());
};

inline std::string name_of_table(const ::testing::TestParamInfo<std::string>& info) {
  return info.param;
}

// Queries as a page format wants them.
inline std::vector<float> prepared(const PageKernels& kernels, const std::vector<float>& q,
                                   int heads, int dim) {
  if (!kernels.prepare) return q;
  Guarded<float> to(kernels.query_floats(heads, dim));
  kernels.prepare(q.data(), heads, dim, to.data());
  EXPECT_TRUE(to.guards_stand());
  return {to.span().begin(), to.span().end()};
}

}  // namespace pith::test

#include "base/roofline.h"

#include <gtest/gtest.h>

namespace pith {
namespace {

TEST(Roofline, IsMeasuredOnceForAThreadCount) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "every read of the measurement would be checked";
#endif
  const Roofline& one = roofline(1);
  EXPECT_GT(one.read_bytes, 0);
  EXPECT_EQ(&one, &roofline(1));
  EXPECT_NE(&one, &roofline(2));
#if defined(__x86_64__) || defined(__aarch64__)
  EXPECT_GE(one.flops, 0);
  EXPECT_EQ(one.flops > 0, one.word_ops > 0);
  EXPECT_EQ(one.flops > 0, one.byte_ops > 0);
#endif
}

}  // namespace
}  // namespace pith

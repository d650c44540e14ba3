#!/bin/sh
# The claims of the papers at full length: 16k tokens of the recall model, 20,000 generated tokens.
# Usage: claims_slow_test.sh PITH BUILD_DIR
set -eu
if [ ! -x "$2/methods_tests" ]; then
  echo "skipped: methods_tests is not built"
  exit 77
fi
PITH_SLOW_TESTS=1 "$2/methods_tests" --gtest_filter='Recall.*:*BoundedGeneration*'

#!/bin/sh
# The claims of the papers at full length: 16k tokens of the recall model, 20,000 generated tokens.
# Arguments: the program, the build folder.
set -eu
PITH_SLOW_TESTS=1 "$2/methods_tests" --gtest_filter='Recall.*:*TwentyThousand*'

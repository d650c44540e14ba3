#!/bin/sh
# Every method keeps the same rows whichever kernels compute its scores.
# Usage: instruction_sets_test.sh PITH BUILD_DIR
set -eu
if [ ! -x "$2/methods_tests" ]; then
  echo "skipped: methods_tests is not built"
  exit 77
fi
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

for isa in scalar avx2 avx512 neon; do
  PITH_ISA=$isa "$1" --version >/dev/null 2>&1 || continue  # another machine's
  PITH_ISA=$isa PITH_KEPT_ROWS="$dir/$isa" "$2/methods_tests" \
    --gtest_filter='Selection.IsWrittenDown*' >/dev/null
  [ "$(wc -l <"$dir/$isa")" -ge 200 ] || {
    echo "FAILED: $isa wrote $(wc -l <"$dir/$isa") lines"
    exit 1
  }
  cmp "$dir/scalar" "$dir/$isa" || {
    echo "FAILED: scalar and $isa keep other rows:"
    diff "$dir/scalar" "$dir/$isa" | cut -c1-200 | head -20
    exit 1
  }
done

#!/bin/sh
# The whole path on a prompt of 4,096 tokens: methods that look at attention keep all needles at a
# tenth of the cache, a window of the newest rows does not. Usage: demo_test.sh PITH BUILD_DIR
set -eu
pith=$1
if ! grep -q '^PITH_SANITIZE:STRING=$' "$2/CMakeCache.txt"; then
  echo "skipped: too long with sanitizers"
  exit 77
fi
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

"$pith" demo --exact --tokens 4096 --needles 20 --kv full --kv fastkv:budget=0.1,window=32 \
  --kv snapkv:budget=0.1 --kv streaming_llm:budget=0.1 -o json >"$dir/table.json"
python3 - "$dir/table.json" <<'PY'
import json, sys
full, fastkv, snapkv, streaming = json.load(open(sys.argv[1]))
assert [r["needles"] for r in (full, fastkv, snapkv)] == [20, 20, 20], (full, fastkv, snapkv)
assert streaming["needles"] <= 4, streaming  # those among the newest tenth
for row in (fastkv, snapkv, streaming):
    # Rows of 0.1 and their tables; the peak is less by what was never held of other layers.
    assert 0.095 < row["cache_bytes"] / full["cache_bytes"] < 0.11, row
    assert row["peak_bytes"] < 0.6 * full["peak_bytes"], row
PY

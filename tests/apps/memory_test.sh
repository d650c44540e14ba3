#!/bin/sh
# Saved memory is real: what the system says the process holds is what the allocator says, with the
# full cache and with a tenth of it. Usage: memory_test.sh PITH BUILD_DIR
set -eu
pith=$1
if ! grep -q '^PITH_SANITIZE:STRING=$' "$2/CMakeCache.txt"; then
  echo "skipped: sanitizers hold memory of their own"
  exit 77
fi
if ! echo 5 2>/dev/null >/proc/self/clear_refs; then
  echo "skipped: this system does not let a process reset its peak"
  exit 77
fi
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

# 8 layers of 4 heads of dimension 64: a full cache of 8 KiB per token, 48 MiB for the prompt.
python3 tests/support/make_checkpoint.py "$dir" 256 64 8 4 4 6144
"$pith" convert "$dir/model.bin" "$dir/f16.gguf" --type f16 >/dev/null
"$pith" quantize "$dir/f16.gguf" "$dir/model.gguf" q8_0 >/dev/null
"$pith" bench -m "$dir/model.gguf" -p 6144 -n 0 -r 1 -t 2 --no-bound \
  --kv full --kv snapkv:budget=0.1 -o json >"$dir/table.json"
python3 - "$dir/table.json" <<'PY'
import json, sys
MIB = 1 << 20
full, snapkv = json.load(open(sys.argv[1]))
# What the process needs besides what the allocator counts, whatever the prompt: code that runs for
# the first time, stacks of threads, tokens, the tables of pages.
ALLOWANCE = 4 * MIB
for row in (full, snapkv):
    allocator, resident = row["allocator_peak_bytes"], row["resident_peak_bytes"]
    print(row["spec"], allocator / MIB, resident / MIB)
    assert abs(resident - allocator) <= 0.05 * allocator + ALLOWANCE, row
# Rows of 48 MiB; hidden states, one layer's plain keys and values and the scratch come on top.
assert 48 * MIB <= full["cache_bytes"] < 51 * MIB, full
assert full["resident_peak_bytes"] > full["cache_bytes"], full
assert snapkv["cache_bytes"] < 0.11 * full["cache_bytes"], snapkv
# What is not kept was never held: nine tenths of seven layers, while the eighth is still plain.
saved = full["resident_peak_bytes"] - snapkv["resident_peak_bytes"]
assert saved > 0.9 * 0.9 * full["cache_bytes"], (full, snapkv)
PY

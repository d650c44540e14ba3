#!/bin/sh
# What coded pages cost on a trained model: docs/numerics.md, "What a format costs".
# Usage: formats_slow_test.sh PITH BUILD_DIR
data=${PITH_DATA:-../shared/data}
for needed in "$data/stories3m/stories3M-q80.bin" "$data/tinystories-1000/tinystories_1000.json"; do
  [ -f "$needed" ] || { echo "skipped: needs $needed; set PITH_DATA"; exit 77; }
done
. tests/support/common.sh

python3 -c 'import json, sys; [print(*s.split()) for s in json.load(open(sys.argv[1]))]' \
  "$data/tinystories-1000/tinystories_1000.json" >"$dir/stories.txt" || fail "stories"
"$pith" convert "$data/stories3m/stories3M-q80.bin" "$dir/m.gguf" \
  --tokenizer "$data/stories3m/tok4096.bin" --type f32 >/dev/null 2>&1 || fail "convert"
"$pith" perplexity -m "$dir/m.gguf" -f "$dir/stories.txt" --windows 4 --json \
  --kv full:cache=q8 --kv kivi:bits=8,group=32 --kv kivi:bits=4,group=32 \
  --kv kivi:group=32 --kv kivi:group=32,keys=rows >"$dir/costs" 2>"$dir/err" ||
  fail "perplexity: $(cat "$dir/err")"
python3 - "$dir/costs" <<'PY' || fail "a format costs more than it may"
import json, sys
rows = json.load(open(sys.argv[1]))

full, q8, eight, four, two, by_row = [r["nll"] for r in rows]
print({r["spec"]: round(r["nll"] - full, 5) for r in rows})
assert q8 - full <= 0.001 and eight - full <= 0.001
assert four - full <= 0.02
assert 2 * (two - full) < by_row - full
PY

[ "$failures" = 0 ]

#!/bin/sh
# pith trace: what it writes can be recomputed from the tensors it writes; its errors are sentences
# and leave no file. Usage: trace_test.sh PITH BUILD_DIR
. tests/support/common.sh

"$pith" demo --exact --tokens 512 --needles 1 --keep "$dir/recall.gguf" >/dev/null 2>&1 || fail "demo"
prompt="Luni toru."
for _ in 1 2 3 4 5 6; do prompt="hiri rezo. $prompt fegu nama </script>. Bafe kulo. zuse fegu"; done
prompt="$prompt Luni"
# What is recomputed in floats was computed in floats.
trace() {
  "$pith" trace --matmul f32 -m "$dir/recall.gguf" -p "$prompt" --kv snapkv:window=8,budget=30 "$@"
}

trace -o "$dir/t.npz" --tensors 1-2 --html "$dir/t.html" >"$dir/out" 2>"$dir/err" || fail "npz"
trace -o - >"$dir/t.json" 2>"$dir/err" || fail "json: $(cat "$dir/err")"
python3 tests/apps/trace_check.py "$dir/t.npz" "$dir/t.json" "$dir/t.html" 8 7 30 || fail "check"

# A router shortens the layers behind it; rows are named by their tokens all the same.
"$pith" trace -m "$dir/recall.gguf" -p "$prompt" --kv fastkv:window=8,budget=0.15 -o "$dir/f.json" ||
  fail "fastkv"
python3 - "$dir/f.json" <<'PY' || fail "rows after a router"
import json, sys
trace = json.load(open(sys.argv[1]))
last = trace["layers"][-1]
assert last["rows"] < len(trace["tokens"]) and len(last["row_tokens"]) == last["rows"]
for head in last["heads"]:
    assert set(head["kept"]) <= set(last["row_tokens"]) and 0 < head["mass_kept"] <= 1.0001
PY

m="-m $dir/recall.gguf -p Luni"
refused 2 "name a file with -o or --html" "$pith" trace $m
refused 2 "ends in neither .json nor .npz" "$pith" trace $m -o "$dir/x.txt"
refused 2 "are written to an .npz file" "$pith" trace $m -o "$dir/x.json" --tensors 0
refused 2 "names layers from 0 to 3" "$pith" trace $m -o "$dir/x.npz" --tensors 2,4
refused 2 "names layers from 0 to 3" "$pith" trace $m -o "$dir/x.npz" --tensors 3-1
refused 1 "No such file" "$pith" trace $m -o "$dir/none/x.json"
[ ! -e "$dir/x.npz" ] && [ ! -e "$dir/x.json" ] || fail "a refused trace left a file"

[ $failures = 0 ] && echo "ok"
exit $failures

#!/bin/sh
# pith run --save and --load: an answer in two parts is the answer in one; a kill in the middle of
# saving leaves the old file. Usage: session_test.sh PITH BUILD_DIR
. tests/support/common.sh

"$pith" demo --exact --tokens 512 --needles 1 --keep "$dir/recall.gguf" >/dev/null 2>&1 || fail "demo"
run() {
  "$pith" run -m "$dir/recall.gguf" --temp 0 -q "$@"
}
text="hiri rezo. Luni toru. fegu nama. Bafe kulo. zuse Luni"
kv="--kv snapkv:window=4,budget=16"

one=$(run -p "$text" -n 6 $kv)
first=$(run -p "$text" -n 1 $kv --save "$dir/s")
rest=$(run --load "$dir/s" -n 5)
[ "$one" = "$first$rest" ] || fail "'$first' and '$rest' are not '$one'"

run --load "$dir/s" $kv -p " Bafe" -n 1 >"$dir/out" || fail "the same spec is refused"
run --load "$dir/s" --kv knorm:budget=0.5 -n 1 2>"$dir/err" && fail "another spec is taken"
grep -q "leave --kv out" "$dir/err" || fail "$(cat "$dir/err")"
run --load "$dir/recall.gguf" -n 1 2>"$dir/err" && fail "a model is taken for a session"
grep -q "not a session" "$dir/err" || fail "$(cat "$dir/err")"

# Killed at any moment, --save leaves the old file or the new one.
cp "$dir/s" "$dir/kept"
for turns in 0 2000 5000 10000 20000; do
  run -p "$text" -n 1 $kv --save "$dir/kept" >/dev/null 2>&1 &
  pid=$!
  i=0
  while [ $i -lt $turns ]; do i=$((i + 1)); done
  kill -9 $pid 2>/dev/null
  wait $pid 2>/dev/null
  run --load "$dir/kept" -n 5 >"$dir/out" 2>"$dir/err" || fail "after a kill: $(cat "$dir/err")"
  [ "$(cat "$dir/out")" = "$rest" ] || fail "after a kill: $(cat "$dir/out")"
done

[ $failures = 0 ] && echo "ok"
exit $failures

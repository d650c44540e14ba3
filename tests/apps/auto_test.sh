#!/bin/sh
# pith calibrate profile and --kv auto: a profile that is stopped and goes on, a choice, refusals.
# Usage: auto_test.sh PITH BUILD_DIR
. tests/support/common.sh

"$pith" demo --exact --tokens 512 --needles 1 --keep "$dir/recall.gguf" >/dev/null 2>&1 || fail "demo"
profile() {
  "$pith" calibrate profile -m "$dir/recall.gguf" --lengths 512,768 --samples 1 \
    --task recall_few,passkey --only --kv snapkv:budget=0.3 --kv snapkv:budget=0.06 "$@"
}

# Without OUT the file lies beside the model. A task that the model cannot do is left out.
profile >"$dir/out" 2>"$dir/err" || fail "profile"
grep -q "left out.*: passkey" "$dir/err" || fail "passkey: $(cat "$dir/err")"
grep -q "snapkv:budget=0.3 *| yes" "$dir/out" || fail "the front: $(cat "$dir/out")"
[ -s "$dir/recall.cal.gguf" ] || fail "no recall.cal.gguf"
[ -e "$dir/recall.cal.gguf.profile.part" ] && fail "the part stays"

# Stopped, then again: the same specs and scores, and nothing half-written between.
profile "$dir/two.gguf" >"$dir/out2" 2>"$dir/err2" &
job=$!
while [ ! -e "$dir/two.gguf.profile.part" ] && kill -0 $job 2>/dev/null; do :; done
kill -9 $job 2>/dev/null && wait $job 2>/dev/null && fail "it had ended"
[ -e "$dir/two.gguf" ] && fail "something is written before it is complete"
profile "$dir/two.gguf" >"$dir/out2" 2>/dev/null || fail "profile again"
scores() { cut -d'|' -f2-7,9-11 "$1" | grep budget; }
scores "$dir/out" >"$dir/a"
scores "$dir/out2" | diff "$dir/a" - >&2 || fail "another profile after a kill"

text='hiri rezo. Luni toru. fegu nama. Bafe kulo. zuse Luni'
auto="auto:quality=0.9,calibration=$dir/recall.cal.gguf"
"$pith" run -m "$dir/recall.gguf" -p "$text" --temp 0 -q --kv "$auto" >"$dir/answer" 2>"$dir/err"
grep -q toru "$dir/answer" || fail "auto answered: $(cat "$dir/answer")"
grep -q "nothing was measured for a prompt of 15 tokens" "$dir/err" || fail "warning: $(cat "$dir/err")"
"$pith" eval -m "$dir/recall.gguf" --protocol aware --lengths 640 --samples 1 --seeds 7 --task recall_few \
  --kv "$auto" --json >"$dir/eval" || fail "eval"
json "$dir/eval" 'j[0]["score"] >= 90 and j[0]["cache_share"] < 0.8'

run="$pith run -m $dir/recall.gguf -p Luni"
refused 1 "'snapkv:budget=0.06' takes" $run --kv "auto:memory=1KiB,calibration=$dir/recall.cal.gguf"
refused 2 "needs something to aim at" $run --kv "auto:calibration=$dir/recall.cal.gguf"
refused 1 "holds no profile" sh -c "
  '$pith' calibrate tsp -m '$dir/recall.gguf' -p '$text' --window 2 '$dir/tsp.gguf' >/dev/null 2>&1
  $run --kv auto:quality=0.9,calibration=$dir/tsp.gguf"
"$pith" demo --exact --tokens 512 --needles 1 --seed 2 --keep "$dir/other.gguf" >/dev/null 2>&1
refused 1 "made for another model" "$pith" run -m "$dir/other.gguf" -p Luni --kv "$auto"
refused 1 "can do none of the tasks passkey" "$pith" calibrate profile -m "$dir/recall.gguf" \
  --lengths 512 --task passkey "$dir/none.gguf"
refused 2 "--lengths" "$pith" calibrate profile -m "$dir/recall.gguf" --lengths 1k "$dir/none.gguf"
refused 2 "'auto' chooses from what this measures" "$pith" calibrate profile -m "$dir/recall.gguf" \
  --only --kv "$auto" "$dir/none.gguf"
[ -e "$dir/none.gguf" ] && fail "a refusal wrote a file"

exit $((failures > 0))

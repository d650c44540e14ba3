#!/bin/sh
# A folded model reads a text like the one it was made of, and zack takes its calibration.
set -eu
pith=$1
data=${PITH_DATA:-../shared/data}/stories3m
[ -f "$data/stories3M-q80.bin" ] || { echo "needs $data; set PITH_DATA"; exit 77; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
fail() { echo "$1" >&2; exit 1; }

"$pith" convert "$data/stories3M-q80.bin" "$dir/m.gguf" --tokenizer "$data/tok4096.bin" --type f32 >/dev/null 2>&1
text="Once upon a time, a little girl named Lily found a needle in her room. She knew it was difficult to play with it because
it was sharp. Lily wanted to share the needle with her mom, so she could sew a button on her shirt. They were very happy."
"$pith" calibrate basis -m "$dir/m.gguf" -p "$text" --tokens 40 --prompts 1 --judged 4 --step 8 --target 0.5 \
  "$dir/m.cal.gguf" >/dev/null 2>&1
"$pith" convert "$dir/m.gguf" "$dir/folded.gguf" --fold "$dir/m.cal.gguf" --type f32 >"$dir/out" 2>/dev/null
grep -q 'folded.cal.gguf' "$dir/out" || fail "the calibration's name is not told"

nll() {  # model, spec
  "$pith" perplexity -m "$1" -p "$text" -c 80 --matmul f32 --kv "$2" --json 2>/dev/null |
    sed -n 's/.*"nll": *\([0-9.]*\).*/\1/p' | tail -1
}
same() { awk -v a="$1" -v b="$2" 'BEGIN { d = a - b; exit !(a > 0 && d < 1e-4 && d > -1e-4) }'; }
whole=$(nll "$dir/m.gguf" full:cache=f32)
same "$whole" "$(nll "$dir/folded.gguf" full:cache=f32)" || fail "folding changes the model"
some=$(nll "$dir/m.gguf" "zack:cache=f32,page=8,step=8,size=0.5,calibration=$dir/m.cal.gguf")
same "$whole" "$some" && fail "half of the numbers cannot be everything"
same "$some" "$(nll "$dir/folded.gguf" "zack:cache=f32,page=8,step=8,size=0.5,calibration=$dir/folded.cal.gguf")" ||
  fail "zack leaves out other directions of the folded model"

"$pith" convert "$dir/m.gguf" "$dir/x.gguf" --fold "$dir/folded.cal.gguf" 2>"$dir/err" && fail "another model's file"
grep -q 'made for another model' "$dir/err" || fail "$(cat "$dir/err")"
